"""A device trains the same in micro-batches as at once, with any optimiser, and goes on from a saved state."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import nn

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.learner import Learner
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.samples import LabelledSamples
from lamina.models.values import flatten, layer_vector

RNG = np.random.default_rng(0)
DATA = LabelledSamples(RNG.standard_normal((20, 2, 4, 4), np.float32), RNG.integers(0, 3, 20))
PLAN = RoundPlan(
    epoch=1, round=0, local_steps=6, batch_size=7, hyperparameters={"lr": 0.05, "mu": 0.3, "clip_norm": 0.7}
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))
    folder = tmp_path_factory.mktemp("bundle") / "net"
    definition = Definition("net", module, (2, 4, 4), 3)
    build_bundle(definition, folder, batch_size=7, optimiser="adamw", proximal=True, clipped=True)
    return read_bundle(folder)


@contextmanager
def learner_of(bundle: Bundle, folder: Path, cut: int = 0, **options: object) -> Iterator[Learner]:
    learner = Learner(Assignment(bundle.manifest, cut, bundle.path, DATA, folder, OnnxRuntime(), **options))  # type: ignore[arg-type]
    spec, flat = bundle.manifest.spec, flatten(bundle.manifest.spec, bundle.initial_values())
    for layer in range(len(spec.layers)):
        learner.take(layer, layer_vector(spec, layer, *flat).copy())
    yield learner
    learner.close()


def updates(learner: Learner, bundle: Bundle, cut: int) -> np.ndarray:
    return np.concatenate([learner.update(layer) for layer in range(cut, len(bundle.manifest.spec.layers))])


@pytest.mark.parametrize("micro_batch", [1, 3, 7, 20])
def test_in_micro_batches_a_device_ends_where_it_ends_at_once(bundle: Bundle, tmp_path: Path, micro_batch: int) -> None:
    for cut in bundle.manifest.spec.cuts:
        layers = tuple(range(len(bundle.manifest.spec.layers)))
        with (
            learner_of(bundle, tmp_path, cut) as whole,
            learner_of(bundle, tmp_path, cut, micro_batch=micro_batch) as parts,
        ):
            outcomes = [learner.train(PLAN, "pi", reset=layers, afresh=True) for learner in (whole, parts)]
            assert outcomes[0] is not None
            assert outcomes[1] is not None
            assert outcomes[0].loss == pytest.approx(outcomes[1].loss, rel=1e-5)
            assert outcomes[0].accuracy == outcomes[1].accuracy
            expected = updates(whole, bundle, cut)
            assert np.linalg.norm(updates(parts, bundle, cut) - expected) < 1e-5 * np.linalg.norm(expected)


def test_a_pull_holds_a_device_back(bundle: Bundle, tmp_path: Path) -> None:
    layers = tuple(range(len(bundle.manifest.spec.layers)))
    drifts = []
    for mu in (0.0, 100.0):
        given = {**PLAN.hyperparameters, "mu": mu, "clip_norm": 1e9}
        with learner_of(bundle, tmp_path) as learner:
            learner.train(replace(PLAN, hyperparameters=given), "pi", reset=layers, afresh=True)
            drifts.append(np.linalg.norm(updates(learner, bundle, 0)))
    assert drifts[1] < 0.9 * drifts[0]


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_the_optimisers_state_is_part_of_what_is_saved(bundle: Bundle, tmp_path: Path, micro_batch: int) -> None:
    layers = tuple(range(len(bundle.manifest.spec.layers)))
    with (
        learner_of(bundle, tmp_path, micro_batch=micro_batch) as learner,
        learner_of(bundle, tmp_path, micro_batch=micro_batch) as restored,
    ):
        learner.train(PLAN, "pi", reset=layers, afresh=True)
        state = learner.vectors()
        assert {"mean_state", "square_state", "mean_of_ones", "square_of_ones"} < state.keys()
        assert state["mean_of_ones"][0] == pytest.approx(1 - 0.9**6, rel=1e-5)
        for name, vector in restored.vectors().items():
            vector[...] = state[name]
        for each in (learner, restored):
            each.train(replace(PLAN, round=1), "pi", reset=(), afresh=False)
        np.testing.assert_array_equal(updates(restored, bundle, 0), updates(learner, bundle, 0))


def test_a_bundle_without_the_graphs_says_so(bundle: Bundle, tmp_path: Path) -> None:
    bare = [replace(sub_model, accumulating=None) for sub_model in bundle.manifest.sub_models]
    manifest = replace(bundle.manifest, sub_models=tuple(bare))
    with pytest.raises(ModelError, match="no graphs for training cut 0 in parts"):
        Learner(Assignment(manifest, 0, bundle.path, DATA, tmp_path, OnnxRuntime(), micro_batch=2))


def test_activations_kept_in_half_precision_change_an_update_by_little(bundle: Bundle, tmp_path: Path) -> None:
    cut, layers = bundle.manifest.spec.cuts[-1], tuple(range(len(bundle.manifest.spec.layers)))
    found = []
    for element in ("float32", "float16"):
        with learner_of(bundle, tmp_path, cut, cache_element=element) as learner:
            learner.train(PLAN, "pi", reset=layers, afresh=True)
            found.append(updates(learner, bundle, cut))
    assert 0 < np.linalg.norm(found[1] - found[0]) < 5e-3 * np.linalg.norm(found[0])
