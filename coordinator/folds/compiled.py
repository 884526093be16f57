"""A delta is added to a sum in a single pass compiled by numba, to the bits of `folds.numpy_passes`.

numba is the optional extra ``fast``. Where `folds.passes` and `folds.cohort_pass` choose a pass, and there
alone, this file is imported, and only if it is asked for. What is compiled is kept beside this file, or else in numba's
own cache folder.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from lamina.broker.wire.foldable import INT8_BLOCK, Delta, Floats, Int8Blocks, Joined
from lamina.coordinator.folds.grid import GRID, LANES, SNAP, Doubles, Steps
from lamina.coordinator.folds.numpy_passes import add_in_blocks, add_parts

assert LANES == INT8_BLOCK, "a row of lanes has one scale"


def add_compiled(sums: Steps, delta: Delta, start: int, weight: float, take_back: bool, lanes: Doubles) -> None:
    """The pass; see `folds.numpy_passes.AddPass`."""
    flip, stop = np.int64(-1 if take_back else 0), start + sums.size
    if isinstance(delta, np.ndarray):
        _add(sums, delta[start:stop], weight, flip, lanes)
    elif isinstance(delta, Int8Blocks) and (delta.first + start) % INT8_BLOCK == 0:
        blocks = delta.cut(start, stop)
        _add_int8(sums, blocks.quanta, blocks.scales, weight, flip, lanes)
    elif isinstance(delta, Joined):
        add_parts(add_compiled, sums, delta, start, weight, take_back, lanes)
    else:
        add_in_blocks(sums, delta, start, weight, take_back, lanes)


def add_rows_compiled(sums: Steps, local: Floats, base: Floats, weights: Doubles, lanes: Doubles) -> None:
    """The pass over a cohort; see `lamina.coordinator.folds.cohort_pass.CohortPass`."""
    if not local.size:
        return
    if local.strides[0] < 0 or local.strides[1] != local.itemsize:
        local = np.ascontiguousarray(local)
    pitch = local.strides[0] // local.itemsize
    # rows of a larger matrix as one vector: numba vectorises over that, and not over a matrix whose strides it asks for
    flat = as_strided(local, ((len(local) - 1) * pitch + local.shape[1],), (local.itemsize,), writeable=False)
    _add_rows(sums, flat, pitch, base, weights, lanes)


def mean_compiled(sums: Steps, base: Floats, weight: float, parameters: int, value: Floats, lanes: Doubles) -> None:
    """The pass that reads a mean; see `folds.numpy_passes.MeanPass`."""
    _mean(sums[:parameters], base[:parameters], weight, value[:parameters], lanes)
    _mean(sums[parameters:], base[parameters:], weight, value[parameters:], np.zeros(LANES))


# ``flip`` is 0 to add and -1 to take back: (x ^ flip) - flip is x or -x, and costs nothing here.


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add(sums: Steps, delta: Floats, weight: float, flip: np.int64, lanes: Doubles) -> None:
    for row in range(0, delta.size, LANES):
        source, target = delta[row : row + LANES], sums[row : row + LANES]
        for lane in range(source.size):
            term = np.float64(source[lane]) * weight
            lanes[lane] += term * term
            target[lane] += (np.float64(term + SNAP).view(np.int64) ^ flip) - flip


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_int8(
    sums: Steps, quanta: NDArray[np.int8], scales: Floats, weight: float, flip: np.int64, lanes: Doubles
) -> None:
    for row in range(0, quanta.size, LANES):
        source, target, scale = quanta[row : row + LANES], sums[row : row + LANES], scales[row // LANES]
        for lane in range(source.size):
            term = np.float64(np.float32(source[lane]) * scale) * weight
            lanes[lane] += term * term
            target[lane] += (np.float64(term + SNAP).view(np.int64) ^ flip) - flip


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _mean(sums: Steps, base: Floats, weight: float, value: Floats, lanes: Doubles) -> None:
    for row in range(0, sums.size, LANES):
        source, origin, target = sums[row : row + LANES], base[row : row + LANES], value[row : row + LANES]
        for lane in range(source.size):
            mean = np.float64(source[lane]) * GRID / weight
            lanes[lane] += mean * mean
            target[lane] = np.float32(np.float64(origin[lane]) + mean)


_CACHED = 64 * LANES  # elements of a block: its sums and base stay in a core's cache while all devices go by


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _add_rows(sums: Steps, flat: Floats, pitch: int, base: Floats, weights: Doubles, lanes: Doubles) -> None:
    for first in range(0, sums.size, _CACHED):
        last = min(first + _CACHED, sums.size)
        for device in range(weights.size):
            weight, mine = weights[device], lanes[device]
            for row in range(first, last, LANES):
                stop = min(row + LANES, last)
                source = flat[device * pitch + row : device * pitch + stop]
                origin, target = base[row:stop], sums[row:stop]
                for lane in range(source.size):
                    term = np.float64(source[lane] - origin[lane]) * weight
                    mine[lane] += term * term
                    target[lane] += np.float64(term + SNAP).view(np.int64)
