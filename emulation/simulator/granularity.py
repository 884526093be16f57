"""The unit of averaging: a layer, or a kernel apart from the rest of its layer.

The published runs of arXiv 2110.10302 relax kernels only: the weights of convolutions and dense layers. Norms
and biases, a few hundredths of the parameters, are averaged every round. `by_kernel` describes that to algorithms that
know nothing but layers: every kernel becomes a layer of its own, and what is left of its layer another one.
"""

from __future__ import annotations

from itertools import accumulate

import msgspec

from lamina.models.spec import LayerSpec, ModelSpec


def by_kernel(spec: ModelSpec) -> tuple[ModelSpec, tuple[int, ...]]:
    """The same model with kernels as layers of their own, and the indices of these: the only ones to be relaxed.

    The order of tensors may change, where a layer's kernels are not its first ones.
    """
    split = [_split(layer) for layer in spec.layers]
    starts = (0, *accumulate(map(len, split)))  # of the old layers among the new ones
    layers = tuple(part for parts in split for part in parts)
    blocks = tuple(
        msgspec.structs.replace(block, first=starts[block.first], stop=starts[block.stop]) for block in spec.blocks
    )
    cuts = tuple(starts[cut] for cut in spec.cuts)
    relaxable = tuple(index for index, layer in enumerate(layers) if _is_kernel(layer))
    return msgspec.structs.replace(spec, layers=layers, blocks=blocks, cuts=cuts), relaxable


def _split(layer: LayerSpec) -> list[LayerSpec]:
    """A layer's kernels, then the rest; the measure of its activations stays with the first part."""
    kernels = [tensor for tensor in layer.parameters if tensor.kind == "kernel"]
    parts = [LayerSpec(tensor.name, (tensor,)) for tensor in kernels]
    others = tuple(tensor for tensor in layer.parameters if tensor.kind != "kernel")
    if others or layer.statistics:
        parts.append(LayerSpec(f"{layer.name}.rest", others, layer.statistics))
    parts[0] = msgspec.structs.replace(parts[0], activations=layer.activations)
    return parts


def _is_kernel(layer: LayerSpec) -> bool:
    return [tensor.kind for tensor in layer.parameters] == ["kernel"]
