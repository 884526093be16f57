"""Holds what torch makes of drawn inputs, so that every graph of a bundle is compared with it and it is computed once.

All cuts are compared with one step of the whole network: a graph that begins at a cut gets the activation that the
layers before it have in training mode, and must then come to the gradients of the whole step. A network that draws
random numbers is the exception: each graph draws its own, and torch has to draw the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.sections import CutPoint, beginning, run_section
from lamina.models.graph.tracing import TracedForward, mode_of
from lamina.models.proof import judging
from lamina.models.proof.draws import Recording
from lamina.models.proof.eager import Step, step
from lamina.models.proof.samples import noisy, samples, targets
from lamina.models.spec import ModelSpec

Values = Mapping[str, NDArray[np.float32]]


_ROUNDING = 2.0**-23  # of a float32: what is as far apart is the same to it
_ROUNDINGS = (1, 1, 1, 4, 4, 4, 16, 16, 16)  # by how many of them inputs are moved, to see what that does to gradients
_KEPT = 4  # steps of a network that draws: a cut's graphs draw one of two, in float32 and in float64


class Trial:
    """One batch of drawn samples, labels and values, at which torch's loss and gradients are finite.

    Args:
        definition: the network.
        spec: its layers.
        forward: its trace in training mode.
        starts: the points of its cuts.
        initial: the values that the federation starts from.
        count: samples.
        number: of the trial; each draws other inputs.

    Raises:
        ModelError: there are no such inputs. With a single sample, the network may need more of them.
    """

    def __init__(
        self,
        definition: Definition,
        spec: ModelSpec,
        forward: TracedForward,
        starts: Mapping[int, CutPoint],
        initial: Values,
        count: int,
        number: int,
    ) -> None:
        self._definition, self._spec, self._forward, self._starts = definition, spec, forward, starts
        self._rng = np.random.default_rng([number, count])
        self._heads: dict[int, tuple[NDArray[Any], list[Tensor]]] = {}
        self._steps: dict[object, Step] = {}
        self._rounded: dict[object, list[Mapping[str, float]]] = {}
        self.x, self.y, self.values = self._usable(initial, count)

    def entering(self, cut: int) -> NDArray[Any]:
        """What enters the layers from ``cut`` on, where those before it are in training mode."""
        return self._head(cut)[0] if self._starts[cut].index else self.x

    def expected(self, cut: int, drawn: Sequence[Tensor]) -> Step:
        """Torch's step in float32, where the layers from ``cut`` on draw ``drawn``."""
        return self._step(cut, drawn, torch.float32)

    def exact(self, cut: int, drawn: Sequence[Tensor]) -> Step | None:
        """The same in float64; ``None`` where the module can't be converted."""
        try:
            return self._step(cut, drawn, torch.float64)
        except Exception:  # whatever a module raises that has been written for float32
            return None

    def rounded(self, cut: int, drawn: Sequence[Tensor]) -> Iterator[Mapping[str, float]]:
        """How far `exact`'s results move, tensor by tensor and the loss, where rounding errors move its inputs and
        values: step by step, the later ones by more.

        A relu whose input is nothing but a rounding error is on in one order of operations and off in another, and
        batch norm over few samples multiplies what follows from it. Inside a deep network more rounding comes
        together than at its inputs.
        """
        everything = self._everything(cut, drawn)
        known = self._rounded.setdefault(_key(everything), [])
        yield from known
        for times in _ROUNDINGS[len(known) :]:
            values = {name: self._moved(value, times) for name, value in self.values.items()}
            x = self._moved(self.x, times) if self.x.dtype == np.float32 else self.x
            moved = step(self._definition, self._spec.layers, values, x, self.y, drawn=everything, dtype=torch.float64)
            exact = self._step(cut, drawn, torch.float64)
            distances = {
                name: judging.distance(value, other)
                for one, another in zip(moved.groups(), exact.groups(), strict=True)
                for (name, value), other in zip(one.items(), another.values(), strict=True)
            }
            known.append(distances)
            yield distances

    def _step(self, cut: int, drawn: Sequence[Tensor], dtype: torch.dtype) -> Step:
        everything = self._everything(cut, drawn)
        key = (dtype, *_key(everything))
        if key not in self._steps:
            while everything and len(self._steps) >= _KEPT:
                del self._steps[next(iter(self._steps))]
            layers = self._spec.layers
            self._steps[key] = step(
                self._definition, layers, self.values, self.x, self.y, drawn=everything, dtype=dtype
            )
        return self._steps[key]

    def _everything(self, cut: int, drawn: Sequence[Tensor]) -> list[Tensor]:
        """What the whole network draws, where the layers from ``cut`` on draw ``drawn``."""
        return [*self._before(cut), *drawn] if drawn or cut in self._heads else []

    def _before(self, cut: int) -> list[Tensor]:
        """What the layers before ``cut`` draw."""
        return self._head(cut)[1] if self._starts[cut].index else []

    def _head(self, cut: int) -> tuple[NDArray[Any], list[Tensor]]:
        if cut not in self._heads:
            tensors = {name: tensor.detach().clone() for name, tensor in self._forward.values.items()}
            tensors |= {name: torch.from_numpy(value.copy()) for name, value in self.values.items()}
            samples = torch.from_numpy(self.x.copy())
            points = beginning(self._forward), self._starts[cut]
            with mode_of(self._definition.module, training=True), torch.no_grad(), Recording() as recording:
                entering = run_section(self._forward, *points, tensors, samples, stand_ins={})
            self._heads[cut] = np.ascontiguousarray(entering.numpy()), recording.drawn
        return self._heads[cut]

    def _usable(self, initial: Values, count: int) -> tuple[NDArray[Any], NDArray[Any], Values]:
        failed: Exception | None = None
        for values in (noisy(self._spec, initial, self._rng), initial):
            for x in samples(self._definition, self._forward, count, self._rng):
                y = targets(self._definition, x, self._rng)
                try:
                    if _finite(step(self._definition, self._spec.layers, values, x, y, drawn=None)):
                        return x, y, values
                except Exception as error:  # whatever the module raises
                    failed = error
        name = self._definition.name
        if failed is not None:
            reason = next(iter(str(failed).splitlines()), "") or type(failed).__name__
            raise ModelError(f"model {name}: torch itself can't take a step with {count} samples: {reason}")
        raise ModelError(f"model {name}: its loss or its gradients are not finite on drawn samples, in torch itself")

    def _moved(self, value: NDArray[np.float32], times: int) -> NDArray[np.float32]:
        noise = self._rng.choice(np.array([-_ROUNDING, _ROUNDING], np.float32) * np.float32(times), value.shape)
        return np.asarray(value * (1 + noise), np.float32)


def _key(drawn: Sequence[Tensor]) -> tuple[bytes, ...]:
    return tuple(bytes(each.numpy()) for each in drawn)


def _finite(found: Step) -> bool:
    return math.isfinite(found.loss) and all(np.isfinite(value).all() for value in found.gradients.values())
