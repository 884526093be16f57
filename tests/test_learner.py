"""A device's copy of the model: what it takes, what training changes, what it sends, what survives."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.data import sample_order
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.learner import Learner
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.errors import DataError
from lamina.models.manifest import FileEntry, Manifest
from lamina.models.samples import LabelledSamples
from lamina.models.values import layer_vector
from tests.tiny_model import PARAMETERS, SPEC, STATISTICS
from tests.tiny_training import Twin, write_trainable_bundle

X = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
DATA = LabelledSamples(X, np.array([0, 2, 1, 1, 0]))
PLAN = RoundPlan(epoch=1, round=0, local_steps=4, batch_size=3, hyperparameters={"lr": 0.5, "momentum": 0.9})
GLOBALS = [layer_vector(SPEC, layer, PARAMETERS / 10, STATISTICS / 10) for layer in range(2)]
BOTH = (0, 1)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_trainable_bundle(tmp_path / "bundle")


def learner_of(manifest: Manifest, folder: Path, cut: int = 0, data: LabelledSamples = DATA) -> Learner:
    def path(entry: FileEntry) -> Path:
        return folder / "bundle" / entry.file_name

    return Learner(Assignment(manifest, cut, path, data, folder / "activations", OnnxRuntime()))


@pytest.fixture
def strong(manifest: Manifest, tmp_path: Path) -> Iterator[Learner]:
    learner = learner_of(manifest, tmp_path)
    for layer, vector in enumerate(GLOBALS):
        learner.take(layer, vector.copy())
    yield learner
    learner.close()


@pytest.fixture
def weak(manifest: Manifest, tmp_path: Path) -> Iterator[Learner]:
    learner = learner_of(manifest, tmp_path, cut=1)
    for layer, vector in enumerate(GLOBALS):
        learner.take(layer, vector.copy())
    yield learner
    learner.close()


def twin_after(rounds: int, cut: int = 0) -> Twin:
    twin = Twin.start()
    for round_ in range(rounds):
        for batch in sample_order(0, "pi", round_, 5, 12).reshape(4, 3):
            twin.step(X[batch], DATA.y[batch], PLAN.hyperparameters, cut)
    return twin


def test_an_update_is_local_minus_global(strong: Learner) -> None:
    outcome = strong.train(PLAN, "pi", reset=BOTH, afresh=True)
    assert outcome is not None
    twin, start = twin_after(1), Twin.start()
    np.testing.assert_allclose(strong.update(0)[:6], (twin.parameters - start.parameters)[:6], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(strong.update(0)[6:], twin.shift - start.shift, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(strong.update(1), (twin.parameters - start.parameters)[6:], rtol=1e-4, atol=1e-6)


def test_what_is_not_reset_keeps_its_drift_and_the_optimiser_its_momentum(strong: Learner) -> None:
    second = replace(PLAN, round=1)
    strong.train(PLAN, "pi", reset=BOTH, afresh=True)
    strong.train(second, "pi", reset=(), afresh=False)
    drift = twin_after(2).parameters - Twin.start().parameters
    np.testing.assert_allclose(np.concatenate([strong.update(0)[:6], strong.update(1)]), drift, rtol=1e-3, atol=1e-5)


def test_afresh_forgets_drift_and_momentum(strong: Learner) -> None:
    strong.train(PLAN, "pi", reset=BOTH, afresh=True)
    first = [strong.update(layer) for layer in BOTH]
    strong.train(PLAN, "pi", reset=BOTH, afresh=True)
    for layer in BOTH:
        np.testing.assert_array_equal(strong.update(layer), first[layer])


def test_the_same_round_gives_the_same_bits_in_another_learner(
    strong: Learner, manifest: Manifest, tmp_path: Path
) -> None:
    other = learner_of(manifest, tmp_path)
    for layer, vector in enumerate(GLOBALS):
        other.take(layer, vector)
    strong.train(PLAN, "pi", reset=BOTH, afresh=True)
    other.train(PLAN, "pi", reset=BOTH, afresh=True)
    for layer in BOTH:
        np.testing.assert_array_equal(strong.update(layer), other.update(layer))


def test_a_weak_devices_input_side_is_the_same_before_and_after(weak: Learner) -> None:
    before = weak.vectors()["global.0"].copy()
    weak.train(PLAN, "pi", reset=BOTH, afresh=True)
    np.testing.assert_array_equal(weak.vectors()["global.0"], before)
    drift = twin_after(1, cut=1).parameters - Twin.start().parameters
    np.testing.assert_allclose(weak.update(1), drift[6:], rtol=1e-4, atol=1e-6)


def test_training_that_is_stopped_has_no_outcome(strong: Learner, weak: Learner) -> None:
    for learner in (strong, weak):
        assert learner.train(PLAN, "pi", reset=BOTH, afresh=True, stop=lambda: True) is None
    asked = iter([False, False, True])
    assert strong.train(PLAN, "pi", reset=BOTH, afresh=True, stop=lambda: next(asked)) is None
    assert np.abs(strong.update(1)).max() > 0  # two steps were done


def test_training_that_diverges_stops_at_once(strong: Learner) -> None:
    wild = replace(PLAN, local_steps=1000, hyperparameters={"lr": 1e38})
    outcome = strong.train(wild, "pi", reset=BOTH, afresh=True)
    assert outcome is not None
    assert not np.isfinite(outcome.loss)
    assert outcome.steps < 10


def test_a_last_step_that_leaves_the_finite_numbers_shows_in_the_loss(strong: Learner) -> None:
    one_step = replace(PLAN, local_steps=1, hyperparameters={"lr": math.inf})
    outcome = strong.train(one_step, "pi", reset=BOTH, afresh=True)  # the loss is that before the step
    assert outcome is not None
    assert math.isnan(outcome.loss)


def test_a_learner_without_global_values_can_not_train(manifest: Manifest, tmp_path: Path) -> None:
    learner = learner_of(manifest, tmp_path)
    with pytest.raises(ValueError, match="the global value of layer 0 was never taken"):
        learner.train(PLAN, "pi", reset=BOTH, afresh=True)


def test_what_is_written_into_its_vectors_restores_a_learner(
    strong: Learner, manifest: Manifest, tmp_path: Path
) -> None:
    second = replace(PLAN, round=1)
    strong.train(PLAN, "pi", reset=BOTH, afresh=True)
    restored = learner_of(manifest, tmp_path)
    for name, vector in restored.vectors().items():
        vector[...] = strong.vectors()[name]
    assert set(strong.vectors()) == {"global.0", "global.1", "parameters", "statistics", "momentum_buffer"}
    for learner in (strong, restored):
        learner.train(second, "pi", reset=(1,), afresh=False)
    for layer in BOTH:
        np.testing.assert_array_equal(restored.update(layer), strong.update(layer))


def test_a_learner_with_unsuitable_samples_is_not_built(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="takes"):
        learner_of(manifest, tmp_path, data=LabelledSamples(X[:, :1], DATA.y))
