"""The program in which a few virtual devices live: it runs the agents of a file, each to its end.

    python -m lamina.emulation.host agents.json

It ends early when it is told to (SIGTERM), and when its standard input closes: whoever started it holds the other end,
so that no device outlives its emulation, however that came to its end.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.settings import AgentSettings
from lamina.edge_agent.training.learner import Learner
from lamina.models.errors import LaminaError
from lamina.models.sources import load_samples

log = logging.getLogger("lamina.host")


def main(learner: type[Learner] = Learner) -> int:
    """Run the program; the exit status is 0, or 1 if an agent failed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    agents = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=tuple[AgentSettings, ...])
    return asyncio.run(_live(agents, learner))


async def host(
    agents: Sequence[AgentSettings],
    dial_to: Callable[[BrokerAddress], Dial],
    on_failure: Callable[[str], None],
    learner: type[Learner] = Learner,
) -> None:
    """Run agents side by side, each to its end.

    Args:
        agents: the devices.
        dial_to: a `Dial` to a broker's address.
        on_failure: told, in one line, of each agent that comes to a bad end; that is no other agent's business.
        learner: how they learn.
    """
    async with asyncio.TaskGroup() as group:
        for settings in agents:
            running = _run_one(settings, dial_to(settings.broker), on_failure, learner)
            group.create_task(running, name=settings.device)


async def _run_one(
    settings: AgentSettings, dial: Dial, on_failure: Callable[[str], None], learner: type[Learner]
) -> None:
    try:
        await Agent(settings, load_samples(settings.data), dial, learner=learner).run()
    except LaminaError as error:
        on_failure(f"{settings.device}: {error}")
    except Exception as error:
        log.exception("%s failed", settings.device)
        on_failure(f"{settings.device}: {type(error).__name__}: {error}")


async def _live(agents: Sequence[AgentSettings], learner: type[Learner]) -> int:
    failures: list[str] = []
    hosting = asyncio.create_task(host(agents, mqtt_dial, failures.append, learner), name="host")
    watching = asyncio.create_task(_input_closes(), name="watch the parent")
    watching.add_done_callback(lambda task: task.cancelled() or hosting.cancel())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, hosting.cancel)
    try:
        await hosting
    except asyncio.CancelledError:
        log.info("told to end")
    finally:
        watching.cancel()
    for failure in failures:
        log.error("%s", failure)
    return 1 if failures else 0


async def _input_closes() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1024):
        pass


if __name__ == "__main__":
    sys.exit(main())
