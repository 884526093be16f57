"""The simulator: as its slow twin, the same bits in every way that promises them, and the papers' identities."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.emulation.simulator.checkpoint import read_checkpoint, write_checkpoint
from lamina.emulation.simulator.rows import layer_offsets
from lamina.emulation.simulator.run_context import prepare_run
from lamina.emulation.simulator.simulation import SimulationState
from tests.simulated import COURSE, setting, simulate, twin

pytestmark = pytest.mark.no_cover  # simulations: see conftest.py

ROOT = Path(__file__).parent.parent
WEAK = {"strong": 2, "moderate": 1, "weak": 1}


def bits(state: SimulationState) -> tuple[bytes, bytes, bytes]:
    return state.base.tobytes(), state.rows.tobytes(), state.momentum.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregation": {"phi": 2}},
        {"fleet": WEAK},
        {"fleet": WEAK, "aggregation": {"phi": 2}},
        {"local": {"proximal": 0.5}, "training": {"lr_decay_at": [0.5]}},
    ],
    ids=["fedavg", "fedlama", "embracing", "composed", "fedprox"],
)
def test_it_does_what_its_slow_twin_does(tmp_path: Path, changes: dict[str, object]) -> None:
    context = prepare_run(setting(tmp_path, **changes))
    state = simulate(context)
    values, intervals = twin(context)
    np.testing.assert_allclose(state.base, values, rtol=2e-4, atol=2e-5)
    assert list(state.run_state.intervals) == intervals


@pytest.mark.parametrize("reduction", ["cut", "width"])
def test_one_process_two_processes_and_the_loop_end_in_the_same_bits(tmp_path: Path, reduction: str) -> None:
    context = prepare_run(setting(tmp_path, fleet=WEAK, reduction=reduction, cohorts={"active": 0.75}))
    loop = bits(simulate(context))
    assert bits(simulate(context, "pool", 1)) == loop
    assert bits(simulate(context, "pool", 2)) == loop


def test_the_stack_agrees_to_float_tolerance(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path, "dense", fleet=WEAK, aggregation={"phi": 2}, local={"proximal": 0.1}))
    loop, stack = simulate(context), simulate(context, "stack")
    np.testing.assert_allclose(stack.base, loop.base, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stack.momentum, loop.momentum, rtol=1e-3, atol=1e-5)


def test_phi_1_never_adjusts_and_is_fedavg_to_the_bit(tmp_path: Path) -> None:
    # FedAvg by hand: one fold a round over whole rows, no layers, no intervals
    from lamina.coordinator.folds.aggregate import LayerFold

    context = prepare_run(setting(tmp_path))
    state = simulate(context)
    u = context.initial.copy()
    for round_ in range(4):
        one = simulate(context, rounds=round_ + 1, state=_at(context, u, round_))
        assert one.base.tobytes() == simulate(context, rounds=round_ + 1).base.tobytes()
        fold = LayerFold(u.size, u.size)
        rows = _trained(context, u, round_)
        for index, row in enumerate(rows):
            fold.add(f"d{index}", row - u, 1.0)
        u = fold.finish(u).value
    assert u.tobytes() == state.base.tobytes()
    assert state.run_state.ledger.c_ratio == 1.0


def test_all_strong_embracing_is_fedavg_to_the_bit(tmp_path: Path) -> None:
    # a strong device has cut 0, whatever the cuts on offer; and a moderate one differs
    strong, mixed = setting(tmp_path, fleet={"strong": 4}), setting(tmp_path, fleet=WEAK)
    assert bits(simulate(strong)) == bits(simulate(setting(tmp_path)))
    assert bits(simulate(mixed))[0] != bits(simulate(strong))[0]


def test_a_weak_devices_input_side_stays_global(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path, fleet={"strong": 1, "weak": 3}, aggregation={"phi": 2}))
    state = simulate(context, rounds=1)
    offsets, cut = layer_offsets(context.spec), context.spec.cuts[-1]
    due_or_frozen = state.rows[1:, : offsets[cut]]
    np.testing.assert_array_equal(due_or_frozen, np.broadcast_to(state.base[: offsets[cut]], due_or_frozen.shape))
    assert not state.momentum[1:, : offsets[cut]].any()
    assert state.momentum[0, : offsets[cut]].any()


def test_width_1_is_fedavg_to_the_bit(tmp_path: Path) -> None:
    # the fleet is strong, so every ratio is 1; then the element-wise fold by itself, with everything covered
    from lamina.coordinator.folds.aggregate import LayerFold
    from lamina.emulation.simulator.research.coverage import CoverageFold

    assert bits(simulate(setting(tmp_path, reduction="width"))) == bits(simulate(setting(tmp_path)))
    context = prepare_run(setting(tmp_path))
    layer, rng = context.spec.layers[0], np.random.default_rng(0)
    base, local = (rng.standard_normal((n, layer.vector_size)).astype(np.float32) for n in (1, 3))
    covering, plain, names = CoverageFold(layer), LayerFold(layer.vector_size, layer.size), ["a", "b", "c"]
    covering.add_all(names, local, base[0], [1.0] * 3, np.ones(layer.vector_size, bool))
    plain.add_all(names, local, base[0], [1.0] * 3)
    assert covering.finish(base[0]).value.tobytes() == plain.finish(base[0]).value.tobytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation": {"phi": 2}, "fleet": WEAK, "local": {"momentum_of": "slot"}, "cohorts": {"active": 2}},
        {"server": {"optimiser": "fedavgm", "beta": 0.5}},
        {"server": {"optimiser": "fedadam", "lr": 0.01}},
    ],
    ids=["fedlama", "fedavgm", "fedadam"],
)
@pytest.mark.parametrize("broken_off_after", [1, 2, 3])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    tmp_path: Path, changes: dict[str, object], broken_off_after: int
) -> None:
    chosen = setting(tmp_path, **changes)
    write_checkpoint(tmp_path / "checkpoint.npz", simulate(chosen, rounds=broken_off_after), COURSE)
    found = read_checkpoint(tmp_path / "checkpoint.npz")
    assert found is not None
    resumed, whole = simulate(chosen, state=found[0]), simulate(chosen)
    assert bits(resumed) == bits(whole)
    assert resumed.run_state.ledger == whole.run_state.ledger


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.npz"
    write_checkpoint(path, simulate(setting(tmp_path), rounds=1), COURSE)
    path.write_bytes(path.read_bytes()[:100])
    assert read_checkpoint(path) is None
    assert read_checkpoint(tmp_path / "none.npz") is None


def test_after_a_cycle_the_next_one_begins_with_the_global_state(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path, aggregation={"phi": 2}))
    drifting = simulate(context, rounds=3)  # in the middle of the second cycle
    relaxed = [index for index, tau in enumerate(drifting.run_state.intervals) if tau > 2]
    offsets = layer_offsets(context.spec)
    assert relaxed
    for layer in range(len(context.spec.layers)):
        place = slice(offsets[layer], offsets[layer + 1])
        together = all((row[place] == drifting.base[place]).all() for row in drifting.rows)
        assert together == (layer not in relaxed)


def test_momentum_is_the_slots_or_the_devices(tmp_path: Path) -> None:
    of_slot = simulate(setting(tmp_path, local={"momentum_of": "slot"}))
    of_device = simulate(setting(tmp_path))
    assert of_slot.base.tobytes() != of_device.base.tobytes()
    # in the first cycle nobody has anything to inherit
    first = [simulate(setting(tmp_path, local={"momentum_of": of}), rounds=1) for of in ("slot", "device")]
    assert bits(first[0]) == bits(first[1])


def test_kernels_are_relaxed_apart_from_the_rest_of_their_layer(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path, granularity="kernel", aggregation={"phi": 2}, training={"rounds": 6}))
    names = [layer.name for layer in context.spec.layers]
    assert names == ["conv1.weight", "conv1.rest", "conv2.weight", "conv2.rest", "classifier.weight", "classifier.rest"]
    assert context.relaxable == (0, 2, 4)
    intervals = simulate(context).run_state.intervals
    assert set(intervals[1::2]) == {2}
    assert 4 in intervals[::2]


def test_no_adjustment_before_the_warmup_ends(tmp_path: Path) -> None:
    chosen = setting(tmp_path, aggregation={"phi": 2, "warmup_rounds": 4})
    assert set(simulate(chosen, rounds=3).run_state.intervals) == {2}
    assert set(simulate(chosen).run_state.intervals) == {2, 4}


def test_a_device_that_diverges_is_left_out(tmp_path: Path) -> None:
    chosen = setting(tmp_path, training={"lr": 1e30, "rounds": 1})
    state = simulate(chosen)
    assert np.isfinite(state.base).all()


def _at(context, u, round_):  # type: ignore[no-untyped-def]
    """The state at the beginning of a round, given the global row."""
    from lamina.emulation.simulator.simulation import beginning

    state = beginning(context)
    state.base[:] = u
    state.run_state = msgspec.structs.replace(state.run_state, round=round_)
    return state


def _trained(context, u, round_):  # type: ignore[no-untyped-def]
    """Every device's row after its local steps of a round, before anything is averaged."""
    from lamina.emulation.simulator.backends.run_arrays import private_arrays
    from lamina.emulation.simulator.backends.task_runner import TaskRunner
    from lamina.emulation.simulator.backends.tasks import TrainingTask

    arrays = private_arrays(4, u.size, context.data)
    arrays.rows[:] = u
    runner = TaskRunner(context.common, arrays)
    for slot, name in enumerate(context.setting.names):
        runner.carry_out(TrainingTask(slot, name, 0, round_, 2, context.setting.lr(round_)))
    return arrays.rows


def test_the_process_that_conducts_a_pool_never_loads_torch(tmp_path: Path) -> None:
    # torch, and tracing a network, would take 330 MiB there; data in arrays that all share save as much again
    (tmp_path / "setting.json").write_bytes(msgspec.json.encode(setting(tmp_path, fleet=WEAK, reduction="width")))
    script = """if __name__ == "__main__":
        import sys, msgspec
        from pathlib import Path
        from lamina.emulation.simulator.run import run
        from lamina.emulation.simulator.setting import Setting
        folder = Path(sys.argv[1])
        chosen = msgspec.json.decode((folder / "setting.json").read_bytes(), type=Setting)
        result = run(chosen, folder / "cache", backend="pool", processes=2)
        print(result.accuracy, "torch" in sys.modules)"""
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, tmp_path / "script.py", tmp_path]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "False"
