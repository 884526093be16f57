"""The objective of a definition, its task seen on what its forward pass returns; and the graph of its metrics."""

from __future__ import annotations

from functools import lru_cache

import onnx
import torch
from torch import Tensor

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.flattening import flatten, without_values
from lamina.models.graph.tracing import TracedForward, example, trace
from lamina.models.graph.translation import translate
from lamina.models.graph.untraceable import Witness, reason
from lamina.models.graph.writer import GraphWriter
from lamina.models.metrics import MetricSpec
from lamina.models.tasks.base import Metric, NetworkFacts, Objective, Outputs
from lamina.models.tasks.resolving import is_usual, resolved, task_of


@lru_cache(maxsize=8)
def objective_of(definition: Definition) -> Objective:
    """What the network is trained and judged by; the last few are remembered.

    Raises:
        ModelError: the network can't be traced, or its outputs don't suit its task.
    """
    forward = trace(definition, training=False)
    task, loss = task_of(definition.name, definition.task, definition.loss, definition.classes)
    network = NetworkFacts(
        definition.name,
        forward.arranged([example(output) for output in forward.outputs]),
        definition.classes,
        definition.input_shape,
        definition.input_dtype,
        tuple(one.name for one in definition.inputs),
    )
    return resolved(task, loss, definition.loss, definition.metrics, network)


def has_metrics_graph(definition: Definition) -> bool:
    """Whether the bundle says how its model is judged; one label a sample is judged by accuracy without a word."""
    task, _ = task_of(definition.name, definition.task, definition.loss, definition.classes)
    return not is_usual(task, definition.loss, definition.metrics)


def metrics_graph(definition: Definition) -> tuple[onnx.ModelProto, tuple[MetricSpec, ...]]:
    """The graph from the outputs of the inference graph and ``y`` to ``sums`` and ``counts``, and the metrics in it.

    Raises:
        ModelError: a metric can't be traced, or has an operator without a rule.
    """
    objective, forward = objective_of(definition), trace(definition, training=False)
    figures = objective.figures
    specs: list[MetricSpec] = []

    def judged(tensors: dict[str, Tensor], *given: Tensor) -> list[Tensor]:
        *results, y = given
        pairs = [_pair(definition, name, metric, forward.arranged(results), y) for name, metric in figures.items()]
        specs[:] = [
            MetricSpec(name, len(sums), metric.finish, metric.better)
            for (name, metric), (sums, _) in zip(figures.items(), pairs, strict=True)
        ]
        return [torch.cat([sums for sums, _ in pairs]), torch.cat([counts for _, counts in pairs])]

    with without_values(forward):
        results = [torch.empty_like(example(output), requires_grad=False) for output in forward.outputs]
        y = _targets(objective, results[0].shape[0])
    g = GraphWriter(f"{forward.name}: metrics", batched="y")
    inputs = [
        g.input(name, str(result.dtype).removeprefix("torch."), ("N", *result.shape[1:]))
        for name, result in zip(output_names(forward), results, strict=True)
    ]
    inputs.append(g.input("y", objective.target.dtype, ("N", *objective.target.shape)))
    sums, counts = translate(g, forward, flatten(forward, judged, *results, y), {}, inputs)
    size = sum(spec.size for spec in specs)
    g.output("sums", sums, sums.dtype, (size,))  # a graph has float32: batches are added in float64
    g.output("counts", counts, counts.dtype, (size,))
    return g.model(), tuple(specs)


def output_names(forward: TracedForward) -> list[str]:
    """Names of the inference graph's outputs, in the order of `TracedForward.outputs`."""
    return ["logits"] if len(forward.names) == 1 and not forward.names[0] else list(forward.names)


def targets_without_values(forward: TracedForward, objective: Objective, batch: object) -> Tensor:
    """Targets of a batch of that extent, of which only shape and type are known."""
    with without_values(forward):
        return _targets(objective, batch)


def _targets(objective: Objective, batch: object) -> Tensor:
    dtype: torch.dtype = getattr(torch, objective.target.dtype)
    return torch.empty((batch, *objective.target.shape), dtype=dtype)  # type: ignore[arg-type]  # a symbolic extent


def _pair(definition: Definition, name: str, metric: Metric, outputs: Outputs, y: Tensor) -> tuple[Tensor, Tensor]:
    """A metric's sums and counts, each a vector."""
    witness = Witness()
    try:
        with witness.watching():
            sums, counts = metric.function(outputs, y)
    except ModelError:
        raise
    except Exception as error:  # whatever the user's function raises
        raise ModelError(f"model {definition.name}: metric {name} can't be traced: {reason(error, witness)}") from error
    return sums.double().reshape(-1), counts.double().reshape(-1)
