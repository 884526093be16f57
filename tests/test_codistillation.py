"""Co-distillation: as its slow twin, counted in logits, and what a broken device can't do."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lamina.edge_agent.data import sample_order
from lamina.emulation.simulator.checkpoint import read_checkpoint, write_checkpoint
from lamina.emulation.simulator.research.codistillation import consensus, distillation
from lamina.emulation.simulator.research.exchanging import Exchange
from lamina.emulation.simulator.run import folder_of, run
from lamina.emulation.simulator.run_context import RunContext, prepare_run
from lamina.emulation.simulator.setting import Codistillation, Setting
from lamina.models.errors import ConfigError
from lamina.models.values import read_values
from tests.simulated import COURSE, Device, setting

PUBLIC = {"public": 0.2}  # 12 of 60 samples


def exchanged(folder: Path, net: str = "convolutional", **changes: Any) -> Setting:
    return setting(folder, net, exchange="logits", holdout=PUBLIC, partition={"least": 2}, **changes)


def ended(context: RunContext, rounds: int = 4) -> Exchange:
    exchange = Exchange(context)
    for _ in range(rounds):
        exchange.advance()
    return exchange


def twin(context: RunContext) -> tuple[list[np.ndarray], torch.Tensor]:
    """Every device's row, and the mean logits, by the formulas: a model a device, torch's own optimiser."""
    chosen, common, how = context.setting, context.common, context.setting.codistillation
    devices = {name: Device(context, name, context.initial.astype(np.float64)) for name in chosen.names}
    public, mean = torch.from_numpy(context.public), None
    steps, size = chosen.training.local_steps, chosen.batch_size
    for round_ in range(chosen.rounds):
        for name, device in devices.items():
            device.optimiser.state.clear()  # momentum begins anew
            for group in device.optimiser.param_groups:
                group["lr"] = chosen.lr(round_)
            mine = sample_order(chosen.seed, name, round_, len(common.held[name]), steps * size)
            shown = sample_order(chosen.seed, f"{name}, public samples", round_, len(public), steps * size)
            device.module.train()
            for step in range(steps):
                part = slice(step * size, (step + 1) * size)
                indices, p = common.held[name][mine[part]], torch.from_numpy(shown[part])
                x, y = (torch.from_numpy(array[indices]) for array in context.data[:2])
                device.optimiser.zero_grad()
                loss = F.cross_entropy(device.module(x), y)
                if mean is not None:
                    wanted = (mean[p] / how.temperature).softmax(1)
                    found = (device.module(public[p]) / how.temperature).softmax(1)
                    divergence = (wanted * (wanted / found).log()).sum(1).mean()
                    loss = loss + how.weight * how.temperature**2 * divergence
                loss.backward()
                device.optimiser.step()
            device.module.eval()
        with torch.no_grad():
            mean = torch.stack([device.module(public) for device in devices.values()]).mean(0)
    assert mean is not None
    return [device.row() for device in devices.values()], mean


@pytest.mark.slow
@pytest.mark.parametrize("net", ["convolutional", "dense"])
def test_it_does_what_its_slow_twin_does(tmp_path: Path, net: str) -> None:
    context = prepare_run(exchanged(tmp_path, net, codistillation={"weight": 0.7, "temperature": 3.0}))
    state = ended(context).state()
    rows, mean = twin(context)
    np.testing.assert_allclose(state.base.reshape(mean.shape), mean, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(state.rows, rows, rtol=1e-3, atol=1e-5)


def test_the_loss_by_hand() -> None:
    # two classes, T 2: mean's logits 2 ln 3, 0 -> shares 3/4, 1/4; the device's 0, 0 -> 1/2, 1/2
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2); weight 0.5, T^2 = 4 -> times 2
    targets = torch.tensor([[2 * np.log(3), 0.0]])
    loss = distillation(targets, Codistillation(weight=0.5, temperature=2.0))(torch.zeros(1, 2, dtype=torch.float64))
    assert float(loss) == pytest.approx(2 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5)))
    assert float(distillation(targets, Codistillation())(targets)) == pytest.approx(0)


def test_the_mean_leaves_out_what_is_not_finite() -> None:
    a, b, broken = (np.full((2, 3), value, np.float32) for value in (1.0, 3.0, np.nan))
    mean, refused = consensus(None, [a, broken, b])
    assert (mean is not None, refused) == (True, 1)
    np.testing.assert_array_equal(mean, np.full((2, 3), 2.0))  # type: ignore[arg-type]
    assert consensus(a, [broken]) == (a, 1)


def test_what_is_sent_is_logits(tmp_path: Path) -> None:
    chosen = exchanged(tmp_path, cohorts={"active": 3})
    context = prepare_run(chosen)
    run_state = ended(context).run_state
    # 4 rounds, 3 devices, 12 samples, 3 classes, 4 bytes; the mean comes down in all rounds but the first
    assert run_state.uplink_bytes == 4 * 3 * 12 * 3 * 4
    assert run_state.downlink_bytes == 3 * 3 * 12 * 3 * 4
    assert run_state.ledger.c_ratio == 12 * 3 / context.spec.size
    assert run_state.ledger.fedavg_uplink_bytes == 4 * 3 * 4 * len(context.initial)


def test_devices_keep_networks_of_their_own_and_of_any_width(tmp_path: Path) -> None:
    context = prepare_run(exchanged(tmp_path, fleet={"strong": 2, "moderate": 1, "weak": 1}, reduction="width"))
    exchange = ended(context)
    assert len({row.tobytes() for row in exchange.state().rows}) == 4
    changed = [int((row != context.initial).sum()) for row in exchange.state().rows]
    assert changed[0] > changed[2] >= changed[3]


def test_logits_of_the_others_change_what_a_device_learns(tmp_path: Path) -> None:
    alone = ended(prepare_run(exchanged(tmp_path, codistillation={"weight": 0.0})), 2).state()
    taught = ended(prepare_run(exchanged(tmp_path)), 2).state()
    first = [ended(prepare_run(exchanged(tmp_path, codistillation={"weight": w})), 1).state().rows for w in (0.0, 1.0)]
    assert first[0].tobytes() == first[1].tobytes()  # in the first round nobody has said anything
    assert alone.rows.tobytes() != taught.rows.tobytes()
    assert (alone.run_state.uplink_bytes, taught.run_state.uplink_bytes > 0) == (0, True)


@pytest.mark.parametrize("broken_off_after", [1, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path: Path, broken_off_after: int) -> None:
    context = prepare_run(exchanged(tmp_path, cohorts={"active": 3}))
    write_checkpoint(tmp_path / "checkpoint.npz", ended(context, broken_off_after).state(), COURSE)
    found = read_checkpoint(tmp_path / "checkpoint.npz")
    assert found is not None
    resumed, whole = Exchange(context, found[0]), ended(context)
    while not resumed.finished:
        resumed.advance()
    assert resumed.state().rows.tobytes() == whole.state().rows.tobytes()
    assert resumed.state().base.tobytes() == whole.state().base.tobytes()
    assert resumed.run_state.ledger == whole.run_state.ledger


def test_a_run_leaves_every_devices_network_and_the_mean_of_their_accuracies(tmp_path: Path) -> None:
    chosen = exchanged(tmp_path, "dense")
    result = run(with_own_samples(chosen), tmp_path / "cache")
    values = read_values(folder_of(result.setting, tmp_path / "cache") / "model.safetensors")
    assert {name.partition("/")[0] for name in values} == set(chosen.names)
    assert set(result.own_accuracies) == set(chosen.names)
    # 30 held-out samples, four devices
    assert round(result.accuracy * 120, 6) == round(result.accuracy * 120)


def with_own_samples(chosen: Setting) -> Setting:
    return msgspec.structs.replace(chosen, holdout=msgspec.structs.replace(chosen.holdout, own=0.3))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"holdout": {}}, "public samples"),
        ({"holdout": PUBLIC, "fleet": {"strong": 3, "weak": 1}}, "reduction = 'width'"),
        ({"holdout": PUBLIC, "aggregation": {"phi": 2}}, "averages no parameters"),
        ({"holdout": PUBLIC, "local": {"momentum_of": "slot"}}, "no slots"),
        ({"holdout": PUBLIC, "codistillation": {"temperature": 0.0}}, "temperature must be positive"),
    ],
)
def test_what_does_not_go_with_logits_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        setting(tmp_path, exchange="logits", **changes)
