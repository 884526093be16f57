"""Predicts how much memory training will take, from a bundle's graphs, for any batch, before anything is run.

    peak = resident + transient + arena(batch)

*Resident* is what a device holds all the time that it trains: the engine's session, the vectors of the sub-model in two
sets, the global values of the whole network and what was received of them, buffers of the link. *Transient* is the
largest of what comes one after the other: the exchange of values, in which the largest layer is there several times,
and the frozen pieces, each with its own session. The *arena* is the engine's, for what a step computes; it is played
through (`graph.arena`) for batches up to the bundle's, and lies between and beyond them on straight lines, as
all activations grow with the batch.

The constants below are of ONNX Runtime 1.32 on Linux, taken from measurements of the zoo (`training.measure`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import onnx

from lamina.models.constants import bytes_of
from lamina.models.graph.arena import Arena
from lamina.models.graph.liveness import allocations
from lamina.models.manifest import Cost
from lamina.models.spec import ModelSpec

MIB = 2**20

_LINK_MIB = 4.0  # what a linked agent takes beside: buffers, messages on their way
_ENGINE_MIB = 2.4  # what a first run of a real graph touches of the engine
_FORWARD_MIB = 2.0  # what frozen pieces touch of it beside: kernels that no trained layer has
_OPERATOR_MIB = 0.0042  # of a session: an operator's node, kernel and place in the plan
_PACKED = 0.9  # a compressed value, of its size in float32
_COPIES_RECEIVED = 3.1  # of the largest layer: joined, decompressed, as a vector, and the value before
_COPIES_FROZEN = 2.0  # of a frozen piece's values: those that the engine arranges for itself
_COPIES_OF_CONSTANTS = 1.0  # of a graph's frozen tensors
_WORKSPACE = 1.06  # of the arena: what kernels take for themselves, and the blocks that it leaves between others
_COPIES_READ = 2  # of what enters the cut for a batch: the one that is read, and the one before
_FORWARD_BATCH = 8  # samples that go through the frozen pieces at once

_FLOAT_BYTES = 4


def cost(
    spec: ModelSpec,
    cut: int,
    graphs: Sequence[onnx.ModelProto],
    pieces: Sequence[onnx.ModelProto],
    batch_size: int,
    *,
    vectors: int,
    single: int = 0,
    sizes: Sequence[int] = (),
) -> Cost:
    """What training from ``cut`` onwards takes.

    Args:
        spec: the network.
        cut: first layer that is trained.
        graphs: those that a step runs, each in a session of its own.
        pieces: the forward graphs before the cut, one after the other.
        batch_size: samples that are in memory at once, at most.
        vectors: how many vectors as long as the parameters are there twice.
        single: how many are there once.
        sizes: batches for which the arena is played through, ascending; by default, `batches` of ``batch_size``.
    """
    parameters = spec.size - spec.parameter_offsets[cut]
    statistics = spec.statistics_offsets[-1] - spec.statistics_offsets[cut]
    elements = (2 * vectors + single) * parameters + 2 * statistics + sum(layer.vector_size for layer in spec.layers)
    constants_mib = _COPIES_OF_CONSTANTS * max(map(bytes_of, graphs)) / MIB  # the sessions share the file's pages
    operators = sum(len(graph.graph.node) for graph in graphs)
    received, row_mib = _mib(_PACKED * sum(layer.vector_size for layer in spec.layers)), _row_mib(spec, cut)
    most = max(layer.vector_size for layer in spec.layers)
    sizes = sizes or batches(batch_size)
    arenas = map(sum, zip(*(_arenas_mib(graph, sizes) for graph in graphs), strict=True))
    return Cost(
        resident_mib=_LINK_MIB
        + _ENGINE_MIB
        + (_FORWARD_MIB if pieces else 0.0)
        + _OPERATOR_MIB * operators
        + _mib(elements)
        + received
        + constants_mib,
        transient_mib=max([_mib(_COPIES_RECEIVED * most), *map(_piece_mib, pieces)]),
        arena=tuple(
            (batch, _WORKSPACE * arena_mib + _COPIES_READ * batch * row_mib)
            for batch, arena_mib in zip(sizes, arenas, strict=True)
        ),
    )


def batches(batch_size: int) -> list[int]:
    """1, 2, 4 and so on, and ``batch_size``."""
    return [*(1 << power for power in range((batch_size - 1).bit_length())), batch_size]


def _row_mib(spec: ModelSpec, cut: int) -> float:
    """What enters the cut for one sample."""
    block = spec.blocks[spec.block_at(cut)]
    return (8 if block.input_dtype == "int64" else 4) * math.prod(block.input_shape) / MIB


def _piece_mib(piece: onnx.ModelProto) -> float:
    values = sum(math.prod(tensor.dims) for tensor in piece.graph.initializer)
    (arena_mib,) = _arenas_mib(piece, [_FORWARD_BATCH])
    return _COPIES_FROZEN * _mib(values) + arena_mib


def _arenas_mib(graph: onnx.ModelProto, batches: Sequence[int]) -> Iterator[float]:
    """What the graph's arena takes, for each batch."""
    for run in allocations(graph, *batches):
        arena = Arena()
        for _ in range(2):  # the second run begins with regions that are there
            arena.run(run)
        yield arena.touched_bytes / MIB


def _mib(elements: float) -> float:
    return elements * _FLOAT_BYTES / MIB
