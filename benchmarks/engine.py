"""Time and memory of a training step on a board's engine, beside torch and onnxruntime-training.

For each network, at each tier (its first, middle and last cut: full, moderate, weak) and on one and two threads, every
engine takes steps of SGD with momentum on one batch of 32, each in a process of its own, one after the other in turns.
Behind a cut all train on activations that were computed before; ``weak_vs_torch_uncached`` is against a torch that runs
the frozen layers at every step, as it would without a cache.

A step's time is the processor's on one thread, so that a busy machine disturbs little, and the clock's on two. A ratio
is the median of the ratios within a turn; the table has the ratio of the minima, too. Peaks are of resident memory
above the process before it had a model, and ours include the frozen layers' forward pass in micro-batches.

Ours runs each graph in the way that the agent finds to be the fastest on this machine (`training.tuning`).

onnxruntime-training can't be installed beside onnxruntime: the variable LAMINA_ONNXRUNTIME_TRAINING names the Python of
an environment that has it, such as the one that ``scripts/second-engine.sh`` makes:

    LAMINA_ONNXRUNTIME_TRAINING=.venv-training/bin/python python -m benchmarks.engine --json engine.json

It runs graphs of its own operators, made for the cut as ours are. torch.compile needs a C++ compiler and runs at the
full tier, on one thread; where compiling a network takes too long, it is left out, and the table says so.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import networks
from benchmarks.contender import Contender, Part, Seconds
from benchmarks.exactness import NETWORKS as EXACT_NETWORKS
from benchmarks.exactness import grad_max_rel_error
from benchmarks.peaks import compared, furthest
from benchmarks.reporting import Figures, Row, command_line, show
from benchmarks.torch_step import random_batch
from lamina.models.build import build_bundle
from lamina.models.bundle import read_bundle
from lamina.models.definition import load_definition
from lamina.models.fitting import MemoryPlan
from lamina.models.manifest import ONNXRUNTIME_TRAINING

QUESTION = "How fast and how light is a training step on a board's engine?"
NETWORKS = {
    "resnet20": "resnet20",
    "resnet20_group_norm": "resnet20,norm=group",
    "leaf_cnn": "leaf_cnn",
    "ds_cnn": "ds_cnn",
    "text_lstm": "text_lstm",
    **{name: f"{Path(networks.__file__)}:{name}" for name in ("resnet18", "efficientnet_b0", "mobilenet_v3_small")},
}
BATCH_SIZE = 32
OURS, TORCH, COMPILED = "ours", "torch", "torch.compile"
LIMITS_S = {COMPILED: 60.0}  # for an answer
OTHER_PYTHON = "LAMINA_ONNXRUNTIME_TRAINING"
SAME_LOSS = 1e-3  # relative; so far the engines may be apart before the first step


@dataclass(frozen=True)
class Case:
    """What the engines are compared on.

    Attributes:
        network: its name here.
        tier: ``full``, ``moderate`` or ``weak``.
        cut: first layer that is trained.
        threads: that a step may use.
    """

    network: str
    tier: str
    cut: int
    threads: int

    def __str__(self) -> str:
        return f"{self.network} {self.tier} {self.threads}t"


@dataclass
class Timing:
    """The steps of all engines on one case, turn by turn: seconds, by engine."""

    case: Case
    taken: dict[str, list[float]]

    def ratio(self, engine: str, other: str) -> float:
        """The median of the ratios within a turn."""
        return median(a / b for a, b in zip(self.taken[engine], self.taken[other], strict=True))

    def ratio_of_minima(self, engine: str, other: str) -> float:
        """The one engine's fastest step over the other's."""
        return min(self.taken[engine]) / min(self.taken[other])


@dataclass
class Found:
    """All that was measured.

    Attributes:
        timings: by case, as a string.
        peaks: MiB above idle, by network, tier and engine.
        idle: MiB before there was a model, by engine.
        left_out: what was not measured, and why.
    """

    timings: dict[str, Timing]
    peaks: dict[tuple[str, str, str], float]
    idle: dict[str, float]
    left_out: list[str]


def measure(quick: bool, turns: int | None = None) -> tuple[Figures, list[Row]]:
    """The figures and their table.

    Args:
        quick: only some of the cases.
        turns: steps of each engine on each case; ``None``: as many as are usual.
    """
    found = Found({}, {}, {}, [])
    if not quick and not shutil.which("g++"):
        found.left_out.append("torch.compile: there is no C++ compiler")
    if not os.environ.get(OTHER_PYTHON):
        found.left_out.append(f"{ONNXRUNTIME_TRAINING}: {OTHER_PYTHON} names no Python")
    with tempfile.TemporaryDirectory() as folder:
        for network, source in NETWORKS.items():
            _measure_network(network, source, Path(folder), found, quick, turns or (5 if quick else 24))
    return _figures(found, quick), _table(found)


def _measure_network(network: str, source: str, folder: Path, found: Found, quick: bool, turns: int) -> None:
    bundle_folder, batch = folder / network, folder / f"{network}.npz"
    definition = load_definition(source)
    engines = [ONNXRUNTIME_TRAINING] if os.environ.get(OTHER_PYTHON) else []
    build_bundle(definition, bundle_folder, batch_size=BATCH_SIZE, engines=engines, measure=None)
    x, y = random_batch(definition, BATCH_SIZE)
    np.savez(batch, x=x, y=y)
    cuts = read_bundle(bundle_folder).manifest.spec.cuts
    tiers = {"full": cuts[0], "moderate": cuts[len(cuts) // 2], "weak": cuts[-1]}
    for tier, cut in tiers.items():
        if quick and tier != "full" and (network, tier) != ("resnet20", "weak"):
            continue
        _find_the_fastest_way(Part("ours", source, str(bundle_folder), str(batch), cut))
        with ExitStack() as running:
            contenders = {
                engine: running.enter_context(
                    Contender(
                        Part(engine, source, str(bundle_folder), str(batch), cut), python, LIMITS_S.get(engine, 300)
                    )
                )
                for engine, python in _engines(tier, quick)
            }
            for threads in (1,) if quick and network != "resnet20" else (1, 2):
                _take_turns(Case(network, tier, cut, threads), contenders, found, turns)


def _find_the_fastest_way(part: Part) -> None:
    """What an agent does once; in a process of its own, so that the memory of the ways not taken does not count."""
    with Contender(part) as once:
        for threads in (1, 2):
            once.threads(threads)


def _engines(tier: str, quick: bool) -> Iterator[tuple[str, str]]:
    """The engines that take part, and the interpreter of each."""
    yield from (("ours", sys.executable), ("torch", sys.executable))
    if tier == "weak":
        yield "torch-uncached", sys.executable
    if tier == "full" and not quick and shutil.which("g++"):
        yield COMPILED, sys.executable
    if os.environ.get(OTHER_PYTHON):
        yield ONNXRUNTIME_TRAINING, os.environ[OTHER_PYTHON]


def _take_turns(case: Case, contenders: dict[str, Contender], found: Found, turns: int) -> None:
    began = time.perf_counter()
    ready = _ready(case, contenders, found)
    timing = Timing(case, {engine: [] for engine in ready})
    for _ in range(turns):
        for engine, contender in ready.items():
            timing.taken[engine].append(_seconds(contender.step(), case.threads))
    found.timings[str(case)] = timing
    if case.threads == 1:  # two sessions in one process would be counted together
        for engine, contender in ready.items():
            idle, peak = contender.peak_mib()
            found.idle[engine], found.peaks[case.network, case.tier, engine] = idle, peak
    _say(f"{case}: {time.perf_counter() - began:.0f} s")


def _ready(case: Case, contenders: dict[str, Contender], found: Found) -> dict[str, Contender]:
    """Return the engines that take part in a case, after their first steps, which must agree."""
    ready, losses = {}, {}
    for engine, contender in contenders.items():
        if engine == COMPILED and case.threads > 1:
            continue
        try:
            losses[engine] = contender.threads(case.threads)
        except RuntimeError as error:
            if engine != COMPILED:
                raise
            found.left_out.append(f"{case}: {error}")
            _say(f"left out: {found.left_out[-1]}")
            continue
        ready[engine] = contender
    if any(abs(loss - losses["torch"]) > SAME_LOSS * losses["torch"] for loss in losses.values()):
        raise RuntimeError(f"{case}: the engines do not compute the same: first losses are {losses}")
    return ready


def _say(text: str) -> None:
    """How far it is; on the other stream than the results."""
    print(text, file=sys.stderr, flush=True)


def _seconds(taken: Seconds, threads: int) -> float:
    return taken.cpu if threads == 1 else taken.clock


def _figures(found: Found, quick: bool) -> Figures:
    full, weak = found.timings["resnet20 full 1t"], found.timings["resnet20 weak 1t"]
    full_2t = found.timings["resnet20 full 2t"]
    figures: Figures = {
        "full_vs_torch_1t": full.ratio("ours", "torch"),
        "full_vs_torch_1t_by_minima": full.ratio_of_minima("ours", "torch"),
        "full_vs_torch_2t": full_2t.ratio("ours", "torch"),
        "full_vs_torch_2t_by_minima": full_2t.ratio_of_minima("ours", "torch"),
        "weak_vs_full": median(weak.taken["ours"]) / median(full.taken["ours"]),
        "weak_vs_torch": weak.ratio("ours", "torch"),
        "weak_vs_torch_uncached": weak.ratio("ours", "torch-uncached"),
        "weak_peak_vs_full_peak": found.peaks["resnet20", "weak", "ours"] / found.peaks["resnet20", "full", "ours"],
    }
    for case, timing in found.timings.items():
        for engine in (TORCH, COMPILED, ONNXRUNTIME_TRAINING):
            if engine in timing.taken:
                figures[f"{case.replace(' ', '_')}_vs_{_plain(engine)}"] = timing.ratio(OURS, engine)
    for (network, tier, engine), peak in found.peaks.items():
        if engine in (TORCH, ONNXRUNTIME_TRAINING):
            figures[f"{network}_{tier}_peak_vs_{_plain(engine)}"] = found.peaks[network, tier, OURS] / peak
    if not quick:
        _say("predicted peaks, and measured ones")
        figures |= _agents_peaks()
    _say("gradients")
    figures["grad_max_rel_error"] = grad_max_rel_error(["ds_cnn"] if quick else EXACT_NETWORKS)
    return figures


def _table(found: Found) -> list[Row]:
    others = sorted({engine for timing in found.timings.values() for engine in timing.taken} - {"ours"})
    heads = ["ms a step (least), of ours; peak MiB above idle", "ours"]
    table: list[Row] = [(*heads, *others, "peak, ours", *(f"peak, {engine}" for engine in others))]
    for timing in found.timings.values():
        case = timing.case
        row = [str(case), _shown(timing, "ours")]
        row += [
            f"{_shown(timing, other)} {_against(timing, other)}" if other in timing.taken else "-" for other in others
        ]
        for engine in ("ours", *others):
            peak = found.peaks.get((case.network, case.tier, engine))
            row.append("-" if peak is None or case.threads > 1 else f"{peak:.1f}")
        table.append(tuple(row))
    idle = ["idle, MiB", *[""] * (1 + len(others)), *(f"{found.idle[engine]:.0f}" for engine in ("ours", *others))]
    table.append(tuple(idle))
    table += [(f"left out: {reason}", *[""] * (len(idle) - 1)) for reason in found.left_out]
    return table


def _agents_peaks() -> Figures:
    """What the agent takes in all, in the standard form, which it runs where memory is short."""
    rows = list(compared("resnet20"))
    at_once = [measured for way, _, measured in rows if way.endswith(MemoryPlan(0).text)]
    return {
        "predicted_vs_measured_peak": furthest(predicted / measured for _, predicted, measured in rows),
        "weak_peak_vs_full_peak_standard_form": at_once[-1] / at_once[0],
    }


def _plain(engine: str) -> str:
    """Return a contender's name as it stands in a figure's name."""
    return engine.replace("-", "_").replace(".", "_")


def _shown(timing: Timing, engine: str) -> str:
    taken = timing.taken[engine]
    return f"{1e3 * median(taken):.1f} ({1e3 * min(taken):.1f})"


def _against(timing: Timing, other: str) -> str:
    return f"x{timing.ratio('ours', other):.2f} ({timing.ratio_of_minima('ours', other):.2f})"


if __name__ == "__main__":
    arguments = command_line(QUESTION)
    arguments.add_argument("--turns", type=int, help="steps of each engine on each case")
    options = arguments.parse_args()
    show(QUESTION, *measure(options.quick, options.turns), options.json)
