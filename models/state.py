"""Sorts what a module's state dictionary holds: what is trained or averaged, what graphs read, and what nobody reads.

A federation's values are those of the spec's tensors. A trained model has to load strictly into the user's module, so
the rest is kept: frozen tensors, integer buffers, tensors that the forward pass doesn't read, and second names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from lamina.models.constants import large
from lamina.models.definition import Definition
from lamina.models.graph.tracing import first_names, trace
from lamina.models.spec import ModelSpec


@dataclass(frozen=True)
class ModuleState:
    """What a module holds beside the tensors of its spec.

    Attributes:
        frozen: what the forward pass reads as constants, where it is large, by name.
        unread: all else that is in the state dictionary.
        aliases: second names of tensors, with the first.
        transient: names in ``frozen`` that the state dictionary lacks.
    """

    frozen: dict[str, NDArray[Any]]
    unread: dict[str, NDArray[Any]]
    aliases: dict[str, str]
    transient: tuple[str, ...]


def module_state(definition: Definition, spec: ModelSpec) -> ModuleState:
    """The state of ``definition``'s module beside ``spec``."""
    learned = {tensor.name for layer in spec.layers for tensor in (*layer.parameters, *layer.statistics)}
    values = trace(definition, training=True).values | trace(definition, training=False).values
    frozen = {name: _array(value) for name, value in values.items() if name not in learned}
    frozen = dict(sorted(large(frozen).items()))
    state = {
        name: tensor for name, tensor in definition.module.state_dict().items() if isinstance(tensor, torch.Tensor)
    }
    first = first_names(definition.module)
    aliases = {name: first[name] for name in state if first.get(name, name) != name}
    unread = {
        name: _array(value) for name, value in state.items() if name not in learned | frozen.keys() | aliases.keys()
    }
    return ModuleState(frozen, unread, aliases, tuple(name for name in frozen if name not in state))


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    value = tensor.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
