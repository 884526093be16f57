"""What tests share: brokers for those that need one, and what is left to CI or left out of coverage.

Brokers live as long as the test session (of each worker), so use topics of your own (`root`).
"""

from __future__ import annotations

import gc
import logging
import os
import socket
from collections.abc import Iterator
from itertools import count
from typing import Never

import pytest
from hypothesis import settings

from lamina.broker.brokers.starter import Kind, RunningBroker, find_mosquitto, has_amqtt, running_broker
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial

# A property that breaks rarely is searched for in CI; on a laptop a third of the examples will do.
settings.register_profile("laptop", max_examples=34, deadline=None)  # timings are no facts; CI's own profile has none
if not os.environ.get("CI"):
    settings.load_profile("laptop")

_numbers = count()
_real = pytest.mark.broker


_BROKERS = {"mosquitto", "mosquitto_program", "amqtt", "any_broker", "installed_broker"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a real broker, and leave coverage out of those of networks.

    Coverage sees every call of torch's, which takes half as long again, and finds nothing: the files that it is of are
    pure.
    """
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if hasattr(item.module, "torch"):
            item.add_marker("no_cover")
        if _BROKERS & set(item.fixturenames):
            item.add_marker("broker")


def missing(what: str) -> Never:
    """Skip on a laptop; fail in CI, where nothing may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI=true says that nothing may be missing")
    pytest.skip(what)


@pytest.fixture(scope="session")
def mosquitto_program() -> str:
    return find_mosquitto() or missing("mosquitto isn't installed")


@pytest.fixture(scope="session")
def mosquitto(mosquitto_program: str) -> Iterator[RunningBroker]:
    with running_broker("mosquitto") as broker:
        yield broker


@pytest.fixture(scope="session")
def amqtt() -> Iterator[RunningBroker]:
    if not has_amqtt():
        missing("amqtt isn't installed")
    with running_broker("amqtt") as broker:
        yield broker


@pytest.fixture(scope="session", params=[pytest.param(kind, marks=_real) for kind in ("mosquitto", "amqtt")])
def any_broker(request: pytest.FixtureRequest) -> RunningBroker:
    """Each real broker in turn."""
    broker: RunningBroker = request.getfixturevalue(request.param)
    return broker


@pytest.fixture(scope="session")
def installed_broker() -> Kind:
    """The real broker that is at hand, where a test needs one and not a certain one."""
    if find_mosquitto():
        return "mosquitto"
    return "amqtt" if has_amqtt() else missing("neither mosquitto nor amqtt is installed")


@pytest.fixture(params=["memory", *(pytest.param(kind, marks=_real) for kind in ("mosquitto", "amqtt"))])
def any_dial(request: pytest.FixtureRequest) -> Dial:
    """A `Dial` to each broker in turn: one in memory, and the real ones."""
    if request.param == "memory":
        return MemoryBroker().dial
    broker: RunningBroker = request.getfixturevalue(request.param)
    return mqtt_dial(broker.address)


@pytest.fixture
def root() -> str:
    """A topic root, and a client id or federation name, that no other test uses."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def any_closed_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What goes wrong is raised, not logged: not by aiomqtt, nor by asyncio for exceptions that nobody looked at."""
    yield
    gc.collect()
    records = caplog.get_records("call") + caplog.get_records("teardown")
    assert [record.getMessage() for record in records if record.levelno >= logging.WARNING] == []
