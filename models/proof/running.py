"""Runs the graphs of a bundle for the check, by the ONNX Runtime that is installed, with all of its optimisations.

The optimiser in a training graph is set so that the gradients can be read off: without momentum and weight decay, the
vector that holds the average of the gradients is the gradient itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from lamina.models.constants import is_given
from lamina.models.graph.writer import DRAWN
from lamina.models.manifest import Manifest
from lamina.models.proof.eager import Step
from lamina.models.segments import joined, spread
from lamina.models.spec import LayerSpec, TensorSpec

Tensors = Mapping[str, NDArray[np.float32]]

NEUTRAL = {
    "lr": 1.0,
    "momentum": 0.0,
    "beta1": 0.0,
    "beta2": 0.0,
    "epsilon": 1.0,
    "weight_decay": 0.0,
    "bias_weight_decay": 0.0,
    "norm_weight_decay": 0.0,
    "mu": 0.0,
    "clip_norm": 1e30,
    "seed": 1.0,
    "share": 1.0,
}
"""Hyperparameters at which the optimiser's first vector is the gradient after a step from zero."""


@dataclass(frozen=True)
class Ran(Step):
    """What a training graph makes of a batch.

    Attributes:
        moved: what the step took from the parameters; ``None`` where the graph has no optimiser.
        drawn: the random tensors of the step, in torch's order.
    """

    moved: NDArray[np.float32] | None
    drawn: tuple[Tensor, ...]


class TrainingRun:
    """A training graph, or an accumulating one, that takes single steps from given values.

    Args:
        manifest: of the bundle.
        layers: those that the graph trains.
        path: of the graph.
        disabled: names of optimisations that are to be left out.
    """

    def __init__(self, manifest: Manifest, layers: Sequence[LayerSpec], path: Path, disabled: Sequence[str]) -> None:
        self._manifest = manifest
        self._trained = [tensor for layer in layers for tensor in layer.parameters]
        self._moving = [tensor for layer in layers for tensor in layer.statistics]
        model = onnx.load(path, load_external_data=False)
        self._drawn = [name for entry in model.metadata_props if entry.key == DRAWN for name in entry.value.split()]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._drawn)
        self._session = session(model.SerializeToString() if self._drawn else str(path), path.parent, {}, disabled)
        self._inputs = {given.name: given.shape for given in self._session.get_inputs()}
        self._outputs = [output.name for output in self._session.get_outputs()]

    def step(self, values: Tensors, x: NDArray[Any], y: NDArray[Any]) -> Ran:
        """One step from ``values``, with everything that an optimiser keeps at zero."""
        parameters, statistics = _flat(values, self._trained), _flat(values, self._moving)
        zeros, zero = np.zeros_like(parameters), np.zeros(1, np.float32)
        feeds = {"x": x, "y": y, "parameters": parameters, "statistics": statistics, "anchor": parameters}
        feeds |= dict.fromkeys(self._manifest.optimiser_state, zeros) | {"gradients": zeros}
        feeds |= dict.fromkeys(self._manifest.optimiser_scalars, zero)
        feeds |= {name: np.array(value, np.float32) for name, value in NEUTRAL.items()}
        results = self._session.run(None, spread(feeds, self._inputs))
        after = dict(zip(self._outputs, results, strict=True))
        whole = "gradients_next" not in after
        gradient = joined(after, self._manifest.optimiser_state[0]) if whole else after["gradients_next"]
        return Ran(
            loss=float(after["loss"]),
            correct=int(after["correct"]),
            gradients=_named(gradient, self._trained),
            statistics=_named(after["statistics_next"], self._moving) if self._moving else {},
            moved=parameters - joined(after, "parameters") if whole else None,
            drawn=tuple(torch.from_numpy(after[name]) for name in self._drawn),
        )


class InferenceGraph:
    """A graph without training: a frozen piece, or the whole network.

    Args:
        path: of the graph.
        values: of its external initialisers, and perhaps of others.
    """

    def __init__(self, path: Path, values: Tensors) -> None:
        wanted = onnx.load(path, load_external_data=False).graph.initializer
        names = [tensor.name for tensor in wanted if is_given(tensor)]
        self._values = {name: np.array(values[name], order="C") for name in names}  # the engine reads their memory
        self._session = session(str(path), path.parent, self._values)

    def __call__(self, x: NDArray[Any]) -> list[NDArray[Any]]:
        """What leaves the graph for x (N, ...): one array, or several."""
        return [np.asarray(result) for result in self._session.run(None, {"x": x})]


def run_metrics(path: Path, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts by a bundle's metrics graph."""
    running = session(str(path), path.parent, {})
    wanted = {place.name for place in running.get_inputs()}
    sums, counts = running.run(["sums", "counts"], {name: value for name, value in feeds.items() if name in wanted})
    return np.asarray(sums), np.asarray(counts)


def session(model: str | bytes, folder: Path, values: Tensors, disabled: Sequence[str] = ()) -> ort.InferenceSession:
    """A session on one thread, as boards make it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if values:
        wrapped = [ort.OrtValue.ortvalue_from_numpy(value) for value in values.values()]
        options.add_external_initializers(list(values), wrapped)
    without = {"disabled_optimizers": list(disabled)} if disabled else {}
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], **without)


def _flat(values: Tensors, tensors: Sequence[TensorSpec]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros(0, np.float32), *(values[tensor.name].reshape(-1) for tensor in tensors)])


def _named(vector: NDArray[np.float32], tensors: Sequence[TensorSpec]) -> dict[str, NDArray[np.float32]]:
    cuts = np.cumsum([tensor.size for tensor in tensors])[:-1]
    pieces = np.split(vector, cuts)
    return {tensor.name: piece.reshape(tensor.shape) for tensor, piece in zip(tensors, pieces, strict=True)}
