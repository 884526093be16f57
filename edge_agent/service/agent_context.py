"""What an agent has that outlives its links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from lamina.broker.wire.messages import DeviceProfile
from lamina.broker.wire.topics import Topics
from lamina.edge_agent.service.deploying import Deploying
from lamina.edge_agent.service.fetch import Fetcher
from lamina.edge_agent.service.learning import Learning
from lamina.edge_agent.service.orders import Orders
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
    feed: Callable[[Event], None]
