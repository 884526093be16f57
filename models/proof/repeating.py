"""Finds a module that draws from Python's or NumPy's random numbers: a trace freezes what it has drawn, for ever.

Torch's own draws become operators of the graph. Others leave no operator behind, only a decision that has been made
once. They are found by the state of the generators, and by a module whose results change from call to call.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError, first_line
from lamina.models.graph.tracing import mode_of
from lamina.models.graph.untraceable import line_of
from lamina.models.proof.eager import kept

_CALLS = 6


def check_repeatable(definition: Definition, x: NDArray[Any]) -> None:
    """Call the module several times, with the same state of torch's generator.

    Raises:
        ModelError: it draws from another generator, or its results change from call to call.
    """
    module, generators = definition.module, dict(_generators(definition.module))
    before = {name: _state(generator) for name, generator in generators.items()}
    saved = random.getstate(), np.random.get_state()
    first: torch.Tensor | None = None
    try:
        for _ in range(_CALLS):
            with kept(module), mode_of(module, training=True), torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                result = _called(definition, x)
            for name, generator in generators.items():
                if _state(generator) != before[name]:
                    raise ModelError(_drawn(definition, name))
            if first is not None and not torch.equal(first.nan_to_num(), result.nan_to_num()):
                raise ModelError(
                    f"model {definition.name}: its forward pass gives other results from call to call, for the same "
                    f"samples and state of torch's generator; a graph would repeat the first of them for ever. "
                    f"Draw by torch (torch.rand, torch.bernoulli, dropout), and keep nothing from call to call but in "
                    f"registered buffers"
                )
            first = result
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])


def _called(definition: Definition, x: NDArray[Any]) -> torch.Tensor:
    try:
        return definition.module(torch.from_numpy(x))  # type: ignore[no-any-return]  # a tensor
    except Exception as error:  # whatever the module's own code raises
        raise ModelError(
            f"model {definition.name}: its forward pass fails without gradients, as it runs in an evaluation: "
            f"{first_line(error)}{line_of(error)}"
        ) from error


def _drawn(definition: Definition, name: str) -> str:
    return (
        f"model {definition.name}: its forward pass draws random numbers from {name}; a graph would repeat what was "
        f"drawn when it was traced, for ever. Draw them by torch: torch.rand, torch.bernoulli or dropout"
    )


def _generators(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Random generators that the module may draw from: the global ones, its attributes, and those of its source."""
    yield "Python's module random", random
    yield "NumPy's global generator", np.random
    sources = {type(part).__module__ for part in module.modules() if not type(part).__module__.startswith("torch.")}
    places = [(f"module {path or '(the whole)'}", vars(part)) for path, part in module.named_modules()]
    places += [(source, vars(sys.modules[source])) for source in sorted(sources) if source in sys.modules]
    for place, names in places:
        for name, value in list(names.items()):
            if isinstance(value, random.Random | np.random.Generator | np.random.RandomState | torch.Generator):
                yield f"{name} of {place}", value


def _state(generator: Any) -> str:
    if isinstance(generator, torch.Generator):
        return repr(generator.get_state().tolist())
    if isinstance(generator, np.random.Generator):
        return repr(generator.bit_generator.state)
    if generator is np.random or isinstance(generator, np.random.RandomState):
        kind, keys, *rest = generator.get_state()
        return f"{kind} {np.asarray(keys).tolist()} {rest}"
    return repr(generator.getstate())
