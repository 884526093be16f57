"""Fleets: who has how much memory, what each finds on disk, and processes that are started, watched and ended."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.edge_agent.settings import AgentSettings
from lamina.emulation.datasets import Dataset
from lamina.emulation.experiment import Experiment, Group, Partition
from lamina.emulation.fleet import Plan, last_words, running_fleet, share_out
from lamina.emulation.layout import agent_settings, check_fit, share_samples, write_samples
from lamina.emulation.planning import PlannedDevice, admitted, plan_devices, tier_budget_mib
from lamina.models.errors import DataError
from lamina.models.manifest import FileEntry, Manifest, SubModel
from tests.small_federation import model

ENTRY = FileEntry("0" * 64, 1, ".onnx")


def manifest(*peaks_mib: float) -> Manifest:
    """A model that may be cut before every layer; only the peaks matter."""
    sub_models = tuple(SubModel(cut, ENTRY, 1, 1, 1.0, peak) for cut, peak in enumerate(peaks_mib))
    return Manifest(model((1,) * len(peaks_mib)), 8, sub_models, (), ENTRY, ENTRY, "sgd", (), {"lr": 0.1})


def agents(*names: str) -> list[AgentSettings]:
    return [AgentSettings("lab", name, f"{name}.npz") for name in names]


# -- budgets


@pytest.mark.parametrize(
    ("peaks_mib", "strong", "moderate", "weak"),
    [
        ((40.0, 20.0, 10.0), 50.0, 30.0, 15.0),  # 40 and a quarter; between 20 and 40; between 10 and 20
        ((40.0, 20.0), 50.0, 30.0, 30.0),  # the middle of two cuts is the smaller model
        ((40.0,), 50.0, 50.0, 50.0),
        ((40.0, 30.0, 20.0, 10.0), 50.0, 25.0, 15.0),
    ],
)
def test_a_tier_gets_what_its_sub_model_needs_and_the_next_larger_one_exceeds(
    peaks_mib: tuple[float, ...], strong: float, moderate: float, weak: float
) -> None:
    bundle = manifest(*peaks_mib)
    assert tier_budget_mib("strong", bundle) == strong
    assert tier_budget_mib("moderate", bundle) == moderate
    assert tier_budget_mib("weak", bundle) == weak


def test_a_model_without_measured_peaks_still_gives_budgets() -> None:
    assert tier_budget_mib("weak", manifest(0.0, 0.0)) > 0


def test_devices_are_named_by_group_with_as_many_digits_as_the_largest_needs() -> None:
    experiment = Experiment(fleet=(Group("big", 2), Group("small", 10, budget_mib=7.0)))
    devices = plan_devices(experiment, manifest(40.0, 20.0))
    assert [device.name for device in devices[:3]] == ["big-01", "big-02", "small-01"]
    assert devices[-1] == PlannedDevice("small-10", 7.0)


def test_a_budget_below_every_sub_model_is_not_admitted() -> None:
    devices = [PlannedDevice("a", 20.0), PlannedDevice("b", 19.9), PlannedDevice("c", 100.0)]
    assert admitted(devices, manifest(40.0, 20.0)) == 2


# -- files


def dataset(samples: int = 40, classes: int = 2, ids: bool = False) -> Dataset:
    x = np.arange(samples, dtype=np.float32)[:, None]
    y = np.arange(samples, dtype=np.int64) % classes
    return Dataset("numbers", x, y, x[:4], y[:4], classes, y if ids else None)


def test_each_device_finds_its_own_samples(tmp_path: Path) -> None:
    data, parts = dataset(), [np.array([0, 3]), np.array([1])]
    write_samples(tmp_path / "devices", data, ["a", "b"], parts)
    with np.load(tmp_path / "devices" / "a.npz") as arrays:
        assert arrays["x"].tolist() == [[0.0], [3.0]]
        assert arrays["y"].tolist() == [0, 1]
    with np.load(tmp_path / "test.npz") as arrays:
        assert len(arrays["x"]) == 4


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "shards", "natural"])
def test_every_kind_of_partition_can_be_asked_for(kind: str) -> None:
    settings = msgspec.convert({"kind": kind, "least": 2}, Partition)
    experiment = Experiment(partition=settings, fleet=(Group(devices=2),))
    parts = share_samples(experiment, dataset(ids=True))
    assert sorted(index for part in parts for index in part) == list(range(40))


def test_data_without_owners_have_no_natural_partition() -> None:
    with pytest.raises(DataError, match="does not say whose"):
        share_samples(Experiment(partition=Partition("natural")), dataset())


def test_data_that_the_model_can_not_learn_are_refused_before_anything_starts() -> None:
    check_fit(dataset(), model((1,)))
    none = np.zeros(1, np.int64)
    with pytest.raises(DataError, match=r"the shape \(1, 2\), and model small takes \(1,\)"):
        check_fit(Dataset("wide", np.ones((1, 1, 2), np.float32), none, none, none, 1), model((1,)))
    with pytest.raises(DataError, match="numbers: target 2 has the value 2, and the classes are 0 to 1"):
        check_fit(dataset(classes=3), model((1,)))


def test_agents_are_told_absolute_paths_and_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = BrokerAddress(port=2000)
    experiment = Experiment(name="garden", threads=3)
    (agent,) = agent_settings(experiment, [PlannedDevice("a", 9.0)], Path("devices"), address)
    assert (agent.federation, agent.device, agent.budget_mib, agent.threads) == ("garden", "a", 9.0, 3)
    assert agent.data == str(tmp_path / "devices" / "a.npz")
    assert agent.broker == address


# -- processes


def test_a_device_alone_lends_its_name_to_its_process() -> None:
    assert [plan.name for plan in share_out(agents("a", "b"), 1)] == ["a", "b"]
    assert not any(agent.shared_process for plan in share_out(agents("a", "b"), 1) for agent in plan.agents)


def test_devices_are_shared_out_in_order() -> None:
    plans = share_out(agents("a", "b", "c"), 2)
    assert [plan.name for plan in plans] == ["process-000", "process-001"]
    assert [[agent.device for agent in plan.agents] for plan in plans] == [["a", "b"], ["c"]]
    assert all(agent.shared_process for plan in plans for agent in plan.agents)


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def plans(*names: str) -> list[Plan]:
    return share_out(agents(*names), 1)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def pids_in(folder: Path, names: tuple[str, ...]) -> list[int]:
    """Process ids that the programs wrote into their logs, once all have."""
    while True:
        words = [(folder / f"{name}.log").read_text() for name in names if (folder / f"{name}.log").exists()]
        if len(words) == len(names) and all(text.endswith("\n") for text in words):
            return [int(text) for text in words]
        await asyncio.sleep(0.01)


TELL_PID = "import os, sys; print(os.getpid(), flush=True);"
UNTIL_TOLD = TELL_PID + "sys.stdin.read()"


async def test_each_process_gets_its_settings_and_a_limit_on_its_threads(tmp_path: Path) -> None:
    script = "import os, sys; print(open(sys.argv[1]).read(), os.environ['OMP_NUM_THREADS'])"
    async with running_fleet(plans("a", "b"), tmp_path, threads=3, program=program(script)) as fleet:
        await fleet.ended()
    settings, threads = (tmp_path / "b.log").read_text().rsplit(maxsplit=1)
    assert msgspec.json.decode(settings, type=tuple[AgentSettings, ...]) == tuple(agents("b"))
    assert threads == "3"
    assert fleet.failures == []


async def test_a_process_that_ends_badly_is_reported_with_its_last_words_and_the_others_live(tmp_path: Path) -> None:
    script = TELL_PID + "'a.json' in sys.argv[1] and sys.exit('the board caught fire'); sys.stdin.read()"
    told = asyncio.Queue[str]()
    async with running_fleet(
        plans("a", "b"), tmp_path, on_failure=told.put_nowait, program=program(script), finish_s=0
    ) as fleet:
        failure = await told.get()
        (other,) = await pids_in(tmp_path, ("b",))
        assert lives(other)
    assert failure.startswith("a: the process ended with status 1; its last words: ")
    assert "the board caught fire (" in failure
    assert fleet.failures == [failure]  # that b was ended in the end is no failure


async def test_all_processes_are_ended_with_the_fleet(tmp_path: Path) -> None:
    async with running_fleet(plans("a", "b"), tmp_path, program=program(UNTIL_TOLD), finish_s=0):
        pids = await pids_in(tmp_path, ("a", "b"))
        assert all(map(lives, pids))
    assert not any(map(lives, pids))


async def test_an_error_ends_them_without_waiting_for_a_good_end(tmp_path: Path) -> None:
    pids: list[int] = []

    async def life() -> None:
        async with running_fleet(plans("a"), tmp_path, program=program(UNTIL_TOLD), finish_s=1e6):
            pids.extend(await pids_in(tmp_path, ("a",)))
            raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        await life()
    assert not any(map(lives, pids))


async def test_cancelling_ends_them(tmp_path: Path) -> None:
    async def life() -> None:
        async with running_fleet(plans("a"), tmp_path, program=program(UNTIL_TOLD), finish_s=1e6):
            await asyncio.Event().wait()

    living = asyncio.create_task(life())
    pids = await pids_in(tmp_path, ("a",))
    living.cancel()
    with pytest.raises(asyncio.CancelledError):
        await living
    assert not any(map(lives, pids))


async def test_a_process_that_will_not_be_asked_is_killed(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + TELL_PID + "signal.pause()"
    async with running_fleet(plans("a"), tmp_path, program=program(deaf), finish_s=0, stop_s=0.1):
        (pid,) = await pids_in(tmp_path, ("a",))
    assert not lives(pid)


async def test_a_killed_process_is_reported(tmp_path: Path) -> None:
    async with running_fleet(plans("a"), tmp_path, program=program(UNTIL_TOLD)) as fleet:
        (pid,) = await pids_in(tmp_path, ("a",))
        os.kill(pid, signal.SIGKILL)
        await fleet.ended()
    assert "status -9" in fleet.failures[0]


def test_last_words_are_the_last_lines_with_anything_in_them(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"one\ntwo\n\n  three \n\xff\n\n")
    assert last_words(tmp_path / "a.log", 3) == "two / three / \N{REPLACEMENT CHARACTER}"
    (tmp_path / "b.log").write_text("\n")
    assert last_words(tmp_path / "b.log") == "none"
