"""Spares system calls: what paho reads comes from a buffer, and small packets are written together."""

from __future__ import annotations

from collections import deque
from typing import Any

_PUBLISH, _PUBACK = 0x30, 0x40
_BUFFER_BYTES = 1 << 16  # read at once
_SMALL_BYTES = 1 << 13  # packets up to this size are written together,
_MOST_JOINED = 32  # so many


class Incoming:
    """What paho reads, byte by byte, from a buffer: it would ask the socket three or four times a packet."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._receive = client._sock_recv
        self._held = memoryview(b"")
        client._sock_recv = self.take

    def take(self, most_bytes: int) -> bytes:
        """Read in place of the client's own `_sock_recv`; empty at the stream's end."""
        if not self._held:
            self._held = memoryview(self._receive(max(most_bytes, _BUFFER_BYTES)))
        taken, self._held = self._held[:most_bytes], self._held[most_bytes:]
        return bytes(taken)

    def pending(self) -> bool:
        """Whether there is more to read, which no event of the socket will tell of."""
        sock = self._client._sock
        return sock is not None and (len(self._held) > 0 or (hasattr(sock, "pending") and sock.pending() > 0))


def join_small(packets: deque[Any]) -> None:
    """Have acknowledgements and small messages that wait to be written go to the socket together."""
    joined: list[Any] = []
    while packets and packets[0]["pos"] == 0 and _is_small(packets[0]) and len(joined) < _MOST_JOINED:
        joined.append(packets.popleft())
    if len(joined) < 2:
        packets.extendleft(joined)
        return
    content = b"".join(packet["packet"] for packet in joined)
    packets.appendleft(joined[-1] | {"packet": content, "to_process": len(content)})


def _is_small(packet: Any) -> bool:
    """Whether a packet is small and only has to be written, unlike a goodbye."""
    kind, size = packet["command"] & 0xF0, len(packet["packet"])
    return size <= _SMALL_BYTES and (kind == _PUBACK or (kind == _PUBLISH and packet["qos"] > 0))
