"""A model as a federation sees it: tensors in layers, layers in blocks, and the cuts between blocks.

Nothing here needs torch: a board reads a `ModelSpec` from a bundle's manifest.

The state of a model has two flat parts, both float32:

- the *parameters* of all layers, in layer order, tensors in the order of their layer;
- the *statistics* (running means and variances of batch norms), in the same order. They are averaged, never trained.

So what a device trains from a cut onwards is a *suffix* of both parts, and a layer is one slice of each.
On the wire a layer's value is one vector: its parameters, then its statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Literal

import msgspec

from lamina.models.errors import ModelError
from lamina.models.targets import SINGLE_LABEL, TargetSpec

Kind = Literal["kernel", "bias", "norm", "statistic"]


class TensorSpec(msgspec.Struct, frozen=True):
    """One tensor of a layer.

    Attributes:
        name: torch's dotted name, ``stage1.0.conv1.weight``.
        shape: its extents; an empty tuple is a scalar.
        kind: ``kernel`` (conv, dense and embedding weights), ``bias``, ``norm`` (scale and shift of a norm), or
            ``statistic`` (a running mean or variance).
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class LayerSpec(msgspec.Struct, frozen=True, dict=True):
    """A unit of aggregation: a conv with its norm, a dense with its bias.

    Attributes:
        name: unique in the model, and safe in an MQTT topic (``[A-Za-z0-9_.-]+``).
        parameters: the trained tensors.
        statistics: the running statistics, averaged like the parameters but not trained.
        activations: outputs of its conv and dense operators for one sample (the paper's measure for capacity).
    """

    name: str
    parameters: tuple[TensorSpec, ...]
    statistics: tuple[TensorSpec, ...] = ()
    activations: int = 0

    @property
    def size(self) -> int:
        """Parameters of the layer: dim_l of the papers."""
        return sum(tensor.size for tensor in self.parameters)

    @property
    def statistics_size(self) -> int:
        """Elements of the running statistics."""
        return sum(tensor.size for tensor in self.statistics)

    @cached_property
    def vector_size(self) -> int:
        """Length of the layer's value on the wire: parameters, then statistics."""
        return self.size + self.statistics_size

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the tensors in the layer's vector, in their order."""
        return tuple(tensor.shape for tensor in (*self.parameters, *self.statistics))


class BlockSpec(msgspec.Struct, frozen=True):
    """A unit at which the network may be cut: one activation tensor, and nothing else, enters it.

    Attributes:
        name: that of its first layer's innermost common module, for people.
        first: index of its first layer.
        stop: index after its last layer.
        input_shape: shape of the activation that enters it, without the batch.
        input_dtype: ``float32``, or ``int64`` for token ids.
    """

    name: str
    first: int
    stop: int
    input_shape: tuple[int, ...]
    input_dtype: Literal["float32", "int64"] = "float32"


class InputSpec(msgspec.Struct, frozen=True):
    """One of several inputs of a network that takes a dictionary.

    Attributes:
        name: its key.
        shape: of one sample.
        dtype: ``float32``, or ``int64`` for token ids.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Literal["float32", "int64"] = "float32"

    @property
    def size(self) -> int:
        """Elements of one sample."""
        return math.prod(self.shape)


class ModelSpec(msgspec.Struct, frozen=True, dict=True):
    """A model as the federation sees it: ordered layers, blocks that tile them, and the cuts on offer.

    Attributes:
        name: for people and for file names.
        layers: in forward order.
        blocks: consecutive, tiling the layers. The first may be a frozen backbone, without any.
        cuts: layer indices from which a device may train, ascending; the first is 0, each starts a block.
        classes: number of classes, or of outputs.
        loss: name of the loss in the training graphs.
        target: what the outputs are compared with; left out: one class index a sample.
        class_names: of class 0, 1 and so on; left out: classes are numbers.
        inputs: what a sample is joined of, in this order, where the network takes several inputs; left out: it takes
            one.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    blocks: tuple[BlockSpec, ...]
    cuts: tuple[int, ...]
    classes: int
    loss: str = "cross_entropy"
    target: TargetSpec | msgspec.UnsetType = msgspec.UNSET
    inputs: tuple[InputSpec, ...] | msgspec.UnsetType = msgspec.UNSET
    class_names: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise ModelError(f"model {self.name}: layer names repeat: {names}")
        edges = [0, *(block.stop for block in self.blocks)]
        if edges[-1] != len(self.layers) or [block.first for block in self.blocks] != edges[:-1]:
            raise ModelError(f"model {self.name}: its blocks do not tile its {len(self.layers)} layers: {edges}")
        starts = {block.first for block in self.blocks}
        if not self.cuts or self.cuts[0] != 0 or list(self.cuts) != sorted(set(self.cuts)):
            raise ModelError(f"model {self.name}: cuts must ascend from 0, and are {self.cuts}")
        if stray := [cut for cut in self.cuts if cut not in starts]:
            raise ModelError(
                f"model {self.name}: no block starts at layer {stray[0]}; blocks start at {sorted(starts)}"
            )

    @property
    def has_backbone(self) -> bool:
        """Whether frozen operators stand before the first layer, in a block of their own, which has no layers."""
        return self.blocks[0].stop == 0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.blocks[0].input_shape

    @property
    def input_dtype(self) -> str:
        """Element type of a sample."""
        return self.blocks[0].input_dtype

    @cached_property
    def wanted(self) -> TargetSpec:
        """What the outputs are compared with."""
        return self.target or TargetSpec(SINGLE_LABEL, classes=self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names, by label; empty where they are numbers."""
        return self.class_names or ()

    @property
    def named_inputs(self) -> tuple[InputSpec, ...]:
        """The inputs by name, of a network that takes several; empty for one that takes one array."""
        return self.inputs or ()

    @cached_property
    def parameter_offsets(self) -> tuple[int, ...]:
        """Start of each layer in the flat parameters; one more entry than layers, the last is the total."""
        return _offsets(layer.size for layer in self.layers)

    @cached_property
    def statistics_offsets(self) -> tuple[int, ...]:
        """Start of each layer in the flat statistics; one more entry than layers, the last is the total."""
        return _offsets(layer.statistics_size for layer in self.layers)

    @property
    def size(self) -> int:
        """Parameters of the whole model."""
        return self.parameter_offsets[-1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """dim_l of every layer."""
        return tuple(layer.size for layer in self.layers)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The blocks [first, stop) of every frozen piece: a backbone, and then from each cut to the next."""
        edges = [0] * self.has_backbone + [self.block_at(cut) for cut in self.cuts]
        return tuple(pairwise(edges))

    def block_at(self, cut: int) -> int:
        """Index of the block that starts at layer ``cut``.

        Raises:
            ModelError: no block starts there.
        """
        for index, block in enumerate(self.blocks):
            if block.first == cut and block.stop > cut:
                return index
        raise ModelError(f"model {self.name}: no block starts at layer {cut}")

    def tier(self, cut: int) -> str:
        """``strong`` trains everything, ``weak`` the smallest sub-model on offer, ``moderate`` something between."""
        if cut == 0:
            return "strong"
        return "weak" if cut == self.cuts[-1] else "moderate"


def columns_of(inputs: Iterable[InputSpec]) -> Iterator[tuple[InputSpec, slice]]:
    """Every input that a row is joined of, and its columns."""
    start = 0
    for one in inputs:
        yield one, slice(start, start + one.size)
        start += one.size


def _offsets(sizes: Iterable[int]) -> tuple[int, ...]:
    return (0, *accumulate(sizes))
