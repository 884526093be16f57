"""How far are a board's gradients from the exact ones? Every network of the zoo, against torch in float64.

A rectifier's gradient jumps where its input crosses zero, so whoever rounds otherwise may fall on its other side: torch
in float32 is up to 4e-3 from torch in float64 on ResNet20. So the kinks are smoothed (`without_kinks`), for both of
them, and what is left is what the training graph itself loses.

The distance of two gradients is |a - b| / |b|, over all parameters of the network.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.reporting import Figures, Row, main
from edge_agent.trainer import INSTALLED, OnnxRuntime
from models.build import build_bundle
from models.bundle import read_bundle
from models.definition import Definition, load_definition
from models.manifest import ONNXRUNTIME
from models.values import flatten

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

Array = NDArray[Any]
Gradient = NDArray[np.float64]


def grad_max_rel_error(networks: Iterable[str] = tuple(NETWORKS)) -> float:
    """The largest `gradient_error` of the named networks, with their kinks smoothed."""
    return max(gradient_error(without_kinks(load_definition(NETWORKS[name]))) for name in networks)


def gradient_error(definition: Definition, *, batch_size: int = BATCH_SIZE) -> float:
    """Distance of the gradient of the training graph, on a board's engine, from torch's in float64.

    All values are moved a little from where they start, because gradients behind a scale of zero tell nothing.
    """
    exact, ours, _ = gradients(definition, batch_size=batch_size)
    return distance(ours, exact)


def gradients(definition: Definition, *, batch_size: int = BATCH_SIZE) -> tuple[Gradient, Gradient, Gradient]:
    """The gradient by torch in float64, by the training graph, and by torch in float32; each flat, in layer order."""
    moved = Definition(**{**vars(definition), "module": _moved(definition.module), "cuts": ()})
    x, y = _batch(definition, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        own = [engine for engine in (INSTALLED,) if engine != ONNXRUNTIME]
        build_bundle(moved, Path(folder) / "bundle", batch_size=batch_size, engines=own)
        bundle = read_bundle(Path(folder) / "bundle")
        spec = bundle.manifest.spec
        trainer = OnnxRuntime().trainer(bundle.manifest, 0, bundle.path)
    trainer.parameters[:], trainer.statistics[:] = flatten(spec, _values(moved.module))
    trainer.step(x, y, {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0})
    (ours,) = trainer.optimiser_state.values()  # from zero, a step's momentum is its gradient

    names = [tensor.name for layer in spec.layers for tensor in layer.parameters]
    exact, rounded = (_torchs(moved, names, x, y, dtype) for dtype in (torch.float64, torch.float32))
    return exact, ours.astype(np.float64), rounded


def distance(found: Gradient, exact: Gradient) -> float:
    """|found - exact| / |exact|."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def without_kinks(definition: Definition) -> Definition:
    """The network with smooth activations: a tangent for every rectifier, averages for maxima."""
    return Definition(**{**vars(definition), "module": _Smoothed(definition.module)})


class _Smoothed(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)

    def forward(self, x: Tensor) -> Tensor:
        with _SmoothingMode():
            return self.module(x)  # type: ignore[no-any-return]  # torch's modules return Any


class _SmoothingMode(TorchFunctionMode):
    """Calls smooth functions in place of those with kinks."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _SMOOTH.get(func, func)(*args, **(kwargs or {}))


def _tangent(x: Tensor, *bounds: object, **options: object) -> Tensor:
    return torch.tanh(x)


def _averaging(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def average(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, **options: object) -> Tensor:
        return pool(x, kernel_size, stride or None, padding)

    return average


_SMOOTH: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.relu, Tensor.relu, F.relu, F.relu6, F.hardtanh), _tangent),
    F.max_pool1d: _averaging(F.avg_pool1d),
    F.max_pool2d: _averaging(F.avg_pool2d),
    Tensor.amax: Tensor.mean,
}


def _moved(module: nn.Module) -> nn.Module:
    """A copy whose values have moved by a little noise."""
    moved = copy.deepcopy(module)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in moved.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=noise))
    return moved


def _batch(definition: Definition, size: int) -> tuple[Array, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    shape = (size, *definition.input_shape)
    is_float = definition.input_dtype == "float32"
    x = rng.standard_normal(shape, np.float32) if is_float else rng.integers(0, TOKENS, shape)
    return x, rng.integers(0, definition.classes, size)


def _values(module: nn.Module) -> dict[str, Array]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def _torchs(definition: Definition, names: Iterable[str], x: Array, y: Array, dtype: torch.dtype) -> Gradient:
    """The gradient by torch, of the parameters ``names``."""
    module = copy.deepcopy(definition.module).to(dtype).train()
    samples = torch.from_numpy(x)
    logits = module(samples.to(dtype) if definition.input_dtype == "float32" else samples)
    F.cross_entropy(logits, torch.from_numpy(y)).backward()  # type: ignore[no-untyped-call]  # torch's own
    tensors = dict(module.named_parameters())
    pieces = [tensors[name].grad for name in names]
    return np.concatenate([piece.double().numpy().reshape(-1) for piece in pieces if piece is not None])


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """The figures and their table."""
    figures: Figures = {}
    table: list[Row] = [
        ("distance from torch float64", "smooth: ours", "torch float32", "rectifiers: ours", "torch float32")
    ]
    for name in ("digits_cnn", "tiny_transformer") if quick else NETWORKS:
        definition = load_definition(NETWORKS[name])
        cells: list[float] = []
        for each in (without_kinks(definition), definition):
            exact, ours, rounded = gradients(each)
            cells += [distance(ours, exact), distance(rounded, exact)]
        table.append((name, *(f"{cell:.1e}" for cell in cells)))
        figures[f"grad_rel_error_{name}"] = cells[0]
    return {"grad_max_rel_error": max(figures.values()), **figures}, table


if __name__ == "__main__":
    main("How far are a board's gradients from the exact ones?", measure)
