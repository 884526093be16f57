"""Models are judged by samples that devices keep and never train on; sums and counts alone leave a board."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.link.seam import Dial
from lamina.broker.wire.messages import Report, RoundPlan, decode, encode
from lamina.coordinator.records.device_figures import summed
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import Deadlines, Evaluation, FederationSettings
from lamina.edge_agent.session.kept_plans import is_from_before
from lamina.edge_agent.training.learner import Learner
from lamina.emulation.datasets import load_dataset
from lamina.emulation.simulator.rows import to_tensors
from lamina.emulation.simulator.run_context import prepare_run
from lamina.emulation.simulator.setting import Setting
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.held_out import divided, parted
from lamina.models.metrics import MetricSpec
from lamina.models.readers.settings import DataSettings
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples
from tests.simulated import simulated_records
from tests.test_simulator_and_federation import ATOL, PATIENCE_S, federate
from tests.test_tasks_federated import bundle_of, context_of

SHARE = 0.3


def rows(data: LabelledSamples, indices: np.ndarray) -> set[bytes]:
    x = data.parts[""]
    return {x[index : index + 1].tobytes() for index in indices}


# -- the split


def samples(count: int = 200, seed: int = 0) -> LabelledSamples:
    rng = np.random.default_rng(seed)
    return LabelledSamples(rng.standard_normal((count, 3)).astype(np.float32), rng.integers(0, 3, count))


def test_about_a_share_is_kept_and_nothing_is_in_both_parts() -> None:
    trained, kept = divided(samples(2000), SHARE)
    assert sorted([*trained, *kept]) == list(range(2000))
    assert 0.25 < len(kept) / 2000 < 0.35
    assert len(divided(samples(), 0.0).kept) == 0


def test_a_sample_stays_in_its_part_whatever_comes_and_goes() -> None:
    """Neither another order, nor further samples, nor the loss of some moves one from part to part."""
    data = samples()
    trained, kept = divided(data, SHARE)
    assert isinstance(data.y, np.ndarray)
    order = np.random.default_rng(1).permutation(200)[:150]
    further = samples(100, seed=9)
    x = np.concatenate([data.parts[""][order], further.parts[""][:]])
    later = LabelledSamples(x, np.concatenate([data.y[order], further.y[:]]))  # type: ignore[index]
    again = divided(later, SHARE)
    assert not rows(data, trained) & rows(later, again.kept)
    assert not rows(data, kept) & rows(later, again.trained)


def test_copies_of_a_sample_are_in_one_part() -> None:
    data = samples(50)
    assert isinstance(data.y, np.ndarray)
    twice = LabelledSamples(np.concatenate([data.parts[""][:]] * 2), np.concatenate([data.y] * 2))
    trained, kept = divided(twice, SHARE)
    assert not rows(twice, trained) & rows(twice, kept)


def test_a_device_always_has_something_to_train_on() -> None:
    for seed in range(30):
        assert len(divided(samples(1, seed), 0.9).trained) == 1


@pytest.mark.parametrize("stride", [1, 3])
def test_windows_of_the_two_parts_share_no_row(tmp_path: Path, stride: int) -> None:
    lines = "\n".join(f"{number},{number % 7}" for number in range(600))
    (tmp_path / "log.csv").write_text(f"a,b\n{lines}\n")
    data = load_samples(DataSettings(str(tmp_path / "log.csv"), inputs=("a",), window=8, horizon=2, stride=stride))
    trained, kept = divided(data, SHARE)
    assert len(trained) > 2 * len(kept) > 20
    assert data.stretches is not None

    def covered(indices: np.ndarray) -> set[int]:
        return {row for _, first, stop in data.stretches[indices] for row in range(first, stop)}  # type: ignore[index]

    assert not covered(trained) & covered(kept)
    # The series grows: what was kept is kept, and what was trained on stays there.
    further = "\n".join(f"{number},{number % 7}" for number in range(600, 900))
    (tmp_path / "log.csv").write_text(f"a,b\n{lines}\n{further}\n")
    grown = load_samples(DataSettings(str(tmp_path / "log.csv"), inputs=("a",), window=8, horizon=2, stride=stride))
    assert set(kept) <= set(divided(grown, SHARE).kept)
    assert set(trained) <= set(divided(grown, SHARE).trained)


def test_the_test_set_of_an_emulation_shares_no_row_with_the_rest(tmp_path: Path) -> None:
    lines = "\n".join(f"{number},{number % 2}" for number in range(400))
    (tmp_path / "log.csv").write_text(f"a,group\n{lines}\n")
    settings = DataSettings(str(tmp_path / "log.csv"), inputs=("a",), window=12, horizon=3, group="group")
    dataset = load_dataset(settings)
    seen = {float(number) for number in np.concatenate([dataset.x_train.ravel(), np.ravel(dataset.y_train)])}
    tested = {float(number) for number in np.concatenate([dataset.x_test.ravel(), np.ravel(dataset.y_test)])}
    assert not seen & tested
    assert len(dataset.x_test) > 20


# -- what becomes of sums and counts

ERROR = (MetricSpec("loss", better="lower"), MetricSpec("mae", better="lower"))


def test_figures_of_devices() -> None:
    """Errors of 1, 2 and 9: their mean is 4; together they are 14/6, as the second device has four samples."""
    answers = {"a": ((0.0, 1.0), (1.0, 1.0)), "b": ((0.0, 8.0), (1.0, 4.0)), "c": ((0.0, 9.0), (1.0, 1.0))}
    found = summed(7, ERROR, "mae", True, answers)
    assert found is not None
    assert (found.rounds, found.devices, found.judge) == (7, 3, "mae")
    assert found.figures["mae"] == pytest.approx(18 / 6)
    assert found.mean == pytest.approx(4.0)
    assert found.spread == pytest.approx(np.std([1, 2, 9]))
    assert found.worst == 9.0  # a tenth of three devices is one, and the highest error is the worst
    higher = summed(7, (MetricSpec("mae"), MetricSpec("loss")), "mae", False, answers)
    assert higher is not None


def test_the_worst_are_those_with_the_lowest_accuracy() -> None:
    answers = {f"d{index}": ((float(index),), (20.0,)) for index in range(20)}
    found = summed(1, (MetricSpec("accuracy", better="higher"),), "accuracy", False, answers)
    assert found is not None
    assert found.worst == pytest.approx((0 / 20 + 1 / 20) / 2)
    assert "worst tenth 0.025" in found.text


@pytest.mark.parametrize("lie", [((1.0,), (1.0,)), ((1.0, 1.0), (1.0, -1.0)), ((1.0, np.nan), (1.0, 1.0)), ((), ())])
def test_what_no_device_can_say_counts_for_nothing(lie: Any) -> None:
    honest = {"a": ((0.0, 1.0), (1.0, 1.0))}
    assert summed(1, ERROR, "mae", True, {**honest, "liar": lie}) == summed(1, ERROR, "mae", True, honest)
    assert summed(1, ERROR, "mae", True, {"liar": lie}) is None


def test_a_report_has_bounds() -> None:
    report = Report(epoch=1, round=1, steps=0, loss=0.0, accuracy=0.0, step_s=0.0, sums=(1.0,), counts=(2.0,))
    assert decode(encode(report), Report) == report
    for wrong in ((1e301,), (float("nan"),), (0.0,) * 70_000):
        with pytest.raises(DecodeError):
            decode(encode(msgspec.structs.replace(report, sums=wrong)), Report)
    plain = msgspec.structs.replace(report, sums=msgspec.UNSET, counts=msgspec.UNSET)
    assert b"sums" not in encode(plain)


def test_a_share_is_a_share() -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.devices is a share"):
        Evaluation(devices=1.0)


def test_the_end_that_a_broker_kept_counts_behind_a_judgement() -> None:
    """It has the judgement's round. Behind a round of training it is from before more rounds were given."""
    judging = RoundPlan(epoch=1, round=4, judges=True)
    training = RoundPlan(epoch=1, round=4, local_steps=3)
    end = RoundPlan(epoch=1, round=4, state="finished")
    assert not is_from_before(end, judging, None)
    assert is_from_before(end, training, None)


# -- federations


async def compared(name: str, folder: Path, dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """A federation comes to the simulator's parameters and to its judgement, and trains on no sample that is kept."""
    plain = context_of(folder, name)
    setting = msgspec.structs.replace(plain.setting, evaluation=Evaluation(devices=SHARE, every=2))
    context, bundle = prepare_run(setting), bundle_of(folder, name)
    dataset = load_dataset(setting.data, seed=setting.seed)
    held = plain.common.held
    visited: list[tuple[LabelledSamples, np.ndarray]] = []
    steps = Learner._steps

    def spied(self: Learner, batches: np.ndarray, *rest: Any) -> Any:
        visited.append((self._data, batches.ravel()))
        return steps(self, batches, *rest)

    monkeypatch.setattr(Learner, "_steps", spied)
    result, tensors = await federate(
        *(context, bundle, dial, folder),
        name=f"own-{name}",
        evaluation=setting.evaluation,
        samples=lambda device: dataset.samples_of(held[device]),
    )
    state, records = simulated_records(context)
    for data, indices in visited:
        assert not set(indices) & set(divided(data, SHARE).kept)
    assert len(visited) == 3 * setting.rounds
    found, expected = result.on_devices, records[-1].on_devices
    assert found
    assert expected
    assert (found.rounds, found.devices, found.judge) == (setting.rounds, 3, expected.judge)
    for one, other in ((found.figures, expected.figures), (figures(found), figures(expected))):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)
    for tensor, value in to_tensors(context.spec, state.base).items():
        np.testing.assert_allclose(tensors[tensor], value, rtol=0, atol=ATOL, err_msg=tensor)
    lines = list(csv.DictReader((folder / "coordinator" / "rounds.csv").read_text().splitlines()))
    told = [line["on_devices_mean"] for line in lines]
    assert [bool(each) for each in told] == [False, False, True, False]  # where the second cycle began
    middle = next(record.on_devices for record in records if record.round == 1)
    assert middle
    assert float(told[2]) == pytest.approx(middle.mean, rel=1e-3, abs=1e-4)
    assert json.loads(msgspec.json.encode(result))["on_devices"]["worst"] == found.worst
    await started_again(folder, bundle, dial, setting, f"own-{name}", found)


async def started_again(folder: Path, bundle: Bundle, dial: Dial, setting: Setting, name: str, found: Any) -> None:
    """A run that is finished waits for nobody, and still has what the devices said."""
    settings = FederationSettings(
        federation=name,
        bundle=str(bundle.folder),
        folder=str(folder / "coordinator"),
        training=msgspec.structs.replace(setting.training, seed=setting.seed),
        aggregation=setting.aggregation,
        deadlines=Deadlines(broker_s=20.0),
        evaluation=setting.evaluation,
    )
    async with asyncio.timeout(PATIENCE_S):
        again = await Coordinator(settings, bundle, dial).run()
    assert again.on_devices == found


def figures(found: Any) -> dict[str, float]:
    return {"mean": found.mean, "spread": found.spread, "worst": found.worst}


@pytest.mark.parametrize("name", ["image_and_kind", "forecast"])
async def test_a_federation_judges_as_the_simulator_does(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await compared(name, tmp_path, MemoryBroker().dial, monkeypatch)


@pytest.mark.broker
async def test_a_federation_judges_over_mosquitto(
    tmp_path: Path, mosquitto: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await compared("reconstruction", tmp_path, mqtt_dial(mosquitto.address), monkeypatch)


def test_what_a_board_holds_out_itself_judges_too_and_is_not_trained_on() -> None:
    """Samples that are kept by a smaller share are kept by a larger one."""
    data = samples(400)
    own, aside = parted(data, 0.1)
    assert aside is not None
    trained, kept = divided(own, SHARE)
    together = rows(own, kept) | rows(aside, np.arange(len(aside)))
    assert together == rows(data, divided(data, SHARE).kept)
    assert rows(own, trained) == rows(data, divided(data, SHARE).trained)


def test_other_numbers_for_the_classes_move_no_sample() -> None:
    data = samples(300)
    assert isinstance(data.y, np.ndarray)
    renumbered = LabelledSamples(data.x, (data.y + 1) % 3)
    assert divided(data, SHARE).kept.tolist() == divided(renumbered, SHARE).kept.tolist()
