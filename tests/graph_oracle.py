"""What does torch compute where a graph of ours runs on ONNX Runtime? The oracle of the graphs' tests.

A graph is judged against torch in float64; how far torch's own float32 lies from that says what float32 can reach.
Graphs are built for the engine that is installed: `scripts/second-engine.sh` runs the same tests on the other one.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
from torch import nn

from lamina.edge_agent.admission.graphs import check_content
from lamina.edge_agent.training.installed import installed
from lamina.models.definition import Definition
from lamina.models.graph import TrainingGraph, inference_graph
from lamina.models.graph import training_graph as training_graph_for
from lamina.models.layout import derive_spec
from lamina.models.segments import joined, spread
from lamina.models.spec import ModelSpec, TensorSpec

Array = np.ndarray[Any, Any]
Groups = list[dict[str, Any]]
HYPERPARAMETERS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


training_graph = partial(training_graph_for, engine=installed())


@dataclass
class State:
    """Flat vectors of a sub-model, and what its last step said."""

    parameters: Array
    statistics: Array
    loss: float = 0.0
    correct: int = 0


def tensors_of(module: nn.Module) -> dict[str, Array]:
    """Parameters and buffers by name, as copies."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: tensor.detach().numpy().copy() for name, tensor in named}


def trained(spec: ModelSpec, cut: int = 0) -> list[TensorSpec]:
    return [tensor for layer in spec.layers[cut:] for tensor in layer.parameters]


def moving(spec: ModelSpec, cut: int = 0) -> list[TensorSpec]:
    return [tensor for layer in spec.layers[cut:] for tensor in layer.statistics]


def flat(tensors: Mapping[str, Array], wanted: Iterable[TensorSpec]) -> Array:
    pieces = [tensors[tensor.name].reshape(-1) for tensor in wanted]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def session(model: onnx.ModelProto, tensors: Mapping[str, Array] | None = None) -> ort.InferenceSession:
    """A session; ``tensors`` are the values of the external initialisers that the model has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    external = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    if external:
        assert tensors is not None
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensors[name])) for name in external]
        options.add_external_initializers(external, values)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, tensors: Mapping[str, Array], x: Array) -> Array:
    """The one output of an inference graph."""
    (result,) = session(model, tensors).run(None, {"x": x})
    return np.asarray(result)


def graph_steps(
    graph: TrainingGraph,
    spec: ModelSpec,
    cut: int,
    tensors: Mapping[str, Array],
    batches: Sequence[tuple[Array, Array]],
    **hyperparameters: float,
) -> State:
    """The state of a sub-model after one step on each of ``batches``."""
    state = State(flat(tensors, trained(spec, cut)), flat(tensors, moving(spec, cut)))
    resident = dict.fromkeys(graph.optimiser_state, np.zeros_like(state.parameters))
    resident |= {name: np.zeros(1, np.float32) for name in graph.optimiser_scalars}
    anchor = {"anchor": state.parameters} if graph.anchored else {}
    running = session(graph.model)
    names = [output.name for output in running.get_outputs()]
    shapes = {place.name: place.shape for place in running.get_inputs()}
    given = graph.hyperparameters | HYPERPARAMETERS | hyperparameters
    for x, y in batches:
        feeds = {"x": x, "y": y, "parameters": state.parameters, **resident, **anchor}
        feeds |= {name: np.array(given[name], np.float32) for name in graph.hyperparameters}
        if state.statistics.size:
            feeds["statistics"] = state.statistics
        after = dict(zip(names, running.run(None, spread(feeds, shapes)), strict=True))
        resident = {name: joined(after, name) for name in resident}
        statistics = after.get("statistics_next", state.statistics)
        state = State(joined(after, "parameters"), statistics, float(after["loss"]), int(after["correct"]))
    return state


def torch_steps(
    definition: Definition,
    spec: ModelSpec,
    cut: int,
    batches: Sequence[tuple[Array, Array]],
    dtype: torch.dtype,
    **hyperparameters: float,
) -> State:
    """The same by torch: layers before the cut in inference mode, and frozen."""
    given = HYPERPARAMETERS | hyperparameters

    def sgd(groups: Groups) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=given["lr"], momentum=given["momentum"])

    return torch_trained(definition, spec, cut, batches, dtype, sgd, decay={"kernel": given["weight_decay"]})


def torch_trained(
    definition: Definition,
    spec: ModelSpec,
    cut: int,
    batches: Sequence[tuple[Array, Array]],
    dtype: torch.dtype,
    make: Callable[[Groups], torch.optim.Optimizer],
    *,
    decay: Mapping[str, float],
    mu: float = 0.0,
    clip_norm: float = math.inf,
    micro_batch: int = 0,
) -> State:
    """The same by any optimiser of torch, with FedProx's term and clipping, each batch in micro-batches if need be.

    Weight decay goes by kind of parameter.
    """
    module = copy.deepcopy(definition.module).to(dtype).train()
    own = {tensor.name: tensor for tensor in trained(spec, cut)}
    for name, part in module.named_modules():
        frozen = {tensor.name for layer in spec.layers[:cut] for tensor in (*layer.parameters, *layer.statistics)}
        if any(f"{name}.{leaf}" in frozen for leaf, _ in (*part.named_parameters(), *part.named_buffers())):
            part.train(any(f"{name}.{leaf}" in own for leaf, _ in part.named_parameters()))
    parameters = dict(module.named_parameters())
    groups = [
        {
            "params": [parameters[name] for name, tensor in own.items() if tensor.kind == kind],
            "weight_decay": decay.get(kind, 0.0),
        }
        for kind in ("kernel", "bias", "norm")
    ]
    optimiser = make([group for group in groups if group["params"]])
    anchors = {name: parameters[name].detach().clone() for name in own}
    state = State(np.zeros(0), np.zeros(0))
    for x, y in batches:
        optimiser.zero_grad()
        state.loss, state.correct = 0.0, 0
        for first in range(0, len(y), micro_batch or len(y)):
            some = slice(first, first + (micro_batch or len(y)))
            samples, labels = torch.tensor(x[some]), torch.tensor(y[some])
            logits = module(samples.to(dtype) if samples.is_floating_point() else samples)
            loss = F.cross_entropy(logits, labels) * len(labels) / len(y)
            loss.backward()
            state.loss += loss.item()
            state.correct += int((logits.argmax(1) == labels).sum())
        if mu:
            (mu / 2 * sum((parameters[name] - anchors[name]).square().sum() for name in own)).backward()
        if clip_norm < math.inf:
            torch.nn.utils.clip_grad_norm_([parameters[name] for name in own], clip_norm)
        optimiser.step()
    after = tensors_of(module)
    state.parameters, state.statistics = flat(after, own.values()), flat(after, moving(spec, cut))
    return state


def distance(parameters: Array, exact: Array, start: Array) -> float:
    """How far ``parameters`` are from the exact ones, relative to how far these have moved from the start."""
    moved = np.linalg.norm(exact - start.astype(np.float64))
    return float(np.linalg.norm(parameters - exact) / moved)


def assert_trains_as_torch_does(definition: Definition, x: Array) -> None:
    """One step and one inference on ``x``, a batch of four, agree with torch; and a board would load the graph."""
    spec, start = derive_spec(definition), tensors_of(definition.module)
    step = [(x, np.array([0, 1, 2, 1]))]
    plain = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}  # so the parameters move by the gradient
    graph = training_graph(definition, spec, 0)
    check_content("step", graph.model.SerializeToString(), batch=len(x), budget_mib=None)
    state = graph_steps(graph, spec, 0, start, step, **plain)
    exact = torch_steps(definition, spec, 0, step, torch.float64, **plain)
    assert distance(state.parameters, exact.parameters, flat(start, trained(spec))) < 1e-5
    assert math.isclose(state.loss, exact.loss, rel_tol=1e-5)
    np.testing.assert_allclose(state.statistics, exact.statistics, rtol=1e-5, atol=1e-6)
    definition.module.eval()
    logits = definition.module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(run(inference_graph(definition, spec), start, x), logits, rtol=1e-4, atol=1e-5)
