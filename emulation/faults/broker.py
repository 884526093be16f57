"""A broker with MQTT 5's semantics as mosquitto has them, in one process, on a virtual clock.

What it does, and what tests/test_simulated_broker.py holds against a real mosquitto:

    sessions     outlive a connection for as long as the client asked; what is published meanwhile is queued, and what
                 was not acknowledged comes again, marked as a duplicate, before it
    retained     the last message of a topic, sent at every subscription to it; an empty one removes it
    QoS 1        a receive window for each client; order is kept
    wills        published when a client vanishes, or when its delay is over or its session ends, unless it is back
    takeover     a second client of one id ends the first one's connection and goes on with its session
    limits       a client that sends too large a packet is cut off; a full queue drops what is new
    memory       an orderly end keeps all of it, where the broker has a disk; a kill goes back to the last autosave

It is a machine of events and calls without a network; `lamina.emulation.faults.network` connects clients to it.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from lamina.broker.link.seam import Will
from lamina.broker.wire.filters import matches, split_filter

PACKET_OVERHEAD = 64
TAKEN_OVER = "Session taken over"
"""The reason that MQTT 5 gives."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the broker takes, as the project's own mosquitto is configured."""

    queued_messages: int = 100_000
    packet_bytes: int = 4 << 20
    inflight: int = 20


class Peer(Protocol):
    """The broker's end of a client's connection."""

    def deliver(self, mid: int, topic: str, payload: bytes, retained: bool, duplicate: bool) -> None:
        """Send a PUBLISH."""

    def end(self, reason: str) -> None:
        """Close the connection from the broker's side; the reason goes with a DISCONNECT."""


@dataclass(slots=True)
class _Message:
    topic: str
    payload: bytes
    retained: bool
    sent: bool = False


@dataclass
class _Session:
    """What the broker knows of a client, linked or not."""

    client: str
    filters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    inflight: OrderedDict[int, _Message] = field(default_factory=OrderedDict)
    queue: deque[_Message] = field(default_factory=deque)
    peer: Peer | None = None
    window: int = 20
    expiry_s: float = 0.0
    will: Will | None = None
    will_due: bool = False  # it vanished, and its will waits
    left: int = 0  # counts its connections, so that old timers mean nothing
    mids: int = 0

    def wants(self, parts: tuple[str, ...]) -> bool:
        return any(matches(parts, levels) for levels in self.filters.values())


class SimulatedBroker:
    """The broker.

    Args:
        later: calls something so many seconds later.
        limits: what it takes.
        keeps: whether it has a disk.

    Attributes:
        running: whether it takes connections.
        retained: messages by topic.
        dropped: messages that a full queue lost.
    """

    def __init__(
        self, later: Callable[[float, Callable[[], None]], object], limits: Limits | None = None, *, keeps: bool = True
    ) -> None:
        self._later, self._limits, self._keeps = later, limits or Limits(), keeps
        self._sessions: dict[str, _Session] = {}
        self._saved: tuple[dict[str, bytes], dict[str, _Session]] = ({}, {})
        self._life = 0
        self.retained: dict[str, bytes] = {}
        self.running = True
        self.dropped = 0

    # -- what clients send ---------------------------------------------------------------------------------------------

    def connect(
        self, peer: Peer, client: str, will: Will | None, *, clean_start: bool, expiry_s: float, window: int = 20
    ) -> bool:
        """Take a client in; whether a session of it was there."""
        session = self._sessions.get(client)
        if session is not None and session.peer is not None:
            other, session.peer = session.peer, None
            other.end(TAKEN_OVER)
            self._vanished(session, will_now=clean_start)
        if session is not None and clean_start:
            self._forget(session)
            session = None
        present = session is not None
        if session is None:
            session = self._sessions[client] = _Session(client)
        session.left += 1
        session.peer, session.window, session.expiry_s = peer, min(window, self._limits.inflight), expiry_s
        session.will, session.will_due = will, False
        for mid, message in session.inflight.items():
            peer.deliver(mid, message.topic, message.payload, message.retained, message.sent)
            message.sent = True
        self._feed(session)
        return present

    def publish(self, peer: Peer, topic: str, payload: bytes, retain: bool) -> bool:
        """Take a message; whether it is to be acknowledged."""
        session = self._session_of(peer)
        if session is None:
            return False
        if len(payload) + len(topic.encode()) + PACKET_OVERHEAD > self._limits.packet_bytes:
            session.peer = None
            peer.end("Packet too large")
            self._vanished(session)
            return False
        self._take(topic, payload, retain)
        return True

    def acknowledge(self, peer: Peer, mid: int) -> None:
        """A client has taken what was delivered."""
        session = self._session_of(peer)
        if session is not None and session.inflight.pop(mid, None) is not None:
            self._feed(session)

    def subscribe(self, peer: Peer, topic_filter: str) -> None:
        """Add a filter to a client's session, and send it what is retained there."""
        session = self._session_of(peer)
        if session is None:
            return
        levels = session.filters[topic_filter] = split_filter(topic_filter)
        for topic, payload in list(self.retained.items()):
            if matches(tuple(topic.split("/")), levels):
                self._queue(session, _Message(topic, payload, retained=True))
        self._feed(session)

    def unsubscribe(self, peer: Peer, topic_filter: str) -> None:
        """Take a filter from a client's session; what is queued for it still comes."""
        session = self._session_of(peer)
        if session is not None:
            session.filters.pop(topic_filter, None)

    def disconnect(self, peer: Peer) -> None:
        """A goodbye that ends the session with the connection, and without a will."""
        session = self._session_of(peer)
        if session is not None:
            session.peer, session.will = None, None
            self._forget(session)

    def lost(self, peer: Peer) -> None:
        """A connection has ended without a goodbye."""
        session = self._session_of(peer)
        if session is not None:
            session.peer = None
            self._vanished(session)

    def inject(self, topic: str, payload: bytes) -> None:
        """Take a message of a client that is no part of the federation."""
        if self.running:
            self._take(topic, payload, False)

    # -- what befalls it -----------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Autosave."""
        if self._keeps and self.running:
            sessions = {}
            for client, session in self._sessions.items():
                if session.expiry_s > 0:
                    peer, session.peer = session.peer, None
                    sessions[client] = copy.deepcopy(session)
                    session.peer = peer
            self._saved = dict(self.retained), sessions

    def stop(self) -> None:
        """End as SIGTERM makes it: every connection closes, wills without delay are published, all is saved."""
        peers = [session.peer for session in self._sessions.values() if session.peer is not None]
        for session in list(self._sessions.values()):
            if session.peer is not None:
                session.peer = None
                if session.will is not None:
                    self._take(session.will.topic, session.will.payload, True)
                session.will = None
        self.save()
        self._end(peers)

    def kill(self) -> None:
        """End as SIGKILL makes it."""
        self._end([session.peer for session in self._sessions.values() if session.peer is not None])

    def start(self) -> None:
        """Come back with what was saved."""
        retained, sessions = self._saved if self._keeps else ({}, {})
        self.retained, self._sessions = dict(retained), copy.deepcopy(sessions)
        self.running = True
        self._life += 1
        for session in self._sessions.values():
            session.left += 1
            self._expire_later(session)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _end(self, peers: list[Peer]) -> None:
        self.running = False
        self._sessions, self.retained = {}, {}
        for peer in peers:
            peer.end("Server shutting down")

    def _session_of(self, peer: Peer) -> _Session | None:
        return next((session for session in self._sessions.values() if session.peer is peer), None)

    def _take(self, topic: str, payload: bytes, retain: bool) -> None:
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        parts = tuple(topic.split("/"))
        for session in list(self._sessions.values()):
            if session.wants(parts) and (session.peer is not None or session.expiry_s > 0):
                self._queue(session, _Message(topic, payload, retained=False))
                self._feed(session)

    def _queue(self, session: _Session, message: _Message) -> None:
        if len(session.queue) >= self._limits.queued_messages:
            self.dropped += 1
        else:
            session.queue.append(message)

    def _feed(self, session: _Session) -> None:
        """Send as much as the window takes."""
        while session.peer is not None and session.queue and len(session.inflight) < session.window:
            message = session.queue.popleft()
            session.mids = session.mids % 65535 + 1
            session.inflight[session.mids] = message
            message.sent = True
            session.peer.deliver(session.mids, message.topic, message.payload, message.retained, False)

    def _vanished(self, session: _Session, *, will_now: bool = False) -> None:
        """The connection is gone: its will is due, at once or later."""
        session.left += 1
        delay_s = 0.0 if session.will is None or will_now else min(session.will.delay_s, session.expiry_s)
        if session.will is not None:
            session.will_due = True
            if delay_s <= 0:
                self._publish_will(session)
            else:
                self._after(delay_s, session, self._publish_will)
        if session.expiry_s <= 0:
            self._sessions.pop(session.client, None)
        else:
            self._expire_later(session)

    def _expire_later(self, session: _Session) -> None:
        self._after(session.expiry_s, session, self._forget)

    def _after(self, seconds: float, session: _Session, call: Callable[[_Session], None]) -> None:
        life, left = self._life, session.left

        def check() -> None:
            if self.running and (life, left) == (self._life, session.left):
                call(session)

        self._later(seconds, check)

    def _forget(self, session: _Session) -> None:
        """The session ends, and what is left of its will is published."""
        session.left += 1
        if self._sessions.get(session.client) is session:
            del self._sessions[session.client]
        if session.will_due:
            self._publish_will(session)

    def _publish_will(self, session: _Session) -> None:
        will, session.will, session.will_due = session.will, None, False
        if will is not None:
            self._take(will.topic, will.payload, True)
