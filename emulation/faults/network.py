"""Links between services and the simulated broker: ordered, delayed, cut, half open, as TCP connections are.

`SimulatedNetwork.dial_from` is a `Dial`. A connection is two pipes; what is sent in one arrives in order, each packet
after a latency drawn from the seed and the connection's number, so that one fault more or less changes nothing
elsewhere.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from lamina.broker.link.seam import Delivery, Dial, Link, Will
from lamina.broker.wire.filters import matches, split_filter
from lamina.emulation.faults.broker import TAKEN_OVER, SimulatedBroker
from lamina.emulation.faults.virtual_time import Process, VirtualLoop, current_process
from lamina.models.errors import LinkError, TakenOver

KEEPALIVE_S = 30.0
CONNECT_S = 5.0
ANSWER_S = 2 * KEEPALIVE_S
PUBLISH_WINDOW = 20
_LEAST_GAP_S = 1e-6  # between two arrivals of one pipe, so that timers keep their order
_NAME = "simulated broker"


class SimulatedNetwork:
    """Every connection of a federation.

    Args:
        loop: the clock.
        broker: at the other end.
        seed: of all latencies.
        latency_s: the least and the most that a packet usually takes.
    """

    def __init__(
        self, loop: VirtualLoop, broker: SimulatedBroker, seed: int, latency_s: tuple[float, float] = (0.0005, 0.005)
    ) -> None:
        self.loop, self.broker = loop, broker
        self._seed, self._latency_s = seed, latency_s
        self._connections: dict[str, SimulatedConnection] = {}  # by place, the latest one
        self._made: dict[str, int] = {}
        self._away_until: dict[str, float] = {}
        self._slow_until: dict[str, float] = {}

    def dial_from(self, place: str) -> Dial:
        """A `Dial` of the program at a place, by whose name faults reach its connections."""

        @asynccontextmanager
        async def dial(client_id: str, will: Will | None = None) -> AsyncIterator[Link]:
            connection = await self._connect(place, client_id, will)
            try:
                yield SimulatedLink(connection)
            except asyncio.CancelledError:
                await connection.say_goodbye()
                raise
            else:
                await connection.say_goodbye()
            finally:
                connection.close()

        return dial

    # -- faults --------------------------------------------------------------------------------------------------------

    def cut(self, place: str, away_s: float) -> None:
        """End a program's connection with a reset, and refuse new ones for a while."""
        self._away_until[place] = self.loop.time() + away_s
        if (connection := self._connections.get(place)) is not None:
            connection.reset()

    def freeze(self, place: str, seconds: float) -> None:
        """Let nothing pass for a while, without an end seeing it before its keepalive does: a half-open link."""
        until = self.loop.time() + seconds
        self._away_until[place] = until
        if (connection := self._connections.get(place)) is not None:
            connection.freeze(until)

    def slow(self, place: str, seconds: float) -> None:
        """Have every packet take up to half a second for a while."""
        self._slow_until[place] = self.loop.time() + seconds

    # -- inside --------------------------------------------------------------------------------------------------------

    def latency_s(self, place: str, rng: random.Random) -> float:
        """How long the next packet takes."""
        if self.loop.time() < self._slow_until.get(place, -1.0):
            return rng.uniform(0.05, 0.5)
        return rng.uniform(*self._latency_s)

    async def _connect(self, place: str, client_id: str, will: Will | None) -> SimulatedConnection:
        number = self._made[place] = self._made.get(place, 0) + 1
        rng = random.Random(f"{self._seed} {place} {number}")
        await asyncio.sleep(2 * self.latency_s(place, rng))
        if self.loop.time() < self._away_until.get(place, -1.0):
            await asyncio.sleep(CONNECT_S)
            raise LinkError(f"{_NAME}: no answer within {CONNECT_S:g} s")
        if not self.broker.running:
            raise LinkError(f"{_NAME}: connection refused")
        connection = SimulatedConnection(self, place, rng, current_process())
        self._connections[place] = connection
        await connection.introduce(client_id, will)
        return connection


class SimulatedConnection:
    """One TCP connection, and MQTT's client on it.

    Args:
        network: it is part of.
        place: whose it is.
        rng: draws latencies.
        process: that holds the socket; the connection ends with it.
    """

    def __init__(self, network: SimulatedNetwork, place: str, rng: random.Random, process: Process | None) -> None:
        self._network, self._place, self._rng, self._process = network, place, rng, process
        self._loop, self._broker = network.loop, network.broker
        self._last = [0.0, 0.0]  # arrivals, upward and downward
        self._frozen_until = -1.0
        self._closed = ""  # at the client, why
        self._taken_over = False
        self._gone = False  # at the broker
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._numbers = 0
        self._window = asyncio.Semaphore(PUBLISH_WINDOW)
        self._arrived: deque[_SimulatedDelivery] = deque()
        self._changed = asyncio.Event()
        if process is not None:
            process.at_death.append(self._process_died)

    # The client's side.

    async def introduce(self, client_id: str, will: Will | None) -> None:
        """CONNECT, and wait for the CONNACK."""
        expiry_s = float(will.delay_s) if will is not None else 0.0
        answer = self._new_answer()
        number = self._numbers

        def connect() -> None:
            if self._broker.running:
                self._broker.connect(self, client_id, will, clean_start=expiry_s == 0, expiry_s=expiry_s)
                self._down(lambda: self._answered(number))
            else:
                self.end("connection refused")

        self._up(connect)
        try:
            async with asyncio.timeout(CONNECT_S):
                await answer
        except TimeoutError:
            self.close()
            raise LinkError(f"{_NAME}: no answer within {CONNECT_S:g} s") from None

    async def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        """PUBLISH at QoS 1, and wait for the PUBACK."""
        async with self._window:
            self.check_open()
            answer = self._new_answer()
            number = self._numbers

            def take() -> None:
                if self._broker.publish(self, topic, payload, retain):
                    self._down(lambda: self._answered(number))

            self._up(take)
            await self._await(number, answer)

    async def ask(self, question: Callable[[], None]) -> None:
        """SUBSCRIBE or UNSUBSCRIBE, and wait for the answer."""
        self.check_open()
        answer = self._new_answer()
        number = self._numbers

        def take() -> None:
            question()
            self._down(lambda: self._answered(number))

        self._up(take)
        await self._await(number, answer)

    async def next_delivery(self) -> _SimulatedDelivery:
        """What arrived next; what came before the connection dropped is still delivered."""
        while not self._arrived:
            self.check_open()
            self._changed.clear()
            await self._changed.wait()
        return self._arrived.popleft()

    def acknowledge(self, mid: int) -> None:
        """PUBACK."""
        if not self._closed:
            self._up(lambda: self._broker.acknowledge(self, mid))

    async def say_goodbye(self) -> None:
        """DISCONNECT that ends the session."""
        if not self._closed:
            self._up(lambda: self._broker.disconnect(self))
            await asyncio.sleep(0.001)

    def close(self) -> None:
        """The client closes its socket."""
        self._drop("closed")
        self._up(self._lost)

    def check_open(self) -> None:
        """Raises `LinkError` once the connection has dropped."""
        if self._closed:
            raise self._error()

    # The broker's side.

    def deliver(self, mid: int, topic: str, payload: bytes, retained: bool, duplicate: bool) -> None:
        """Send a PUBLISH to the client."""
        self._down(lambda: self._arrive(_SimulatedDelivery(self, mid, topic, payload, retained)))

    def end(self, reason: str) -> None:
        """The broker closes the connection."""
        self._gone = True
        self._down(lambda: self._drop(f"the connection dropped: {reason}", taken_over=reason == TAKEN_OVER))

    # What befalls it.

    def reset(self) -> None:
        """Both ends see it end; what is on its way is lost."""
        self._drop("the connection dropped: reset")
        self._lost()

    def freeze(self, until: float) -> None:
        """Nothing passes until then; an end whose keepalive is over before gives the connection up."""
        now = self._loop.time()
        self._frozen_until = max(self._frozen_until, until)
        if until - now > 1.5 * KEEPALIVE_S:
            self._loop.at(now + 1.5 * KEEPALIVE_S, self._lost)
            self._loop.at(now + self._rng.uniform(1.0, 2.0) * KEEPALIVE_S, self._drop, "the connection dropped")

    # Inside.

    def _up(self, call: Callable[[], None]) -> None:
        self._send(0, lambda: None if self._gone else call())

    def _down(self, call: Callable[[], None]) -> None:
        self._send(1, lambda: None if self._closed else call())

    def _send(self, way: int, call: Callable[[], None]) -> None:
        now = self._loop.time()
        arrival = max(now + self._network.latency_s(self._place, self._rng), self._last[way] + _LEAST_GAP_S)
        if self._frozen_until > now:
            arrival = max(arrival, self._frozen_until)
        self._last[way] = arrival
        self._loop.at(arrival, call)

    def _new_answer(self) -> asyncio.Future[None]:
        self._numbers += 1
        answer = self._answers[self._numbers] = self._loop.create_future()
        return answer

    def _answered(self, number: int) -> None:
        answer = self._answers.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(None)

    async def _await(self, number: int, answer: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await answer
        except TimeoutError:
            raise LinkError(f"{_NAME}: no answer within {ANSWER_S:g} s") from None
        finally:
            self._answers.pop(number, None)

    def _arrive(self, delivery: _SimulatedDelivery) -> None:
        self._arrived.append(delivery)
        self._changed.set()

    def _error(self) -> LinkError:
        kind = TakenOver if self._taken_over else LinkError
        return kind(f"{_NAME}: {self._closed}")

    def _drop(self, reason: str, *, taken_over: bool = False) -> None:
        """The client sees the connection end."""
        if self._closed:
            return
        self._closed, self._taken_over = reason, taken_over
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._error())
                answer.exception()  # seen, where whoever waited was cancelled meanwhile
        self._changed.set()

    def _lost(self) -> None:
        """The broker sees the connection end."""
        if not self._gone:
            self._gone = True
            self._broker.lost(self)

    def _process_died(self) -> None:
        """The system closes a dead program's sockets, and sends what was in them."""
        if not self._closed:
            self._closed = "the process died"
            self._up(self._lost)


class SimulatedLink:
    """See `lamina.broker.link.seam.Link`."""

    most_bytes = 0

    def __init__(self, connection: SimulatedConnection) -> None:
        self._connection = connection
        self._filters: dict[str, tuple[str, ...]] = {}

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Deliver at least once."""
        await self._connection.publish(topic, bytes(payload), retain)

    async def subscribe(self, *filters: str) -> None:
        """Receive what matches."""
        broker, peer = self._connection._broker, self._connection
        for name in filters:
            self._filters[name] = split_filter(name)

        def take() -> None:
            for name in filters:
                broker.subscribe(peer, name)

        if filters:
            await peer.ask(take)

    async def unsubscribe(self, *filters: str) -> None:
        """Stop receiving what matches."""
        broker, peer = self._connection._broker, self._connection
        for name in filters:
            self._filters.pop(name, None)

        def take() -> None:
            for name in filters:
                broker.unsubscribe(peer, name)

        if filters:
            await peer.ask(take)

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """What arrives, in order."""
        while True:
            delivery = await self._connection.next_delivery()
            parts = tuple(delivery.topic.split("/"))
            if any(matches(parts, levels) for levels in self._filters.values()):
                yield delivery
            else:  # of an earlier link's subscription, in a session that outlived it
                delivery.acknowledge()


class _SimulatedDelivery:
    """See `lamina.broker.link.seam.Delivery`."""

    __slots__ = ("_connection", "_mid", "payload", "retained", "topic")

    def __init__(self, connection: SimulatedConnection, mid: int, topic: str, payload: bytes, retained: bool) -> None:
        self.topic, self.payload, self.retained = topic, payload, retained
        self._mid = mid
        self._connection: SimulatedConnection | None = connection

    def acknowledge(self) -> None:
        """Once."""
        if self._connection is not None:
            self._connection.acknowledge(self._mid)
            self._connection = None
