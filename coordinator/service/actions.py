"""What an operator has done from the page while a federation trains, beside the coordinator's own orders.

A model is exported in a thread; a deployment goes on beside the rounds, one at a time. What comes of it is a notice for
the page, and a line in the log. A rollout that was broken off is gone on with as soon as the program starts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from lamina.broker.link.seam import Dial
from lamina.coordinator.dashboard.asked import Asked
from lamina.coordinator.deployment.asking import canaries_of
from lamina.coordinator.deployment.rollout import RolloutRules
from lamina.coordinator.records.deployments import DeploymentFiles
from lamina.coordinator.records.exporting import export_round
from lamina.coordinator.records.offering import Wish
from lamina.coordinator.service.deploying import Deployer
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError, LaminaError, require

log = logging.getLogger("lamina.coordinator")

NAMES = ("export", "deploy", "undo-deployment", "roll-back")


class Actions:
    """Carries them out, from within the coordinator's event loop.

    Args:
        settings: of the federation.
        dial: opens a link to the broker.
        roll_back: has the run go on after an earlier round.

    Attributes:
        notice: what came of the last one, for a person.
    """

    def __init__(self, settings: FederationSettings, dial: Dial, roll_back: Callable[[int], Awaitable[None]]) -> None:
        self._settings, self._dial, self._roll_back = settings, dial, roll_back
        self._task: asyncio.Task[None] | None = None
        self.notice = ""

    async def obey(self, name: str, asked: Asked) -> None:
        """Do it, or begin with it.

        Raises:
            ConfigError: it makes no sense now.
        """
        match name:
            case "export":
                paths, said = await asyncio.to_thread(export_round, self._settings, round_=asked.round, best=asked.best)
                self._tell(f"exported {said}: {' and '.join(map(str, paths))}")
            case "deploy":
                require(asked.quantise in ("", "int8"), "quantise: int8, or nothing")
                wish = Wish(asked.round, asked.best, asked.quantise)
                canaries = canaries_of(asked.canary)
                self._begin(lambda deployer: deployer.deploy(wish, canaries, RolloutRules()))
            case "undo-deployment":
                await self._end()
                self._begin(lambda deployer: deployer.undo())
            case "roll-back":
                if asked.round is None:
                    raise ConfigError("say after which round to go on")
                await self._roll_back(asked.round)
                self._tell(f"goes on after round {asked.round}; what came later is set aside")

    def resume(self) -> None:
        """Go on with a rollout that was broken off, and say again what is in force."""
        if DeploymentFiles(Path(self._settings.folder)).state().last_number:
            self._begin(lambda deployer: deployer.resume())

    async def settled(self) -> None:
        """Wait for the end of a deployment that goes on."""
        if self._task is not None and not self._task.done():
            log.info("waiting for the end of a deployment; Ctrl-C breaks it off, and the next start goes on with it")
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """Break off what goes on."""
        await self._end()

    def _begin(self, work: Callable[[Deployer], Awaitable[object]]) -> None:
        if self._task is not None and not self._task.done():
            raise ConfigError("a deployment goes on already: wait for its end, or undo it")
        self._task = asyncio.create_task(self._carried_out(work), name="deployment")

    async def _carried_out(self, work: Callable[[Deployer], Awaitable[object]]) -> None:
        try:
            await work(Deployer(self._settings, self._dial, self._tell))
        except (LaminaError, OSError) as error:
            self._tell(str(error))
        except BaseExceptionGroup as raised:
            log.exception("a deployment met a fault of this program")
            self._tell(f"the deployment ended: {raised.exceptions[0]}")

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self, line: str) -> None:
        log.info("%s", line)
        self.notice = line
