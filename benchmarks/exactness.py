"""The distance of a board's gradients from the exact ones, for every network of the zoo; torch in float64 is the judge.

A rectifier's gradient jumps where its input crosses zero, so whoever rounds otherwise may fall on its other side: torch
in float32 is up to 4e-3 from torch in float64 on ResNet20. So each network is measured twice: with its kinks smoothed,
where what is left is what the training graph itself loses, and as it is, beside torch's own float32, as medians over
several batches, since in one batch it is luck whether an input lies next to zero.

The distance of two gradients is |a - b| / |b|, over all parameters of the network; that of parameters after some steps
is relative to how far training has moved the exact ones. Initial values are moved a little from where they start,
because gradients behind a scale of zero tell nothing.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from benchmarks.reporting import Figures, Row, main
from benchmarks.smoothing import without_kinks
from lamina.edge_agent.training.installed import installed
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.edge_agent.training.trainer import Trainer
from lamina.models.build import build_bundle
from lamina.models.bundle import read_bundle
from lamina.models.definition import Definition, load_definition
from lamina.models.manifest import ONNXRUNTIME
from lamina.models.spec import ModelSpec, TensorSpec
from lamina.models.values import flatten

# Without dropout, of which torch draws its own; else as in the zoo, made smaller where that costs nothing but time.
NETWORKS = {
    "digits_cnn": "digits_cnn",
    "ds_cnn": "ds_cnn",
    "leaf_cnn": "leaf_cnn,hidden=64",
    "mobilenet_v2": "mobilenet_v2,width=0.25",
    "resnet20": "resnet20",
    "resnet20_group_norm": "resnet20,norm=group",
    "sensor_cnn": "sensor_cnn",
    "text_lstm": "text_lstm,vocabulary=100,length=40",
    "tiny_transformer": "tiny_transformer,vocabulary=100,length=40,depth=2,dropout=0",
}
BATCH_SIZE = 8
TOKENS = 100
STEPS = 50
STANDING = {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}
DESCENT = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3}

Array = NDArray[Any]
Exact = NDArray[np.float64]
Batch = tuple[Array, NDArray[np.int64]]


@dataclass(frozen=True)
class Distances:
    """Distances from torch in float64: of the training graph on a board's engine, and of torch in float32."""

    ours: float
    torchs: float


def grad_max_rel_error(networks: Iterable[str] = tuple(NETWORKS)) -> float:
    """The largest distance of a gradient, over the named networks, with their kinks smoothed."""
    return max(Compared(without_kinks(load_definition(NETWORKS[name]))).of_gradients().ours for name in networks)


class Compared:
    """A network in the training graph and in torch, with the same values.

    Args:
        definition: the network.
        batch_size: samples a step.
    """

    def __init__(self, definition: Definition, batch_size: int = BATCH_SIZE) -> None:
        self._definition = Definition(**{**vars(definition), "module": _moved(definition.module), "cuts": ()})
        self._batch_size = batch_size
        self._spec, self._trainer = _trainer_of(self._definition, batch_size)
        self._start()

    def gradients(self, seed: int = 0) -> tuple[Exact, Exact, Exact]:
        """Return the gradients on one batch by torch in float64, by the training graph, and by torch in float32; each
        is flat.
        """
        self._start()
        batch = _batch(self._definition, self._batch_size, seed)
        self._trainer.step(*batch, STANDING)
        (ours,) = self._trainer.optimiser_state.values()  # from zero, a step's momentum is its gradient
        exact, rounded = (self._torchs_gradient(batch, dtype) for dtype in (torch.float64, torch.float32))
        return exact, ours.astype(np.float64), rounded

    def of_gradients(self, batches: int = 1) -> Distances:
        """Medians over some batches."""
        ours, torchs = [], []
        for seed in range(batches):
            exact, found, rounded = self.gradients(seed)
            ours.append(distance(found, exact))
            torchs.append(distance(rounded, exact))
        return Distances(median(ours), median(torchs))

    def after_steps(self, steps: int = STEPS) -> Distances:
        """Return distances of the parameters after steps of SGD, each on a batch of its own; the last batch is half as
        large.
        """
        self._start()
        start = self._trainer.parameters.astype(np.float64)
        sizes = [self._batch_size] * (steps - 1) + [self._batch_size // 2]
        batches = [_batch(self._definition, size, seed) for seed, size in enumerate(sizes)]
        for batch in batches:
            self._trainer.step(*batch, DESCENT)
        exact, rounded = (self._descended(batches, dtype) for dtype in (torch.float64, torch.float32))
        ours = self._trainer.parameters.astype(np.float64)
        return Distances(distance(ours - start, exact - start), distance(rounded - start, exact - start))

    def _start(self) -> None:
        values = {name: tensor.detach().numpy() for name, tensor in self._definition.module.state_dict().items()}
        self._trainer.parameters[:], self._trainer.statistics[:] = flatten(self._spec, values)
        for vector in self._trainer.optimiser_state.values():
            vector[:] = 0

    def _torchs_gradient(self, batch: Batch, dtype: torch.dtype) -> Exact:
        module = copy.deepcopy(self._definition.module).to(dtype).train()
        _backward(module, batch, dtype)
        return _flat(parameter.grad for _, parameter in self._trained(module))

    def _descended(self, batches: Iterable[Batch], dtype: torch.dtype) -> Exact:
        """The parameters after a step of torch's SGD on each batch; only kernels decay, as in the training graph."""
        module = copy.deepcopy(self._definition.module).to(dtype).train()
        groups = [
            {
                "params": [parameter for spec, parameter in self._trained(module) if (spec.kind == "kernel") == decays],
                "weight_decay": DESCENT["weight_decay"] * decays,
            }
            for decays in (True, False)
        ]
        optimiser = torch.optim.SGD(groups, lr=DESCENT["lr"], momentum=DESCENT["momentum"])
        for batch in batches:
            optimiser.zero_grad()
            _backward(module, batch, dtype)
            optimiser.step()
        return _flat(parameter.detach() for _, parameter in self._trained(module))

    def _trained(self, module: nn.Module) -> list[tuple[TensorSpec, nn.Parameter]]:
        named = dict(module.named_parameters())
        return [(spec, named[spec.name]) for layer in self._spec.layers for spec in layer.parameters]


def distance(found: Exact, exact: Exact) -> float:
    """|found - exact| / |exact|."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def _trainer_of(definition: Definition, batch_size: int) -> tuple[ModelSpec, Trainer]:
    with tempfile.TemporaryDirectory() as folder:
        own = [engine for engine in (installed(),) if engine != ONNXRUNTIME]
        build_bundle(definition, Path(folder) / "bundle", batch_size=batch_size, engines=own)
        bundle = read_bundle(Path(folder) / "bundle")
        return bundle.manifest.spec, OnnxRuntime().trainer(bundle.manifest, 0, bundle.path)


def _moved(module: nn.Module) -> nn.Module:
    """A copy whose values have moved by a little noise."""
    moved = copy.deepcopy(module)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in moved.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=noise))
    return moved


def _batch(definition: Definition, size: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    shape = (size, *definition.input_shape)
    is_float = definition.input_dtype == "float32"
    x = rng.standard_normal(shape, np.float32) if is_float else rng.integers(0, TOKENS, shape)
    return x, rng.integers(0, definition.classes, size)


def _backward(module: nn.Module, batch: Batch, dtype: torch.dtype) -> None:
    x, y = map(torch.from_numpy, batch)
    loss = F.cross_entropy(module(x.to(dtype) if x.is_floating_point() else x), y)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own


def _flat(tensors: Iterable[torch.Tensor | None]) -> Exact:
    return np.concatenate([tensor.double().numpy().reshape(-1) for tensor in tensors if tensor is not None])


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """The figures and their table."""
    figures: Figures = {}
    ratios = []
    heads = ("smooth: ours", "as it is: ours", f"{STEPS} steps: ours")
    pairs = [cell for head in heads for cell in (head, "torch float32")]
    table: list[Row] = [("distance from torch float64", *pairs)]
    for name in ("digits_cnn", "tiny_transformer") if quick else NETWORKS:
        definition = load_definition(NETWORKS[name])
        smooth = Compared(without_kinks(definition))
        found = smooth.of_gradients(), Compared(definition).of_gradients(3 if quick else 11), smooth.after_steps()
        table.append((name, *(f"{each:.1e}" for pair in found for each in (pair.ours, pair.torchs))))
        figures[f"grad_rel_error_{name}"] = found[0].ours
        ratios.append([pair.ours / pair.torchs for pair in found[1:]])
    return {
        "grad_max_rel_error": max(figures.values()),
        "grad_as_it_is_vs_torch_float32": max(ratio for ratio, _ in ratios),
        "steps_vs_torch_float32": max(ratio for _, ratio in ratios),
        **figures,
    }, table


if __name__ == "__main__":
    main("How far are a board's gradients from the exact ones?", measure)
