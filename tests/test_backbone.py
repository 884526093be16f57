"""A frozen backbone is a block without layers: it is run forward once for each sample, and never in a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.learner import Learner
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.edge_agent.training.trainer import FrozenForward
from lamina.models import layout
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition
from lamina.models.layout import derive_spec
from lamina.models.samples import LabelledSamples
from lamina.models.values import flatten, layer_vector

SHAPE, CLASSES = (2, 8, 8), 3


def frozen(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules).requires_grad_(False)


def convolutions(*between: nn.Module) -> nn.Module:
    torch.manual_seed(1)  # two of them have the same values
    return frozen(
        nn.Conv2d(2, 6, 3, padding=1), *between, nn.Tanh(), nn.Conv2d(6, 8, 3, stride=2), nn.Tanh(), nn.Flatten()
    )


def network(body: nn.Module, *before_head: nn.Module) -> Definition:
    torch.manual_seed(0)
    return Definition(
        "net", nn.Sequential(body, *before_head, nn.Linear(72, 9), nn.Tanh(), nn.Linear(9, CLASSES)), SHAPE, CLASSES
    )


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if self.training else x


class Quiet(nn.Sequential):
    """Frozen, with norms and dropout that are never in training mode."""

    def train(self, mode: bool = True) -> Quiet:
        super().train(False)
        return self


def test_a_frozen_backbone_is_a_block_of_its_own() -> None:
    spec = derive_spec(network(convolutions(), nn.Dropout(0.5)))
    assert [(block.first, block.stop, block.input_shape) for block in spec.blocks] == [
        (0, 0, SHAPE), (0, 1, (72,)), (1, 2, (9,)),
    ]  # fmt: skip
    assert (spec.cuts, spec.input_shape, spec.spans) == ((0, 1), SHAPE, ((0, 1), (1, 2)))


def test_norms_that_stay_in_inference_mode_belong_to_it() -> None:
    body = Quiet(*convolutions(nn.BatchNorm2d(6), nn.Dropout(0.2))).requires_grad_(False)
    spec = derive_spec(network(body))
    assert spec.blocks[0].stop == 0
    assert spec.blocks[1].input_shape == (72,)


@pytest.mark.parametrize(
    "body",
    [
        frozen(nn.Flatten(), nn.ReLU(), nn.AdaptiveAvgPool1d(72)),  # nothing worth keeping
        frozen(nn.BatchNorm2d(2), nn.Conv2d(2, 8, 3, stride=2), nn.Flatten()),  # its statistics move
        frozen(nn.Dropout(0.1), nn.Conv2d(2, 8, 3, stride=2), nn.Flatten()),
        frozen(Noisy(), nn.Conv2d(2, 8, 3, stride=2), nn.Flatten()),  # another function in inference mode
        convolutions().requires_grad_(True),
    ],
    ids=["little work", "moving statistics", "random numbers", "two functions", "trained"],
)
def test_what_may_change_is_no_backbone(body: nn.Module) -> None:
    assert not derive_spec(network(body)).has_backbone


def learner_of(bundle: Bundle, folder: Path, cut: int, data: LabelledSamples, engine: OnnxRuntime) -> Learner:
    spec = bundle.manifest.spec
    learner = Learner(Assignment(bundle.manifest, cut, bundle.path, data, folder, engine))
    flat = flatten(spec, bundle.initial_values())
    for layer in range(len(spec.layers)):
        learner.take(layer, layer_vector(spec, layer, *flat).copy())
    return learner


@pytest.mark.exhaustive
def test_it_is_run_once_for_each_sample_and_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, runs = np.random.default_rng(0), []

    class Counting(OnnxRuntime):
        def forward(self, *args: object, **kwargs: object) -> FrozenForward:
            piece = super().forward(*args, **kwargs)  # type: ignore[arg-type]

            def counted(x: np.ndarray) -> np.ndarray:
                runs.append(len(x))
                return piece(x)

            return counted  # type: ignore[return-value]

    data = LabelledSamples(rng.normal(size=(20, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, 20))

    def build(folder: Path) -> None:
        build_bundle(network(convolutions()), folder, batch_size=5, check=False)

    build(tmp_path / "apart")
    monkeypatch.setattr(layout, "_backbone", lambda *_: None)
    build(tmp_path / "whole")
    updates = []
    for name in ("apart", "whole"):
        bundle = read_bundle(tmp_path / name)
        learner = learner_of(bundle, tmp_path / "spill", 0, data, Counting())
        layers = tuple(range(len(bundle.manifest.spec.layers)))
        for round_ in range(4):
            plan = RoundPlan(
                epoch=1, round=round_, local_steps=8, batch_size=5, hyperparameters={"lr": 0.05, "momentum": 0.9}
            )
            assert learner.train(plan, "d", reset=layers if round_ in (0, 2) else (), afresh=round_ in (0, 2))
            for layer in layers:  # new global values leave the activations alone
                learner.take(layer, learner.held(layer))
        updates.append(np.concatenate([learner.update(layer) for layer in layers]))
        learner.close()
    np.testing.assert_array_equal(*updates)
    assert sum(runs) == 20  # all by the one that has it apart


def test_behind_a_cut_it_is_the_first_piece(tmp_path: Path) -> None:
    build_bundle(
        network(convolutions()), tmp_path / "bundle", batch_size=5
    )  # the proof compares every graph with torch
    bundle = read_bundle(tmp_path / "bundle")
    assert [len(bundle.manifest.pieces_before(cut)) for cut in bundle.manifest.spec.cuts] == [1, 2]
    x = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
    learner = learner_of(bundle, tmp_path / "spill", 1, LabelledSamples(x, np.arange(8) % CLASSES), OnnxRuntime())
    plan = RoundPlan(epoch=1, round=0, local_steps=3, batch_size=4, hyperparameters={"lr": 0.05})
    outcome = learner.train(plan, "d", reset=(0, 1), afresh=True)
    assert outcome is not None
    assert np.isfinite(outcome.loss)
    learner.close()
