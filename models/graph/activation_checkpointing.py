"""Activation checkpointing: a step that computes activations again for the backward pass takes less memory.

The forward pass is cut into segments where a single activation is live. That activation, the segment's *entry*, is
kept. All else that the backward pass reads of a segment is computed a second time from the entry, when the backward
pass has come to the segment (Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv 1604.06174).
The last segment is left as it is: its backward pass follows at once. The same operators on the same values give the
same bits.

An engine that finds the same operator on the same inputs twice would merge the two. So the second time begins behind a
*fence*: the entry, reshaped to the shape that it has, where the shape is computed with that of a gradient from behind
the segment. No optimiser sees through that, and the segment can't begin before there is that gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lamina.models.graph.liveness import allocations_of, highest_bytes, read, tensor_bytes

_MOST_SEGMENTS = 10
_WORTH_IT = 0.1
_AGAIN = "again_"
_BATCHES = (2, 3)  # a tensor whose size differs between them depends on the batch


def checkpointed(model: onnx.ModelProto, batch: int, *, worth_bytes: int = 1 << 19) -> onnx.ModelProto:
    """The training graph ``model`` so cut that it takes the least memory for a batch of that many samples.

    It is ``model`` itself where no cut saves a tenth, and ``worth_bytes``.
    """
    anatomy, sizes = _Anatomy.of(model), tensor_bytes(model, batch)
    whole = highest_bytes(allocations_of(model.graph, sizes))
    best, least = model, min((1 - _WORTH_IT) * whole, whole - worth_bytes)
    for segments in range(2, min(_MOST_SEGMENTS, len(anatomy.points) + 1) + 1):
        candidate = _divided(model, anatomy, _spread(anatomy.points, segments))
        again = {name: sizes.get(_original(name), 0) for each in candidate.graph.node for name in each.output}
        taken = highest_bytes(allocations_of(candidate.graph, again))
        if taken < least:
            best, least = candidate, taken
    return best


@dataclass(frozen=True)
class _Point:
    """A point where the forward pass may be cut: before ``operators[index]`` only ``entry`` is live; what came before
    it.
    """

    index: int
    entry: str
    bytes_before: int


@dataclass(frozen=True)
class _Anatomy:
    """Which operators are the forward pass, what they make of the samples, and where the forward pass may be cut."""

    forward: frozenset[int]
    batched: frozenset[str]
    points: tuple[_Point, ...]

    @staticmethod
    def of(model: onnx.ModelProto) -> _Anatomy:
        few, more = (tensor_bytes(model, batch) for batch in _BATCHES)
        of_samples = _depending_on("x", model.graph.node)
        batched = frozenset(name for name in of_samples if few.get(name) != more.get(name))
        forward = frozenset(_forward(model.graph.node))
        return _Anatomy(forward, batched, tuple(_points(model, forward, batched, more)))


def _depending_on(source: str, operators: Iterable[onnx.NodeProto]) -> set[str]:
    """``source``, and what depends on its values, and not on its shape alone."""
    found = {source}
    for operator in operators:
        if operator.op_type not in ("Shape", "Size") and found.intersection(read(operator)):
            found.update(operator.output)
    return found


def _forward(operators: Sequence[onnx.NodeProto]) -> Iterator[int]:
    """Indices of the forward pass: what the loss depends on, and what was written before it without the labels.

    The latter is there for the backward pass, such as the deviations of a group norm.
    """
    needed, before_the_loss = {"loss"}, False
    of_labels = _depending_on("y", operators)
    for index in reversed(range(len(operators))):
        outputs = operators[index].output
        before_the_loss |= "loss" in outputs
        if needed.intersection(outputs):
            needed.update(read(operators[index]))
            yield index
        elif before_the_loss and not of_labels.intersection(outputs):
            yield index


def _points(
    model: onnx.ModelProto, forward: frozenset[int], batched: frozenset[str], sizes: Mapping[str, int]
) -> Iterator[_Point]:
    operators = model.graph.node
    last = {name: index for index in sorted(forward) for name in read(operators[index])}
    live: set[str] = {"x"}
    so_far = 0
    for index in sorted(forward):
        live = {name for name in live if last.get(name, -1) >= index}
        if len(live) == 1 and "x" not in live and "y" not in live:
            yield _Point(index, next(iter(live)), so_far)
        own = [name for name in operators[index].output if name in batched]
        so_far += sum(sizes.get(name, 0) for name in own)
        live.update(name for name in own if name in last)


def _spread(points: Sequence[_Point], segments: int) -> list[_Point]:
    """Points that divide what was computed into that many parts, as equal as may be."""
    whole = points[-1].bytes_before
    wanted = [whole * part / segments for part in range(1, segments)]
    chosen = {min(points, key=lambda point: abs(point.bytes_before - place)) for place in wanted}
    return sorted(chosen, key=lambda point: point.index)


def _divided(model: onnx.ModelProto, anatomy: _Anatomy, points: Sequence[_Point]) -> onnx.ModelProto:
    """``model`` with every segment between these points, and the one before the first, computed again."""
    divided = onnx.ModelProto()
    divided.CopyFrom(model)
    starts = [_Point(0, "x", 0), *points]
    for number, (start, stop) in enumerate(zip(starts, points, strict=False)):
        _compute_again(divided.graph, model.graph.node, anatomy, start, stop, f"{_AGAIN}{number}.")
    return divided


def _original(name: str) -> str:
    """What a tensor is the second copy of; itself, where it is none."""
    return name.partition(".")[2] if name.startswith(_AGAIN) else name


def _compute_again(
    graph: onnx.GraphProto,
    originals: Sequence[onnx.NodeProto],
    anatomy: _Anatomy,
    start: _Point,
    stop: _Point,
    prefix: str,
) -> None:
    """Add a second copy of the forward operators from ``start`` to ``stop``, and have the backward pass read that.

    What does not depend on the entry, as a dropout's random numbers, is kept: nothing would hold up its second copy.
    """
    segment = [originals[index] for index in sorted(anatomy.forward) if start.index <= index < stop.index]
    made = (_depending_on(start.entry, segment) & anatomy.batched) - {start.entry, stop.entry}
    forward = {originals[index].name for index in anatomy.forward}
    backward = [operator for operator in graph.node if operator.name not in forward]
    readers = [operator for operator in backward if made.intersection(read(operator))]
    if not readers:
        return
    first = next(index for index, operator in enumerate(graph.node) if operator.name == readers[0].name)
    gate = _gate(graph.node[:first], forward, anatomy.batched)
    if gate is None:
        return
    needed = {name for operator in readers for name in read(operator)} & made
    again = list(_copies(segment, needed, made, start.entry, prefix))
    for operator in readers:
        operator.input[:] = [prefix + name if name in made else name for name in operator.input]
    fence = (
        list(_fence(graph, start.entry, gate, prefix))
        if any(prefix + start.entry in one.input for one in again)
        else []
    )
    rest = list(graph.node[first:])
    del graph.node[first:]
    graph.node.extend([*fence, *again, *rest])


def _gate(before: Sequence[onnx.NodeProto], forward: set[str], batched: frozenset[str]) -> str | None:
    """The last gradient that is there before the segment is needed, and whose shape only a run knows.

    A gradient depends on the labels. What does not may be had as soon as the forward pass is done, and would hold up
    nothing.
    """
    of_labels = _depending_on("y", before)
    for operator in reversed(before):
        if operator.name not in forward and operator.output[0] in batched & of_labels:
            return str(operator.output[0])
    return None


def _copies(
    segment: Sequence[onnx.NodeProto], needed: set[str], made: set[str], entry: str, prefix: str
) -> Iterator[onnx.NodeProto]:
    """The operators of the segment that ``needed`` depends on, with names of their own."""
    kept: list[onnx.NodeProto] = []
    needed = set(needed)
    for operator in reversed(segment):
        if needed.intersection(operator.output):
            kept.append(operator)
            needed.update(made.intersection(read(operator)))
    own = {name for operator in kept for name in operator.output} | {entry}
    for operator in reversed(kept):
        copy = onnx.NodeProto()
        copy.CopyFrom(operator)
        copy.name = prefix + operator.name
        copy.input[:] = [prefix + name if name in own else name for name in operator.input]
        copy.output[:] = [prefix + name if name else name for name in operator.output]
        yield copy


def _fence(graph: onnx.GraphProto, entry: str, gate: str, prefix: str) -> Iterator[onnx.NodeProto]:
    """The entry under the name ``prefix + entry``, once ``gate`` is there."""
    nought = f"{prefix}nought"
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), nought))
    yield helper.make_node("Shape", [entry], [f"{prefix}shape"], f"{prefix}shape")
    yield helper.make_node("Shape", [gate], [f"{prefix}gate"], f"{prefix}gate", start=0, end=1)
    yield helper.make_node("Mul", [f"{prefix}gate", nought], [f"{prefix}none"], f"{prefix}none")
    yield helper.make_node("Add", [f"{prefix}shape", f"{prefix}none"], [f"{prefix}same"], f"{prefix}same")
    yield helper.make_node("Reshape", [entry, f"{prefix}same"], [prefix + entry], f"{prefix}fence")
