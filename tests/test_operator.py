"""An operator sees a federation and steers it: through the socket of its folder, on a port, and by the commands."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lamina.broker.link.memory import MemoryBroker
from lamina.coordinator.commands.run import seen
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.client import NobodyRuns
from lamina.coordinator.dashboard.hosting import SOCKET, socket_path
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.dashboard.source import cycles_after, overview_of, rounds_after
from lamina.coordinator.records.orders import StandingOrders, read_orders, write_orders
from lamina.coordinator.records.records import RoundRecord
from lamina.coordinator.settings import DashboardSettings
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError
from tests.patience import PATIENCE_S
from tests.whole_federation import Setup, small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


class Run:
    """A federation that runs with its dashboard; ``rounds`` are those that were recorded."""

    def __init__(self, setup: Setup, settings: DashboardSettings) -> None:
        self.setup, self.settings = setup, settings
        self.folder = setup.folder / "coordinator"
        self.rounds: list[RoundRecord] = []
        setup.observe = self.rounds.append

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[object]]:
        async with self.setup.agents():
            task = self.start()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await until((self.folder / SOCKET).exists)
                    yield task
            finally:
                await self.stop()

    def start(self) -> asyncio.Task[object]:
        """A coordinator, in place of the one before."""
        self._task: asyncio.Task[object] = asyncio.create_task(
            seen(self.setup.coordinator(), self.folder, self.settings)
        )
        return self._task

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def overview(self) -> Overview:
        return await asyncio.to_thread(client.overview, self.folder)

    async def order(self, name: str, device: str = "") -> Overview:
        return await asyncio.to_thread(lambda: client.order(self.folder, name, device=device))


async def until(happened: Callable[[], bool]) -> None:
    while not happened():
        await asyncio.sleep(0.01)


def run_of(tmp_path: Path, bundle: Bundle, *, rounds: int = 400, port: int = 0, **dashboard: object) -> Run:
    setup = Setup(tmp_path, bundle, MemoryBroker().dial, rounds=rounds)
    return Run(setup, DashboardSettings(port=port, **dashboard))  # type: ignore[arg-type]


async def test_a_paused_federation_finishes_its_round_begins_none_and_goes_on(tmp_path: Path, bundle: Bundle) -> None:
    run = run_of(tmp_path, bundle)
    async with run.running() as task:
        await until(lambda: len(run.rounds) > 2)
        await run.order("pause")
        while (await run.overview()).state != "paused":
            await asyncio.sleep(0.01)
        done = (await run.overview()).round
        await asyncio.sleep(0.5)
        paused = await run.overview()
        assert (paused.round, paused.state, paused.waiting) == (
            done,
            "paused",
            "paused by the operator: `lamina resume` goes on",
        )
        assert not task.done()
        await run.order("resume")
        await until(lambda: len(run.rounds) > done + 2)


async def test_a_pause_holds_over_a_restart(tmp_path: Path, bundle: Bundle) -> None:
    run = run_of(tmp_path, bundle)
    async with run.running():
        await until(lambda: len(run.rounds) > 1)
        await run.order("pause")
    done = len(rounds_after(run.folder, 0))
    async with run.running():
        await asyncio.sleep(0.5)
        assert (await run.overview()).state == "paused"
        assert len(rounds_after(run.folder, 0)) == done
        await run.order("resume")
        await until(lambda: len(rounds_after(run.folder, 0)) > done)


async def test_a_device_that_is_put_aside_waits_and_takes_part_again_when_it_is_taken_back(
    tmp_path: Path, bundle: Bundle
) -> None:
    run = run_of(tmp_path, bundle)
    async with run.running():
        await until(lambda: len(run.rounds) > 2)
        told = await run.order("put-aside", "d1")
        assert told.aside == ("d1",)
        assert {device.id: device.state for device in told.devices}["d1"] == "refused"
        await until(lambda: run.rounds[-1].cohort == ("d0", "d2"))
        await run.order("readmit", "d1")
        await until(lambda: run.rounds[-1].cohort == ("d0", "d1", "d2"))
        before = {device.id: device.rounds_done for device in (await run.overview()).devices}["d1"]
        while {device.id: device.rounds_done for device in (await run.overview()).devices}["d1"] <= before:
            await asyncio.sleep(0.05)


async def test_orders_that_make_no_sense_are_one_line(tmp_path: Path, bundle: Bundle) -> None:
    run = run_of(tmp_path, bundle)
    async with run.running():
        await until(lambda: len(run.rounds) > 0)
        for order, device, said in (
            ("put-aside", "nobody", "no device is called 'nobody'; these are known: d0, d1, d2"),
            ("readmit", "d0", "'d0' was not put aside; these were: nobody"),
            ("explode", "", "there is no order 'explode'; there are pause, resume, put-aside, readmit"),
        ):
            with pytest.raises(ConfigError) as raised:
                await run.order(order, device)
            assert str(raised.value) == said


async def test_what_is_seen_is_what_happened(tmp_path: Path, bundle: Bundle) -> None:
    run = run_of(tmp_path, bundle, rounds=6)
    async with run.running() as task:
        await task
    assert not (run.folder / SOCKET).exists()
    with pytest.raises(NobodyRuns, match="no coordinator runs in"):
        await run.overview()
    overview = overview_of(run.folder, "whole", bundle, 6)
    rounds, cycles = rounds_after(run.folder, 0), cycles_after(run.folder, 0)
    assert (overview.round, overview.live, overview.state) == (6, False, "finished")
    assert [record["round"] for record in rounds] == list(range(6))
    assert [record["round"] for record in rounds_after(run.folder, 4)] == [4, 5]
    assert rounds[-1]["accuracy"] == overview.judge.last
    assert tuple(layer.interval for layer in overview.layers) == cycles[-1].intervals
    assert [layer.aggregations for layer in overview.layers] == [
        sum(index in record["due"] for record in rounds) for index in range(3)
    ]
    assert [device.id for device in overview.devices] == ["d0", "d1", "d2"]


async def test_bytes_are_counted_by_device_and_by_layer(tmp_path: Path, bundle: Bundle) -> None:
    run = run_of(tmp_path, bundle)
    async with run.running():
        await until(lambda: len(run.rounds) > 3)
        await run.order("pause")
        while (await run.overview()).state != "paused":
            await asyncio.sleep(0.01)
        overview = await run.overview()
        by_device = sum(device.uplink_bytes or 0 for device in overview.devices)
        by_layer = sum(layer.uplink_bytes or 0 for layer in overview.layers)
        assert by_device == overview.uplink_bytes
        assert abs(by_layer - by_device) <= 2 * 3 * overview.round  # a rounded share of each batch


async def test_only_its_owner_may_use_the_socket(tmp_path: Path, bundle: Bundle) -> None:
    run = run_of(tmp_path, bundle)
    async with run.running():
        assert stat.S_IMODE(os.stat(run.folder / SOCKET).st_mode) == 0o600


async def test_prometheus_reads_the_figures(tmp_path: Path, bundle: Bundle) -> None:
    run = run_of(tmp_path, bundle)
    async with run.running():
        await until(lambda: len(run.rounds) > 1)
        text = (await asyncio.to_thread(client.ask, run.folder, "/metrics")).decode()
    figures = {
        (sample.name, sample.labels.get("device", sample.labels.get("layer", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert figures["lamina_round", ""] >= 2
    assert figures["lamina_uplink_bytes_total", ""] > 0
    assert figures["lamina_device_online", "d2"] == 1.0
    assert {key for name, key in figures if name == "lamina_layer_interval_steps"} == {"0", "2", "4"}


def test_a_folder_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    path = socket_path(deep)
    assert len(os.fsencode(path)) < 100
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert socket_path(deep) == path != socket_path(tmp_path / ("e" * 120))


# -- on a port ---------------------------------------------------------------------------------------------------------


async def test_a_page_of_another_site_may_neither_look_nor_order(
    tmp_path: Path, bundle: Bundle, unused_tcp_port: int
) -> None:
    run = run_of(tmp_path, bundle, port=unused_tcp_port)
    here = f"http://127.0.0.1:{unused_tcp_port}"
    async with run.running(), aiohttp.ClientSession() as session:
        assert (await session.get(f"{here}/")).status == 200
        assert (await session.get(f"{here}/", headers={"Host": "evil.example"})).status == 421
        assert (await session.post(f"{here}/api/orders/pause")).status == 403
        assert (await session.post(f"{here}/api/orders/pause", headers={"X-Lamina": "1"}, data=b"[")).status == 400
        assert (await run.overview()).state != "paused"
        assert (await session.get(f"{here}/static/../../../settings.py")).status == 404
        assert (await session.get(f"{here}/api/rounds?after=x")).status == 400


async def test_with_a_token_nothing_is_shown_without_it(tmp_path: Path, bundle: Bundle, unused_tcp_port: int) -> None:
    token = tmp_path / "token"
    token.write_text("correct-horse-battery\n")
    run = run_of(tmp_path, bundle, port=unused_tcp_port, token_file=str(token))
    here = f"http://127.0.0.1:{unused_tcp_port}"
    jar = aiohttp.CookieJar(unsafe=True)
    async with run.running(), aiohttp.ClientSession(cookie_jar=jar) as session:
        for path in ("/", "/api/overview", "/api/log", "/metrics", "/static/app.js"):
            assert (await session.get(here + path)).status == 401
        assert (await session.get(f"{here}/?token=wrong-horse-battery!")).status == 401
        bearer = {"Authorization": "Bearer correct-horse-battery"}
        assert (await session.get(f"{here}/metrics", headers=bearer)).status == 200
        page = await session.get(f"{here}/?token=correct-horse-battery")
        assert (page.status, str(page.url)) == (200, f"{here}/")
        assert (await session.get(f"{here}/api/overview")).status == 200  # by the cookie


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "0.0.0.0"}, "lets a network in: give dashboard.cert_file and dashboard.key_file"),
        ({"token_file": "nowhere"}, "dashboard.token_file nowhere: "),
        ({"cert_file": "nowhere", "key_file": "nowhere"}, "dashboard.cert_file nowhere, key_file nowhere: "),
    ],
)
async def test_a_dashboard_that_would_be_open_or_can_not_be_served_is_refused(
    tmp_path: Path, bundle: Bundle, unused_tcp_port: int, changes: dict[str, str], said: str
) -> None:
    run = run_of(tmp_path, bundle, port=unused_tcp_port, **changes)
    with pytest.raises(ConfigError, match=said):
        await seen(run.setup.coordinator(), run.folder, run.settings)


# -- pure --------------------------------------------------------------------------------------------------------------


def test_orders_are_kept_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    assert read_orders(tmp_path) == StandingOrders()
    orders = StandingOrders(paused=True).without("b").without("a").without("b")
    assert orders.aside == ("a", "b")
    write_orders(tmp_path, orders)
    assert read_orders(tmp_path) == orders
    assert orders.readmitting("a").aside == ("b",)
    (tmp_path / "state" / "orders.json").write_text(json.dumps({"paused": "yes"}))
    with pytest.raises(ConfigError, match="remove the file to begin without orders"):
        read_orders(tmp_path)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    names = "round,cycle,cohort,due,updates,expected,rejected,lr,loss,train_accuracy,accuracy,c_ratio,uplink_bytes"
    names += ",downlink_bytes,fedavg_uplink_bytes,wall_s,round_s,waited_s"
    row = "0,0,a b,0 1,2,2,0,0.1,1.5,0.5,,1.0,10,20,30,1.0,1.0,0.0"
    (tmp_path / "rounds.csv").write_text(f"{names}\r\n{row}\r\n1,0,a b,0 1,2")
    (record,) = rounds_after(tmp_path, 0)
    assert (record["cohort"], record["due"], record["accuracy"], record["loss"]) == (2, [0, 1], None, 1.5)
