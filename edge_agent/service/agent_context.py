"""What an agent has that outlives its links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b

from lamina.broker.wire.chunks import Joiner
from lamina.broker.wire.messages import DeviceProfile
from lamina.broker.wire.topics import Topics
from lamina.edge_agent.service.deploying import Deploying
from lamina.edge_agent.service.fetch import Fetcher
from lamina.edge_agent.service.learning import Learning
from lamina.edge_agent.service.orders import Orders
from lamina.edge_agent.service.pieces import Pieces
from lamina.edge_agent.service.rivals import Rivals
from lamina.edge_agent.session.events import Event
from lamina.edge_agent.session.session import Session


@dataclass(slots=True)
class TrafficCounters:
    """Counted since the agent started.

    Attributes:
        uplink_bytes: payload of updates.
        downlink_bytes: payload of layer values.
        refused: messages that could not be used, by their kind.
    """

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Arriving:
    """What of global values has come, whichever link it came over.

    Attributes:
        joiner: of their chunks; ``None`` before the model is known.
        pieces: chunks that are asked for by themselves.
        plan: epoch and round of the last one that was heard.
        useless: links in a row that died while values were gathered, before anything of them had come.
    """

    joiner: Joiner | None = None
    pieces: Pieces = field(default_factory=Pieces)
    plan: tuple[int, int] = (-1, -1)
    useless: int = 0

    @property
    def is_sparing(self) -> bool:
        """Whether values are asked for in small pieces from the beginning."""
        return self.useless >= _TOO_USELESS


_TOO_USELESS = 2


class Acknowledged:
    """Messages of the present round that the broker has, whichever link they went over: known by a digest each."""

    def __init__(self) -> None:
        self._round = -1, -1
        self._digests: set[bytes] = set()

    def begin(self, epoch: int, round_: int) -> None:
        """Forget all, if it is another round."""
        if self._round != (epoch, round_):
            self._round = epoch, round_
            self._digests.clear()

    def __contains__(self, message: bytes) -> bool:
        return _digest(message) in self._digests

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, message: bytes) -> None:
        """The broker has a message."""
        self._digests.add(_digest(message))


def _digest(message: bytes) -> bytes:
    return blake2b(message, digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class AgentContext:
    """What an agent's links share.

    Attributes:
        profile: of the device.
        topics: of the federation.
        learning: the learner in its thread.
        fetcher: of the bundle's files.
        tally: is counted on.
        orders: says which of them this board follows.
        deploying: follows deployments.
        rivals: whether another program has this device's name.
        session: says which values are wanted.
        arriving: what of global values has come.
        acknowledged: what of the present round's updates the broker has.
        feed: tells it what happened, and does what it wants.
    """

    profile: DeviceProfile
    topics: Topics
    learning: Learning
    fetcher: Fetcher
    tally: TrafficCounters
    session: Session
    orders: Orders
    deploying: Deploying
    rivals: Rivals
    arriving: Arriving
    acknowledged: Acknowledged
    feed: Callable[[Event], None]
