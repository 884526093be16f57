"""Emulations as a whole: over memory in this process, over real brokers in many, and what goes wrong on the way."""

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from rich.console import Console

from lamina.coordinator.records.records import RoundRecord
from lamina.coordinator.settings import Aggregation, Cohorts, Deadlines, Local, Training
from lamina.emulation.bundling import bundle_for, bundle_key
from lamina.emulation.commands.emulate import log_to
from lamina.emulation.experiment import BrokerKind, Experiment, Group, Partition
from lamina.emulation.progress import ProgressDisplay
from lamina.emulation.run import EmulationResult, PreparedRun, emulate, open_broker, prepare, train
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError, DataError, LaminaError, ModelError
from tests.patience import PATIENCE_S
from tests.whole_federation import MODERATE, STRONG, TOO_SMALL, WEAK, samples, small_bundle

ROOT = Path(__file__).parent.parent
NETS = Path(__file__).with_name("small_nets.py")
MIXED = (Group("strong", 2), Group("moderate", 1, "moderate"), Group("weak", 1, "weak"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


@pytest.fixture
def experiment(tmp_path: Path, bundle: Bundle) -> Experiment:
    """Four devices learn three clouds, in memory; the bundle is there already."""
    train_set, test_set = samples(0, 240), samples(1, 60)
    np.savez(tmp_path / "clouds.npz", x_train=train_set.x, y_train=train_set.y, x_test=test_set.x, y_test=test_set.y)
    chosen = Experiment(
        name=f"clouds-{os.getpid()}",
        data=str(tmp_path / "clouds.npz"),
        batch_size=8,
        out=str(tmp_path / "out"),
        broker="memory",
        fleet=MIXED,
        partition=Partition(alpha=1.0),
        training=Training(rounds=4, local_steps=2),
        aggregation=Aggregation(phi=2),
    )
    shutil.copytree(bundle.folder, chosen.folder / "bundles" / bundle_key(chosen))
    return chosen


def silent() -> ProgressDisplay:
    return ProgressDisplay(Console(file=io.StringIO()))


def changed(experiment: Experiment, **changes: object) -> Experiment:
    return msgspec.structs.replace(experiment, **changes)


class Watcher(ProgressDisplay):
    """Calls a function after every round."""

    def __init__(self, after_round: Callable[[RoundRecord], None]) -> None:
        super().__init__(Console(file=io.StringIO()))
        self._after_round = after_round

    def observe(self, record: RoundRecord) -> None:
        super().observe(record)
        self._after_round(record)


def trained(prepared: PreparedRun, kind: BrokerKind, progress: ProgressDisplay | None = None) -> EmulationResult:
    with open_broker(kind) as endpoint:
        return asyncio.run(train(prepared, endpoint, progress or silent()))


def final_model(experiment: Experiment) -> bytes:
    return (experiment.folder / "model.safetensors").read_bytes()


# -- in memory


def test_a_run_leaves_summary_records_model_and_figures(experiment: Experiment) -> None:
    summary = emulate(changed(experiment, training=Training(rounds=20, local_steps=4)), silent())
    assert summary.accuracy is not None
    assert summary.accuracy > 0.8  # chance is 1/3
    assert summary.rounds == 20
    assert 0.5 <= summary.c_ratio < 1  # from 1/phi
    assert [(device.id, device.tier) for device in summary.devices] == [
        ("moderate-1", "moderate"), ("strong-1", "strong"), ("strong-2", "strong"), ("weak-1", "weak"),
    ]  # fmt: skip
    assert all(device.rounds_done == 20 for device in summary.devices)
    assert all(device.peak_mib is None for device in summary.devices)  # they share this process
    assert summary.failures == ()
    left = {str(path.relative_to(experiment.folder)) for path in experiment.folder.rglob("*") if path.is_file()}
    assert left >= {
        "summary.json", "rounds.csv", "cycles.jsonl", "model.onnx", "model.safetensors",
        "plots/accuracy.png", "plots/intervals.png", "plots/crossing.png", "plots/discrepancy.png",
    }  # fmt: skip
    assert json.loads((experiment.folder / "summary.json").read_text())["accuracy"] == summary.accuracy


def test_a_second_run_starts_over_and_ends_in_the_same_bits(experiment: Experiment) -> None:
    first = emulate(experiment, silent())
    model = final_model(experiment)
    second = emulate(experiment, silent())
    assert final_model(experiment) == model
    assert (second.rounds, second.accuracy, second.uplink_bytes) == (first.rounds, first.accuracy, first.uplink_bytes)


def test_another_seed_ends_elsewhere(experiment: Experiment, bundle: Bundle) -> None:
    emulate(experiment, silent())
    model, other = final_model(experiment), changed(experiment, seed=1)
    shutil.copytree(bundle.folder, other.folder / "bundles" / bundle_key(other))
    emulate(other, silent())
    assert final_model(other) != model


def test_a_refused_device_is_reported_and_the_others_train(experiment: Experiment) -> None:
    fleet = (Group("able", 2, budget_mib=STRONG), Group("tiny", 1, budget_mib=TOO_SMALL))
    summary = emulate(changed(experiment, fleet=fleet), silent())
    assert [(device.id, device.accepted) for device in summary.devices] == [
        ("able-1", True), ("able-2", True), ("tiny-1", False),
    ]  # fmt: skip
    assert len(summary.failures) == 1
    assert "tiny-1" in summary.failures[0]
    assert "too small" in summary.failures[0]


def test_a_fleet_that_would_be_refused_to_a_device_is_an_error_at_once(experiment: Experiment) -> None:
    with pytest.raises(ConfigError, match=r"smallest sub-model, which takes 10\.0 MiB"):
        emulate(changed(experiment, fleet=(Group("tiny", 2, budget_mib=TOO_SMALL),)), silent())


def test_budgets_choose_the_sub_models(experiment: Experiment) -> None:
    fleet = tuple(Group(f"b{budget:g}", 1, budget_mib=budget) for budget in (STRONG, MODERATE, WEAK))
    summary = emulate(changed(experiment, fleet=fleet), silent())
    assert {device.id: device.tier for device in summary.devices} == {
        "b30-1": "strong", "b20-1": "moderate", "b10-1": "weak",
    }  # fmt: skip


def test_when_every_device_has_gone_the_run_ends(experiment: Experiment) -> None:
    prepared = prepare(experiment)
    for path in prepared.samples.glob("*.npz"):
        path.write_bytes(b"nothing")
    with pytest.raises(LaminaError, match=r"every device ended before the training did: .*strong-1"):
        trained(prepared, "memory")


def test_data_that_do_not_fit_the_model_are_an_error_before_anything_starts(experiment: Experiment) -> None:
    with pytest.raises(
        DataError, match=r"digits: its samples have the shape \(1, 8, 8\), and model small takes \(6,\)"
    ):
        prepare(changed(experiment, data="digits"))


def test_the_log_goes_to_a_file_and_the_terminal_stays_free(
    experiment: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with log_to(tmp_path / "logs" / "all.log"):
        emulate(experiment, silent())
    assert "strong-1" in (tmp_path / "logs" / "all.log").read_text()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# -- bundles


def test_a_bundle_is_named_by_all_that_it_depends_on(tmp_path: Path) -> None:
    own = tmp_path / "nets.py"
    own.write_text("def build(): ...")
    base = Experiment(model=f"{own}:build,width=4")
    others = [changed(base, seed=1), changed(base, batch_size=1), changed(base, model=f"{own}:build,width=5")]
    others += [changed(base, local=Local(proximal=0.1)), changed(base, local=Local(clip_norm=1.0))]
    keys = [bundle_key(each) for each in (base, *others)]
    assert len(set(keys)) == len(keys)
    assert bundle_key(changed(base, training=Training(lr=7.0), data="elsewhere.npz")) == keys[0]
    own.write_text("def build(): pass")
    assert bundle_key(base) not in keys


@pytest.mark.slow
def test_a_bundle_is_built_once_and_again_when_it_is_damaged(tmp_path: Path) -> None:
    experiment, said = Experiment(model=f"{NETS}:convolutional", batch_size=4), []
    built = bundle_for(experiment, tmp_path, said.append)
    assert min(sub_model.peak_mib for sub_model in built.manifest.sub_models) > 0
    assert bundle_for(experiment, tmp_path, said.append).digest == built.digest
    assert len(said) == 1
    built.path(built.manifest.values).write_bytes(b"damaged")
    assert bundle_for(experiment, tmp_path, said.append).manifest.values == built.manifest.values
    assert len(said) == 2


@pytest.mark.slow
def test_what_the_builder_says_of_a_model_is_passed_on_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^model 'digits_cn' is not in the zoo: did you mean 'digits_cnn'"):
        bundle_for(Experiment(model="digits_cn"), tmp_path, lambda text: None)


# -- over real brokers, in processes


@pytest.mark.broker
@pytest.mark.parametrize(("kind", "a_process"), [("mosquitto", 1), ("mosquitto", 3), ("amqtt", 1)])
def test_processes_over_a_broker_end_in_the_same_bits_as_memory(
    request: pytest.FixtureRequest, experiment: Experiment, kind: BrokerKind, a_process: int
) -> None:
    request.getfixturevalue(kind)  # skips, or fails in CI, where the broker isn't installed
    trained(prepare(experiment), "memory")
    model = final_model(experiment)
    outcome = trained(prepare(changed(experiment, agents_per_process=a_process)), kind)
    assert final_model(experiment) == model
    assert outcome.failures == []
    peaks = [device.peak_mib for device in outcome.result.devices]
    assert all(peak is not None and peak > 0 for peak in peaks) if a_process == 1 else set(peaks) == {None}


@pytest.mark.broker
@pytest.mark.parametrize("in_memory", [True, False])
def test_aggregators_fold_in_processes_of_their_own_to_the_same_bits(
    experiment: Experiment, in_memory: bool, installed_broker: BrokerKind
) -> None:
    kind: BrokerKind = "memory" if in_memory else installed_broker
    trained(prepare(experiment), "memory")
    model = final_model(experiment)
    shared = msgspec.structs.replace(experiment.aggregation, aggregators=2)
    outcome = trained(prepare(changed(experiment, aggregation=shared)), kind)
    assert final_model(experiment) == model
    assert outcome.failures == []
    assert kind == "memory" or len(list((experiment.folder / "logs").glob("aggregator-*.log"))) == 2


@pytest.mark.broker
@pytest.mark.slow
def test_a_device_that_is_killed_is_reported_and_the_run_goes_on(
    experiment: Experiment, installed_broker: BrokerKind
) -> None:
    def kill_one(record: RoundRecord) -> None:
        if record.round == 1:
            (victim,) = [child for child in psutil.Process().children() if "strong-2.json" in " ".join(child.cmdline())]
            victim.kill()

    prepared = prepare(changed(experiment, training=Training(rounds=8, local_steps=2), deadlines=Deadlines(round_s=1)))
    outcome = trained(prepared, installed_broker, Watcher(kill_one))
    assert outcome.result.rounds == 8
    assert len(outcome.failures) == 1
    assert "strong-2: the process ended with status -9" in outcome.failures[0]
    done = {device.id: device.rounds_done for device in outcome.result.devices}
    assert done["strong-2"] < 8
    assert done["strong-1"] == 8


@pytest.mark.broker
def test_when_every_process_has_ended_the_run_ends_too(experiment: Experiment, installed_broker: BrokerKind) -> None:
    prepared = prepare(changed(experiment, cohorts=Cohorts(wait_s=1e6)))
    for path in prepared.samples.glob("*.npz"):
        path.write_bytes(b"nothing")
    before = psutil.Process().children()
    with pytest.raises(LaminaError, match=r"every device ended before the training did: .*status 1"):
        trained(prepared, installed_broker)
    assert psutil.Process().children() == before


# -- the command


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lamina.coordinator.cli", "emulate", *words]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the command trains more than once, and builds the bundle once."""
    return tmp_path_factory.mktemp("digits")


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_the_command_trains_digits_on_unequal_devices(request: pytest.FixtureRequest, digits: Path, kind: str) -> None:
    request.getfixturevalue(kind)
    done = subprocess.run(
        command("--rounds", "12", "--devices", "4", "--out", str(digits)),
        cwd=ROOT, env={**os.environ, "BROKER": kind}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "round 12/12" in done.stdout
    summary = json.loads((digits / "summary.json").read_text())
    assert summary["broker"] == kind
    assert summary["accuracy"] > 0.8
    assert summary["c_ratio"] < 0.85
    assert {device["tier"] for device in summary["devices"]} == {"strong", "moderate", "weak"}
    peaks = {device["tier"]: device["peak_mib"] for device in summary["devices"]}
    assert peaks["weak"] < peaks["strong"]


@pytest.fixture
def ignored() -> tuple[signal.Signals, ...]:
    """Signals that the command ignores when it is started."""
    return ()


@pytest.fixture
def running(
    experiment: Experiment, tmp_path: Path, installed_broker: BrokerKind, ignored: tuple[signal.Signals, ...]
) -> Iterator[subprocess.Popen[bytes]]:
    """The command in the midst of an endless run: with a broker, and the demo's eight devices."""
    words = ["--data", experiment.data, "--batch-size", "8", "--out", experiment.out, "--broker", installed_broker]
    log = tmp_path / "output"
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(command(*words, "--rounds", "100000"), cwd=ROOT, stdout=output, stderr=output)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        while "round 3/" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def assert_ended(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE_S)
    for process in alive:
        process.kill()
    assert alive == []


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_ends_the_command_and_all_that_it_started(
    running: subprocess.Popen[bytes], number: signal.Signals, status: int
) -> None:
    started = psutil.Process(running.pid).children()
    assert len(started) == 1 + 8
    running.send_signal(number)
    assert running.wait(timeout=PATIENCE_S) == status
    assert_ended(started)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("ignored", [(signal.SIGINT,)], ids=["as a script starts it in the background"])
def test_sigterm_ends_it_where_interrupts_are_ignored(running: subprocess.Popen[bytes]) -> None:
    started = psutil.Process(running.pid).children()
    running.terminate()
    assert running.wait(timeout=PATIENCE_S) == 143
    assert_ended(started)


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--data", "digit", "--out", str(tmp_path)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"lamina: there is no data set 'digit': no file, no folder (seen from {ROOT}), and not built in; "
        "did you mean 'digits'?\n"
    )
    assert done.stdout == ""
