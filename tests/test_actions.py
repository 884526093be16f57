"""What a page orders beside the coordinator's own orders: export, deploy, undo, roll back, over the socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.coordinator.commands.run import seen
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.hosting import SOCKET
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.records.rolling_back import check_kept, roll_back
from lamina.coordinator.service.actions import Actions
from lamina.coordinator.service.leading import Leading
from lamina.coordinator.settings import DashboardSettings
from lamina.edge_agent.serving.shelf import Shelf
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError
from tests.enrolled import made
from tests.patience import PATIENCE_S
from tests.whole_federation import STRONG, Setup, small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


class Led:
    """A federation that is led with all its actions, and commands that find it by its folder."""

    def __init__(self, folder: Path, bundle: Bundle, home: Path | None = None) -> None:
        self.broker = MemoryBroker()
        self.setup = Setup(folder, bundle, self.broker.dial, budgets=(STRONG, STRONG), rounds=5000, local_steps=2)
        self.settings = self.setup.settings()
        self.folder, self.home, self.port = Path(self.settings.folder), home, 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Leading]:
        bundle, settings = self.setup.bundle, self.settings
        leading = Leading(self.setup.coordinator, partial(check_kept, settings), partial(roll_back, settings, bundle))
        actions = Actions(settings, self.broker.dial, leading.roll_back)
        async with self.setup.agents(), asyncio.timeout(PATIENCE_S):
            running = asyncio.create_task(
                seen(leading, self.folder, DashboardSettings(port=self.port), actions, self.home)
            )
            try:
                while not (self.folder / SOCKET).exists():
                    await asyncio.sleep(0.01)
                yield leading
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def order(self, name: str, **about: object) -> Overview:
        return await asyncio.to_thread(lambda: client.order(self.folder, name, **about))

    async def until(self, condition: Callable[[Overview], bool]) -> Overview:
        while not condition(overview := await asyncio.to_thread(client.overview, self.folder)):
            await asyncio.sleep(0.02)
        return overview

    def active(self) -> list[int]:
        return [Shelf(self.setup.folder / f"d{index}").state().number for index in range(2)]


async def test_a_model_is_exported_and_deployed_and_the_deployment_undone_while_training_goes_on(
    tmp_path: Path, bundle: Bundle
) -> None:
    led = Led(tmp_path, bundle)
    async with led.running():
        await led.until(lambda now: len(now.kept) > 0)
        told = await led.order("export")
        assert told.notice.startswith("exported after round ")
        assert (led.folder / "model.md").exists()
        await led.order("deploy", canary="1")
        done = await led.until(lambda now: now.deployment is not None and not now.deployment.under_way)
        assert done.deployment is not None
        assert done.deployment.rollout == "deployment 1 is done"
        assert set(done.deployment.answers) == {"d0", "d1"}
        assert led.active() == [1, 1]
        await led.order("undo-deployment")
        await led.until(lambda now: now.deployment is not None and not now.deployment.in_force)
        while led.active() != [0, 0]:
            await asyncio.sleep(0.02)
        assert (await led.order("pause")).state in ("paused", "training")


async def test_training_is_rolled_back_while_it_goes_on(tmp_path: Path, bundle: Bundle) -> None:
    led = Led(tmp_path, bundle)
    async with led.running():
        before = await led.until(lambda now: len(now.kept) >= 2 and now.round > 4)
        with pytest.raises(ConfigError, match="round 4999 is not kept; these are: "):
            await led.order("roll-back", round=4999)
        await led.order("pause")
        paused = await led.until(lambda now: now.state == "paused")
        back = paused.kept[-2]  # older ones may go meanwhile
        told = await led.order("roll-back", round=back)
        assert told.round == back < paused.round
        assert told.state == "paused"  # an order holds over it
        await led.order("resume")
        await led.until(lambda now: now.round > before.round)


async def test_orders_that_make_no_sense_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    led = Led(tmp_path, bundle)
    async with led.running():
        for name, about, said in (
            ("roll-back", {}, "say after which round"),
            ("deploy", {"quantise": "int3"}, "quantise: int8"),
            ("deploy", {"canary": ","}, "say how many"),
            ("export", {"round": 777}, "777"),
        ):
            with pytest.raises(ConfigError, match=said):
                await led.order(name, **about)
        await led.order("undo-deployment")
        assert (
            await led.until(lambda now: bool(now.notice))
        ).notice == "no model is deployed, so nothing can be undone"


async def test_the_fleet_says_when_certificates_end(tmp_path: Path, bundle: Bundle) -> None:
    home = made(tmp_path / "greenhouse", "d0")
    led = Led(tmp_path, bundle, home.folder)
    async with led.running():
        overview = await led.until(lambda now: len(now.devices) == 2)
        known = home.register.find("d0")
        assert known is not None
        assert [device.certificate_until for device in overview.devices] == [known.until, None]
