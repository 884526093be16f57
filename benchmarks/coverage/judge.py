"""One step and one inference of a network through its graphs, judged against torch in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lamina.edge_agent.admission.graphs import check_content
from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph import TrainingGraph, inference_graph, training_graph
from lamina.models.layout import derive_spec
from lamina.models.segments import joined, spread
from lamina.models.spec import ModelSpec, TensorSpec

Array = NDArray[Any]
Status = Literal["right", "wrong", "refused", "crashed", "meaningless"]

# A gradient is wrong where it is further from float64 than this, relative to its norm, and also ten times further than
# torch's own float32. Tensors whose gradient is a thousandth of the whole are judged by that scale.
TOLERANCE = 1e-4
_SMALL_SHARE = 1e-3
_PLAIN = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}  # so the parameters move by the gradient


@dataclass(frozen=True)
class Verdict:
    """What became of one case, and why."""

    status: Status
    why: str = ""


@dataclass(frozen=True)
class _Step:
    loss: float
    gradients: dict[str, Array]
    statistics: dict[str, Array]


def judged(definition: Definition, x: Array, y: Array) -> Verdict:
    """Train and run ``definition`` on one batch, by its graphs and by torch.

    A network that draws random numbers is right where it runs and stays finite: torch draws its own.
    """
    try:
        spec = derive_spec(definition)
        graph, inference = training_graph(definition, spec, 0), inference_graph(definition, spec)
    except ModelError as error:
        return Verdict("refused", str(error))
    except Exception as error:
        return Verdict("crashed", f"while its graphs are written: {_told(error)}")
    start = _tensors(definition.module)
    try:
        check_content("step", graph.model.SerializeToString(), batch=len(x), budget_mib=None)
    except ModelError as error:
        return Verdict("crashed", f"a board would not load it: {error}")
    try:
        step, logits = _graph_step(graph, spec, start, x, y), _graph_logits(inference, start, x)
    except Exception as error:
        return Verdict("crashed", f"in a session: {_told(error)}")
    if "seed" in graph.hyperparameters:
        finite = np.isfinite(step.loss) and np.isfinite(logits).all()
        return Verdict("right" if finite else "wrong", "draws random numbers")
    return _compared(definition, spec, start, step, logits, x, y)


def _compared(
    definition: Definition,
    spec: ModelSpec,
    start: Mapping[str, Array],
    step: _Step,
    logits: Array,
    x: Array,
    y: Array,
) -> Verdict:
    single = _torch_step(definition.module, spec, x, y, torch.float32)
    try:
        exact = _torch_step(definition.module, spec, x, y, torch.float64)
    except Exception:  # some of torch's own operators know float32 alone
        exact = single
    scale = float(np.sqrt(sum(np.square(_finite(gradient)).sum() for gradient in exact.gradients.values())))
    for name, gradient in exact.gradients.items():
        resolution = 1e-7 * np.linalg.norm(start[name]) / TOLERANCE  # of a difference of two parameters in float32
        floor = max(_SMALL_SHARE * scale, float(resolution), 1e-12)
        if _differs(step.gradients[name], gradient, single.gradients[name], floor):
            return Verdict("wrong", f"gradient of {name}")
    for name, statistic in exact.statistics.items():
        if _differs(step.statistics[name], statistic, single.statistics[name], 1e-6):
            return Verdict("wrong", f"statistic {name}")
    if _differs(np.array(step.loss), np.array(exact.loss), np.array(single.loss), 1.0):
        return Verdict("wrong", f"loss {step.loss} instead of {exact.loss}")
    single_logits = _torch_logits(definition.module, x, torch.float32)
    try:
        exact_logits = _torch_logits(definition.module, x, torch.float64)
    except Exception:
        exact_logits = single_logits
    if _differs(logits, exact_logits, single_logits, 1e-6):
        return Verdict("wrong", "logits of the inference graph")
    return Verdict("right")


def _differs(ours: Array, exact: Array, single: Array, floor: float) -> bool:
    """Whether ``ours`` is further from the exact values than ten times torch's own float32."""
    if ours.shape != exact.shape:
        return True
    odd = np.isfinite(ours) != np.isfinite(exact)
    if odd.any() and not (np.isfinite(single) != np.isfinite(exact)).any():
        return True
    norm = max(float(np.linalg.norm(_finite(exact))), floor)
    error, of_torch = (float(np.linalg.norm(_finite(each - exact))) / norm for each in (ours, single))
    return error > TOLERANCE and error > 10 * of_torch


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0)


def _graph_step(graph: TrainingGraph, spec: ModelSpec, start: Mapping[str, Array], x: Array, y: Array) -> _Step:
    session = _session(graph.model, start)
    trained = [tensor for layer in spec.layers for tensor in layer.parameters]
    moving = [tensor for layer in spec.layers for tensor in layer.statistics]
    before = _flat(start, trained)
    given = graph.hyperparameters | _PLAIN
    feeds = {"x": x, "y": y, "parameters": before}
    feeds |= {name: np.zeros_like(before) for name in graph.optimiser_state}
    feeds |= {name: np.zeros(1, np.float32) for name in graph.optimiser_scalars}
    feeds |= {name: np.array(given[name], np.float32) for name in graph.hyperparameters}
    if moving:
        feeds["statistics"] = _flat(start, moving)
    names = [output.name for output in session.get_outputs()]
    wanted = {value.name: value.shape for value in session.get_inputs()}
    after = dict(zip(names, session.run(None, spread(feeds, wanted)), strict=True))
    gradients = before.astype(np.float64) - joined(after, "parameters")
    statistics = _split(after["statistics_next"], moving) if moving else {}
    return _Step(float(after["loss"]), _split(gradients, trained), statistics)


def _graph_logits(model: onnx.ModelProto, start: Mapping[str, Array], x: Array) -> Array:
    return np.asarray(_session(model, start).run(None, {"x": x})[0])


def _torch_step(module: nn.Module, spec: ModelSpec, x: Array, y: Array, dtype: torch.dtype) -> _Step:
    own = copied(module).to(dtype).train()
    parameters = dict(own.named_parameters())
    loss = F.cross_entropy(own(_input(x, dtype)), torch.tensor(y))
    trained = [tensor.name for layer in spec.layers for tensor in layer.parameters]
    moving = {tensor.name for layer in spec.layers for tensor in layer.statistics}
    wanted = [parameters[name] for name in trained]
    gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
    named = {name: _array(gradient) for name, gradient in zip(trained, gradients, strict=True)}
    statistics = {name: _array(value) for name, value in own.named_buffers() if name in moving}
    return _Step(float(loss), named, statistics)


def _torch_logits(module: nn.Module, x: Array, dtype: torch.dtype) -> Array:
    with torch.no_grad():
        return _array(copied(module).to(dtype).eval()(_input(x, dtype)))


def copied(module: nn.Module) -> nn.Module:
    """A copy, without what hooks of old parametrisations left in the module: they make it anew."""
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor) and (not value.is_leaf or type(value) is not Tensor):
                del vars(part)[name]
    return copy.deepcopy(module)


def _session(model: onnx.ModelProto, tensors: Mapping[str, Array]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    names = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if names:
        values = [ort.OrtValue.ortvalue_from_numpy(tensors[name]) for name in names]
        options.add_external_initializers(names, values)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _tensors(module: nn.Module) -> dict[str, Array]:
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: np.array(tensor.detach().numpy(), order="C") for name, tensor in named}


def _flat(tensors: Mapping[str, Array], wanted: list[TensorSpec]) -> Array:
    return np.concatenate([tensors[tensor.name].reshape(-1) for tensor in wanted])


def _split(vector: Array, tensors: list[TensorSpec]) -> dict[str, Array]:
    stops = np.cumsum([tensor.size for tensor in tensors])[:-1]
    pieces = np.split(vector, stops)
    return {tensor.name: piece.reshape(tensor.shape) for tensor, piece in zip(tensors, pieces, strict=True)}


def _input(x: Array, dtype: torch.dtype) -> Tensor:
    tensor = torch.tensor(x)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _array(tensor: Tensor) -> Array:
    known = tensor.new_zeros(tensor.shape) if tensor._is_zerotensor() else tensor  # zeros that torch has not written
    return known.detach().numpy().astype(np.float64)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
