"""The cost of folding an update, and whether memory grows with the cohort.

The yardstick is what a NumPy user writes to average, ``acc += w * x`` in float32, whose result depends on the order of
arrival, which accepts NaN, and which tells no second moment. Beside it stand memcpy, the same sum without a temporary,
and the axpy of torch and scipy.

All take updates from memory: sixteen of a million float32 in turn, twice a large last-level cache. Contenders take
turns, and each time is the thread's own CPU time, so that a busy machine disturbs as little as possible; figures are
medians, ratios are medians of the ratios within one turn.

``fold_int8_mb_s`` is the int8 codec's whole numbers and scales into a sum, as they lie once Zstandard's work is done;
two rows count that in.

Each peak is that of a fresh process which folds updates of a million float32 one after the other.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from resource import RUSAGE_SELF, getrusage
from statistics import median

import numpy as np
from numpy.typing import NDArray

from benchmarks.reporting import Figures, Row, main
from lamina.broker.wire.codecs import codec
from lamina.broker.wire.codecs.base import OpensToFold
from lamina.broker.wire.foldable import INT8_BLOCK, Delta, Int8Blocks
from lamina.coordinator.folds.aggregate import LayerFold
from lamina.coordinator.folds.exact import ExactSum

ELEMENTS = 1_000_000
UPDATES = 16
WEIGHT = 3.0

Sum = Callable[[], None]


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """The figures and their table."""
    contenders = _float_contenders() | _int8_contenders()
    seconds = _in_turns(contenders, turns=3 if quick else 15)
    baseline = seconds["acc += w * x"]
    table: list[Row] = [("a million elements", "us", "MB/s of float32", "of acc += w * x")]
    for name, taken in seconds.items():
        each = median(taken) / UPDATES
        table.append((name, f"{1e6 * each:.0f}", f"{4e-6 * ELEMENTS / each:.0f}", f"{_ratio(taken, baseline):.2f}"))
    few, many = _peak_mib(10), _peak_mib(100 if quick else 1000)
    table += [("peak of 10 updates, MiB", f"{few:.0f}", "", ""), ("peak of 1,000 updates, MiB", f"{many:.0f}", "", "")]
    best = "compiled" if find_spec("numba") else "numpy"
    figures = {
        "fold_f32_vs_numpy": _ratio(seconds[f"fold float32, {best}"], baseline),
        "fold_int8_mb_s": 4e-6 * ELEMENTS * UPDATES / median(seconds[f"fold int8, {best}"]),
        "peak_growth_10_to_1000": many / few,
    }
    return figures, table


def _float_contenders() -> dict[str, Sum]:
    rng = np.random.default_rng(0)
    deltas = [rng.normal(0, 1e-2, ELEMENTS).astype(np.float32) for _ in range(UPDATES)]
    total, scratch = np.zeros(ELEMENTS, np.float32), np.empty(ELEMENTS, np.float32)

    def copy() -> None:
        for delta in deltas:
            np.copyto(scratch, delta)

    def weighted_sum() -> None:
        nonlocal total
        for delta in deltas:
            total += WEIGHT * delta

    def without_temporary() -> None:
        for delta in deltas:
            np.multiply(delta, np.float32(WEIGHT), out=scratch)
            np.add(total, scratch, out=total)

    contenders: dict[str, Sum] = {
        "memcpy": copy,
        "acc += w * x": weighted_sum,
        "multiply and add, out=": without_temporary,
    }
    if find_spec("torch"):
        contenders["torch add_"] = _torch_sum(deltas)
    if find_spec("scipy"):
        contenders["scipy saxpy"] = _scipy_sum(deltas)
    return contenders | _folds("float32", deltas)


def _int8_contenders() -> dict[str, Sum]:
    rng = np.random.default_rng(1)
    blocks = -(-ELEMENTS // INT8_BLOCK)
    deltas = [
        Int8Blocks(
            rng.integers(-127, 128, ELEMENTS).astype(np.int8), rng.uniform(1e-5, 1e-4, blocks).astype(np.float32)
        )
        for _ in range(UPDATES)
    ]
    return _folds("int8", deltas) | _from_the_wire()


def _from_the_wire() -> dict[str, Sum]:
    """The int8 codec's bytes, Zstandard included, into a sum: opened to be folded, or decoded first."""
    rng, int8 = np.random.default_rng(2), codec("int8")
    assert isinstance(int8, OpensToFold)
    messages = [int8.encode(rng.normal(0, 1e-2, ELEMENTS).astype(np.float32)) for _ in range(UPDATES)]
    opened, decoded = ExactSum(ELEMENTS), ExactSum(ELEMENTS)

    def open_and_fold() -> None:
        for message in messages:
            opened.add_near(int8.open(message, ELEMENTS), WEIGHT, ELEMENTS)

    def decode_and_fold() -> None:
        for message in messages:
            decoded.add_near(int8.decode(message, ELEMENTS), WEIGHT, ELEMENTS)

    return {"unsqueeze, fold int8": open_and_fold, "unsqueeze, decode, fold": decode_and_fold}


def _folds(name: str, deltas: list[NDArray[np.float32]] | list[Int8Blocks]) -> dict[str, Sum]:
    passes = {"numpy": False, "compiled": True} if find_spec("numba") else {"numpy": False}
    return {f"fold {name}, {word}": _fold(deltas, compiled) for word, compiled in passes.items()}


def _fold(deltas: list[NDArray[np.float32]] | list[Int8Blocks], compiled: bool) -> Sum:
    sum_ = ExactSum(ELEMENTS, compiled=compiled)

    def fold() -> None:
        delta: Delta
        for delta in deltas:
            if sum_.add_near(delta, WEIGHT, ELEMENTS) is None:
                raise ValueError("an ordinary update was not folded as one")

    return fold


def _torch_sum(deltas: list[NDArray[np.float32]]) -> Sum:
    import torch

    torch.set_num_threads(1)
    total, tensors = torch.zeros(ELEMENTS), [torch.from_numpy(delta) for delta in deltas]

    def add() -> None:
        for tensor in tensors:
            total.add_(tensor, alpha=WEIGHT)

    return add


def _scipy_sum(deltas: list[NDArray[np.float32]]) -> Sum:
    from scipy.linalg.blas import saxpy  # type: ignore[import-untyped] # scipy ships no types

    total = np.zeros(ELEMENTS, np.float32)

    def add() -> None:
        for delta in deltas:
            saxpy(delta, total, a=WEIGHT)

    return add


def _in_turns(contenders: dict[str, Sum], turns: int) -> dict[str, list[float]]:
    """CPU seconds of each contender, turn by turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(turns + 1):
        for name, run in contenders.items():
            began = time.thread_time()
            run()
            if turn:
                seconds[name].append(time.thread_time() - began)
    return seconds


def _ratio(seconds: list[float], baseline: list[float]) -> float:
    return median(mine / other for mine, other in zip(seconds, baseline, strict=True))


def _peak_mib(updates: int) -> float:
    """Peak memory of a fresh process that folds so many updates."""
    script = f"from benchmarks.aggregate import fold_stream; print(fold_stream({updates}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


def fold_stream(updates: int) -> float:
    """Fold updates as they might come from so many devices, and return the peak of this process in MiB."""
    pattern = np.random.default_rng(0).normal(0, 1e-2, ELEMENTS).astype(np.float32)
    fold = LayerFold(ELEMENTS, ELEMENTS)
    for index in range(updates):
        fold.add(f"device-{index:04}", pattern * np.float32(1 + index), 1.0)
    fold.finish(pattern)
    return getrusage(RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


if __name__ == "__main__":
    main("What does folding an update cost, and does memory grow with the cohort?", measure)
