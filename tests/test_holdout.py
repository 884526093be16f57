"""What nobody trains on, and how good a model is for each device."""

from pathlib import Path

import numpy as np
import pytest

from lamina.emulation.simulator.backends.choosing import open_backend
from lamina.emulation.simulator.research.fairness import device_spread, over_seeds
from lamina.emulation.simulator.run_context import RunContext, prepare_run
from lamina.emulation.simulator.simulation import Simulation
from lamina.models.errors import ConfigError
from tests.simulated import setting


def trained(context: RunContext) -> set[int]:
    return {int(index) for indices in context.common.held.values() for index in indices}


def test_nothing_is_held_out_unless_asked(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path))
    assert (len(trained(context)), context.judged, len(context.own), len(context.public)) == (60, 30, 0, 0)


def test_validation_takes_the_test_sets_place_and_is_not_trained_on(tmp_path: Path) -> None:
    plain, tuned = prepare_run(setting(tmp_path)), prepare_run(setting(tmp_path, holdout={"validation": 0.25}))
    for device, held in tuned.common.held.items():  # the partition is the same
        assert set(held) < set(plain.common.held[device])
    aside = sorted(trained(plain) - trained(tuned))
    assert tuned.judged == len(aside)
    x = tuned.data[0][aside]
    assert {row.tobytes() for row in x} == {row.tobytes() for row in tuned.data[2]}
    assert not {row.tobytes() for row in plain.data[2]} & {row.tobytes() for row in tuned.data[2]}


def test_public_samples_are_nobodys(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path, holdout={"public": 0.2}))
    assert len(context.public) == 12  # a fifth of 60, class by class
    assert len(trained(context)) == 48
    assert not {row.tobytes() for row in context.public} & {row.tobytes() for row in context.data[0]}


def test_each_device_is_judged_by_samples_of_its_own(tmp_path: Path) -> None:
    plain = prepare_run(setting(tmp_path))
    context = prepare_run(setting(tmp_path, holdout={"own": 0.25}, fleet={"strong": 3, "absent": 1}))
    assert list(context.own) == list(context.setting.holders)  # the absent one, too
    assert context.judged == 30
    assert len(context.data[2]) == 30 + sum(map(len, context.own.values()))
    for device, place in context.own.items():
        kept = {row.tobytes() for row in context.data[2][place.start : place.stop]}
        assert kept <= {row.tobytes() for row in plain.data[0][plain.common.held[device]]}
        assert not kept & {row.tobytes() for row in context.data[0][context.common.held.get(device, [])]}


def test_own_accuracies_are_those_of_each_devices_samples(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path, holdout={"own": 0.3}))
    with open_backend("loop", context) as backend:
        simulation = Simulation(context, backend)
        while not simulation.finished:
            simulation.advance()
        found = simulation.own_accuracies()
        state = simulation.values.copy()
    network = open_network(context, state)
    for device, place in context.own.items():
        x, y = context.data[2][place.start : place.stop], context.data[3][place.start : place.stop]
        assert found[device] == pytest.approx((network(x).argmax(1) == y).mean())


def open_network(context: RunContext, state: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    from lamina.emulation.simulator.rows import to_tensors
    from lamina.models.definition import load_definition

    module = load_definition(context.common.model).module
    tensors = {name: torch.from_numpy(value.copy()) for name, value in to_tensors(context.spec, state).items()}
    module.load_state_dict(tensors, strict=False)
    module.eval()
    return lambda x: module(torch.from_numpy(x)).detach().numpy()


def test_spread_over_devices_by_hand() -> None:
    # 20 devices: the worst tenth are two, 0% and 50%; the other 18 are right always: (0.5 + 18) / 20 = 92.5%
    spread = device_spread([0.5, *[1.0] * 18, 0.0])
    assert (spread.mean, spread.worst) == (92.5, 25.0)
    assert spread.spread == pytest.approx(np.std([0, 50, *[100] * 18], ddof=1))
    assert device_spread([0.7]).spread == 0
    assert over_seeds([spread, device_spread([1.0])]).mean == 96.25


@pytest.mark.parametrize("holdout", [{"own": 1.0}, {"public": -0.1}])
def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path, holdout: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="holdout"):
        setting(tmp_path, holdout=holdout)
