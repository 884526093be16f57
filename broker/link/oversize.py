"""Recognises a broker that takes no message so large: before MQTT 5 it says nothing, and ends the connection.

A link that dies is nothing rare. One that dies again and again while the same message is the oldest on its way, and
none as large has ever passed, points at that message. So does one on which no message has passed that was to be kept:
some brokers keep none, and before MQTT 5 say so in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lamina.models.errors import ConfigError, LinkError

SUSPICIOUS = 3  # deaths in a row at the same message: the error says so
CERTAIN = 6  # and then it is the operator's

_SMALL_BYTES = 1024  # every broker takes as much


class MessageTooLarge(LinkError, ConfigError):
    """Every connection ends while the same message is on its way."""


@dataclass(frozen=True, slots=True)
class OversizeVerdict:
    """Which message the links died at, how many of them in a row, and whether for its size."""

    topic: str
    payload_bytes: int
    deaths: int
    is_large: bool = True

    def error(self, what: str) -> LinkError:
        """``what`` happened, and what points at the message."""
        if not self.is_large:
            return LinkError(
                f"{what}, {self.deaths} times in a row while a message for {self.topic} was on its way that the broker "
                "is to keep, and none has passed: it may keep no messages (mosquitto: retain_available), or deny this "
                "client the topic; let it keep messages, or choose another broker"
            )
        advice = (
            f"{what}, {self.deaths} times in a row while a message of {self.payload_bytes} bytes for {self.topic} was "
            "on its way, and none so large has passed: the broker's limit may be lower (mosquitto: message_size_limit, "
            "max_packet_size); lower wire.chunk_kib of federation.toml, or raise the limit"
        )
        return MessageTooLarge(advice) if self.deaths >= CERTAIN else LinkError(advice)


@dataclass(slots=True)
class Deaths:
    """What is known from link to link."""

    _on_the_way: dict[tuple[str, int], int] = field(default_factory=dict)  # messages, and how many of them
    _to_be_kept: set[tuple[str, int]] = field(default_factory=set)  # those that are retained
    _has_kept: bool = False  # the broker has taken one of those
    _largest_passed_bytes: int = 0
    _suspect: tuple[str, int] | None = None
    _count: int = 0
    _told: OversizeVerdict | None = None  # of the present link

    def begin(self) -> None:
        """There is a new link."""
        self._on_the_way.clear()
        self._to_be_kept.clear()
        self._told = None

    def sending(self, topic: str, payload_bytes: int, *, retain: bool = False) -> None:
        """A message begins its way."""
        key = (topic, payload_bytes)
        if retain and not self._has_kept:
            self._to_be_kept.add(key)
        self._on_the_way[key] = self._on_the_way.get(key, 0) + 1

    def passed(self, topic: str, payload_bytes: int) -> None:
        """The broker has a message."""
        if (topic, payload_bytes) in self._to_be_kept:
            self._has_kept = True
            self._to_be_kept.clear()
        self.withdrawn(topic, payload_bytes)
        self._largest_passed_bytes = max(self._largest_passed_bytes, payload_bytes)
        if self._suspect is not None and payload_bytes >= self._suspect[1]:
            self._suspect, self._count = None, 0

    def withdrawn(self, topic: str, payload_bytes: int) -> None:
        """Nobody waits for a message any more."""
        key = (topic, payload_bytes)
        left = self._on_the_way.pop(key, 0) - 1
        if left > 0:
            self._on_the_way[key] = left

    def verdict(self) -> OversizeVerdict | None:
        """The present link has died; asked again, the answer is the same."""
        if self._told is None:
            oldest = next(iter(self._on_the_way), None)
            is_large = oldest is not None and oldest[1] > max(self._largest_passed_bytes, _SMALL_BYTES)
            if oldest is None or not (is_large or oldest in self._to_be_kept):
                self._suspect, self._count = None, 0
            elif oldest == self._suspect:
                self._count += 1
            else:
                self._suspect, self._count = oldest, 1
            self._told = OversizeVerdict(*(self._suspect or ("", 0)), self._count, is_large)
        return self._told if self._told.deaths >= SUSPICIOUS else None
