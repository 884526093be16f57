"""Decides whether two results differ by more than float32 explains. Everything here is pure.

Results are compared tensor by tensor, by the norm of their difference relative to the norm of what torch computes. A
tensor whose gradient is next to nothing beside the others' consists of rounding errors, so no norm counts as smaller
than a hundredth of that of all tensors together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.float64]
Arrays = Mapping[str, Array]

TOLERANCE = 1e-4
"""Relative difference that is never looked into: float32 reaches it in all but the deepest networks."""

CERTAIN = 0.02
"""Relative difference above which one draw of inputs is proof enough."""

_DIFFERING = 3  # draws that differ are proof, where none is on its own
_DRAWS = 5  # are looked at, at most

_TIMES = 10.0  # of the error that float32 makes in torch's hands: as much is granted to another order of operations
_SMALLEST = 1e-2  # of the norm of all tensors together: no tensor counts as smaller
_NOTHING = 1e-12


@dataclass(frozen=True)
class Difference:
    """A tensor that differs.

    Attributes:
        name: of the tensor, or ``loss``.
        error: relative to torch's value; infinite where only one of the two is finite.
        explained: the relative error that float32 explains.
    """

    name: str
    error: float
    explained: float


@dataclass(frozen=True)
class Verdict:
    """The comparison of a graph's step with torch's, on one draw of inputs.

    Attributes:
        different: what differs by more than float32 explains.
        clear: whether the draw can show a fault. It can't where rounding errors alone change torch's gradients as much.
    """

    different: Sequence[Difference]
    clear: bool = True


def wrong(judge: Callable[[int], Verdict]) -> Sequence[Difference]:
    """What is wrong with a graph.

    Args:
        judge: the verdict on a draw of inputs, by its number. Draws are looked at until one of them decides.
    """
    differing = 0
    for number in range(_DRAWS):
        verdict = judge(number)
        if verdict.different:
            differing += 1
            if differing == _DIFFERING or max(each.error for each in verdict.different) >= CERTAIN:
                return verdict.different
        elif verdict.clear:
            break
    return ()


def relative_errors(found: Arrays, expected: Arrays) -> dict[str, float]:
    """The relative error of every tensor of ``expected``; infinite where the two aren't finite at the same places."""
    return relative({name: distance(found[name], value) for name, value in expected.items()}, expected)


def relative(distances: Mapping[str, float], expected: Arrays) -> dict[str, float]:
    """The same, of distances that are known."""
    squares = {name: _square(value) for name, value in expected.items()}
    smallest = _SMALLEST * math.sqrt(sum(squares.values()))
    return {name: distances[name] / max(math.sqrt(square), smallest, _NOTHING) for name, square in squares.items()}


def distance(found: Array, expected: Array) -> float:
    """The norm of the difference."""
    if found.shape != expected.shape:
        return math.inf
    with np.errstate(invalid="ignore", over="ignore"):
        difference = (found - expected).reshape(-1)
    square = float(difference @ difference)
    if math.isfinite(square):
        return math.sqrt(square)
    if (np.isfinite(found) != np.isfinite(expected)).any():
        return math.inf
    return math.sqrt(_square(np.where(np.isfinite(expected), difference.reshape(expected.shape), 0.0)))


def _square(value: Array) -> float:
    """The squared norm of what is finite."""
    flat = value.reshape(-1)
    square = float(flat @ flat)
    if math.isfinite(square):
        return square
    flat = np.where(np.isfinite(flat), flat, 0.0).astype(np.float64)
    return float(flat @ flat)


def close(errors: Mapping[str, float]) -> bool:
    """Whether all errors are small enough not to be looked into."""
    return all(error <= TOLERANCE for error in errors.values())


def differences(errors: Mapping[str, float], of_float32: Sequence[Mapping[str, float]]) -> list[Difference]:
    """What differs by more than float32 explains.

    Args:
        errors: of the graph, relative to float64.
        of_float32: errors that float32 makes in torch, or that rounding its inputs makes, relative to float64.
    """
    found = []
    for name, error in errors.items():
        explained = max((of[name] for of in of_float32), default=0.0)
        if error > TOLERANCE and not error <= _TIMES * explained:
            found.append(Difference(name, error, explained))
    return found
