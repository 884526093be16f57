"""Width reduction: a small device trains a network of fewer channels, out of the large one.

Diao, Ding and Tarokh, "HeteroFL: Computation and Communication Efficient Federated Learning for Heterogeneous Clients"
(ICLR 2021, arXiv 2010.01264), in its static form; Horvath et al., "FjORD: Fair and Accurate Federated Learning under
heterogeneous targets with Ordered Dropout" (NeurIPS 2021, arXiv 2102.13451), with one width a device. A device of ratio
r holds the leading ceil(r C) of the C channels of every layer, and all outputs of the classifier:

    device i: trains x[cover_i]
    server:   u_k = mean over the devices that cover element k; unchanged where none does

EmbracingFL is compared with it at equal capacity, so `matching_ratio` finds r for a capacity.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lamina.emulation.simulator.rows import places
from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.spec import ModelSpec, TensorSpec

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm)
_FEATURES_LAST = (nn.Linear, nn.LayerNorm)


@dataclass(frozen=True)
class Narrow:
    """A network of leading channels.

    Attributes:
        module: with the narrow tensors; their values are the large network's.
        spec: of it, with the layers of the large one.
        activations: outputs of its convolutions and dense layers for one sample.
    """

    module: nn.Module
    spec: ModelSpec
    activations: int


def narrowed(definition: Definition, spec: ModelSpec, ratio: float) -> Narrow:
    """The network of the leading ``ceil(ratio * C)`` channels of every layer but the classifier.

    A layer's inputs follow from what the layer before it hands over: the leading channels of an image are the leading
    elements of it when it is flattened, too.

    Raises:
        ModelError: it has a part whose channels can't be counted off like that, such as an LSTM.
        ValueError: the ratio lies outside (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"a ratio of {ratio} is no share of the channels: it must lie in (0, 1]")
    if definition.inputs:  # what is joined has leading channels of each
        raise ModelError(f"model {definition.name}: width reduction can't narrow a network of several inputs")
    module = copy.deepcopy(definition.module)
    parts = _parts_in_order(definition, module)
    for part in parts[:-1]:
        _keep_outputs(part, ratio)
    activations = 0

    def fit_inputs(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        _keep_inputs(part, inputs[0].shape[-1 if isinstance(part, _FEATURES_LAST) else 1])

    def count(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal activations
        activations += 0 if isinstance(part, _NORMS) else output.numel()

    hooks = [part.register_forward_pre_hook(fit_inputs) for part in parts]
    hooks += [part.register_forward_hook(count) for part in parts]
    _run_once(definition, module)
    for hook in hooks:
        hook.remove()
    return Narrow(module, _narrow_spec(spec, module), activations)


def matching_ratio(definition: Definition, spec: ModelSpec, capacity: float, batch_size: int) -> float:
    """The ratio whose network's capacity, (p + a) relative to the whole, comes nearest to ``capacity``.

    Args:
        definition: of the whole network.
        spec: of the whole network.
        capacity: to be matched, as `lamina.models.capacity` measures it.
        batch_size: samples a step, by which activations count.

    Returns:
        a multiple of 1 over the widest layer's channels.
    """
    steps = max(tensor.shape[0] for tensor, _ in places(spec) if tensor.kind == "kernel")
    whole = _size(narrowed(definition, spec, 1.0), batch_size)
    low, high = 1, steps  # capacity grows with the ratio
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if _size(narrowed(definition, spec, middle / steps), batch_size) >= capacity * whole
            else (middle + 1, high)
        )
    near = [step for step in (low - 1, low) if step > 0]
    sizes = {step: _size(narrowed(definition, spec, step / steps), batch_size) / whole for step in near}
    return min(near, key=lambda step: abs(sizes[step] - capacity)) / steps


def positions(spec: ModelSpec, narrow: ModelSpec) -> NDArray[np.int64]:
    """Return where every element of a narrow network's row stands in the row of the whole one."""
    found = []
    for (tensor, place), (small, _) in zip(places(spec), places(narrow), strict=True):
        whole = np.arange(place.start, place.stop).reshape(tensor.shape)
        found.append(whole[tuple(slice(extent) for extent in small.shape)].ravel())
    return np.concatenate(found)


def _size(narrow: Narrow, batch_size: int) -> int:
    return narrow.spec.size + batch_size * narrow.activations


def _parts_in_order(definition: Definition, module: nn.Module) -> list[nn.Module]:
    """The modules that own tensors, as the forward pass reaches them."""
    owners = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
    for part in owners:
        is_conv = isinstance(part, nn.Conv2d) and part.groups == 1
        if not is_conv and not isinstance(part, (nn.Linear, nn.Embedding, *_NORMS)):
            raise ModelError(f"model {definition.name}: width reduction can't narrow a {type(part).__name__}")
    order: list[nn.Module] = []
    hooks = [part.register_forward_pre_hook(lambda part, _: order.append(part)) for part in owners]
    _run_once(definition, module)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


def _run_once(definition: Definition, module: nn.Module) -> None:
    dtype = torch.int64 if definition.input_dtype == "int64" else torch.float32
    with torch.no_grad(), _inferring(module):  # inference tensors could not be trained afterwards
        module(torch.zeros(1, *definition.input_shape, dtype=dtype))


@contextmanager
def _inferring(module: nn.Module) -> Iterator[None]:
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


def _keep_outputs(part: nn.Module, ratio: float) -> None:
    """Cut a conv, dense or embedding to its leading outputs; a norm follows its input."""
    if isinstance(part, nn.Embedding):
        _cut(part, "weight", (part.weight.shape[0], _kept(part.weight.shape[1], ratio)))
    elif isinstance(part, nn.Conv2d | nn.Linear):
        outputs = _kept(part.weight.shape[0], ratio)
        _cut(part, "weight", (outputs, *part.weight.shape[1:]))
        if part.bias is not None:
            _cut(part, "bias", (outputs,))


def _kept(channels: int, ratio: float) -> int:
    return math.ceil(ratio * channels - 1e-9)  # 0.3 * 10 is a hair above 3


def _keep_inputs(part: nn.Module, inputs: int) -> None:
    """Cut a part to the leading inputs that it is handed."""
    if isinstance(part, nn.Conv2d | nn.Linear):
        weight = part.weight
        _cut(part, "weight", (weight.shape[0], inputs, *weight.shape[2:]))
    elif isinstance(part, _NORMS):
        for name in ("weight", "bias", "running_mean", "running_var"):
            if getattr(part, name, None) is not None:
                _cut(part, name, (inputs,))
        if isinstance(part, nn.LayerNorm):
            part.normalized_shape = (inputs,)


def _cut(part: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    tensor = getattr(part, name)
    kept = tensor.detach()[tuple(slice(extent) for extent in shape)].clone()
    setattr(part, name, nn.Parameter(kept) if isinstance(tensor, nn.Parameter) else kept)


def _narrow_spec(spec: ModelSpec, module: nn.Module) -> ModelSpec:
    """The spec with the module's shapes. It has one cut only: narrow devices train all that they hold."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def fitted(listing: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(msgspec.structs.replace(tensor, shape=tuple(tensors[tensor.name].shape)) for tensor in listing)

    layers = tuple(
        msgspec.structs.replace(layer, parameters=fitted(layer.parameters), statistics=fitted(layer.statistics))
        for layer in spec.layers
    )
    return msgspec.structs.replace(spec, layers=layers, cuts=(0,))
