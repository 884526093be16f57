"""The bytes that cross the network until a federation is as good as dense FedAvg.

Every run is a simulated federation whose updates and global values go through the real codecs, with error feedback on
both sides (`simulator.simulated_wire`). What is counted is what a broker would be sent and would send: the messages
of all layers, with the header of each chunk, and MQTT's own header with its topic. Plans and reports are left out, in
all runs alike.

    dense       FedAvg, float32 both ways, whole values to every device of the cohort
    the others  FedAvg or FedLAMA, an update codec for all layers of 128 elements and more, deltas by int8 on the way
                down, and float32+zstd for whole values, to devices that lack the version before
    weak        half of the devices train the smallest sub-model only (EmbracingFL)

All runs of a data set have the same devices, samples, cohorts, steps, rates and evaluations: only methods differ.

- The *accuracy* of a run is that of the averaged model on the test set, a mean over its last three evaluations.
- The *target* is one point below the dense run's accuracy, for each seed its own. The bytes of a run are those until
  the first evaluation that reaches it; a run that never does has none.
- The *ratio* is the dense run's bytes over the run's, both as means over the seeds; the *gap* is the dense run's
  accuracy less the run's, as a mean.
- ``best_uplink_ratio`` is the highest one among runs that reached the target for every seed, with a gap of at most one
  point. Of several data sets the lowest best one counts, and ``accuracy_gap_points`` is the largest gap of the best.
- The best is chosen by the same test set that it is judged by, among two dozen, which flatters a little. The rows that
  were named beforehand, FedLAMA with phi 4 and top10 or top3, have figures of their own.

Data: scikit-learn's digits, with every codec, and with ``--data`` a file with Fashion-MNIST (Xiao et al. 2017), with
some of them: ``x_train``, ``y_train``, ``x_test``, ``y_test``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.reporting import Figures, Row, command_line, show
from lamina.broker.wire.topics import Topics
from lamina.coordinator.settings import Aggregation, Cohorts, Evaluation, Training, Wire
from lamina.emulation.experiment import Partition
from lamina.emulation.simulator.backends.choosing import open_backend
from lamina.emulation.simulator.run_context import prepare_run
from lamina.emulation.simulator.setting import Setting, TierCounts
from lamina.emulation.simulator.simulated_wire import SimulatedWire, Traffic
from lamina.emulation.simulator.simulation import Simulation
from lamina.models.machine import usable_cores

QUESTION = "How many bytes cross the network until a federation is as good as dense FedAvg?"

SEEDS = (0, 1, 2)
POINT = 0.01
STEADY = 3  # evaluations that a run's accuracy is the mean of
DENSE = Wire(update_codec="float32", small_codec="float32", global_codec="float32", delta_codec="")
CODECS = (
    "float32",
    "bfloat16+zstd",
    "int8",
    "int8+stochastic",
    "int4",
    "int2",
    "sign",
    "rank2",
    "top10",
    "top3",
    "top1",
)


class Subject(NamedTuple):
    """A data set, and how it is learned.

    Attributes:
        name: for the table and the figures.
        data: a source of samples.
        model: a source of a network.
        devices: of whom half train in a cycle.
        rounds: of ten local steps.
        lr: learning rate.
        batch_size: samples a step.
    """

    name: str
    data: str
    model: str
    devices: int
    rounds: int
    lr: float
    batch_size: int


class Method(NamedTuple):
    """A row of the table."""

    phi: int
    codec: str
    weak: bool = False

    @property
    def label(self) -> str:
        """What is averaged how, by what."""
        averaged = "FedAvg" if self.phi == 1 else f"FedLAMA {self.phi}"
        return f"{averaged}{', half weak' if self.weak else ''}, {self.codec}"


BASELINE = Method(1, "dense")
AGGRESSIVE = (Method(4, "top10"), Method(4, "top3"))


class Moment(NamedTuple):
    """One evaluation, and the bytes until then."""

    accuracy: float
    up_bytes: int
    down_bytes: int


@dataclass(frozen=True)
class Course:
    """One run: its evaluations, and FedLAMA's C."""

    moments: tuple[Moment, ...]
    c_ratio: float

    @property
    def accuracy(self) -> float:
        """See the module."""
        return fmean(moment.accuracy for moment in self.moments[-STEADY:])

    def reached(self, target: float) -> Moment | None:
        """The first evaluation at or above the target."""
        return next((moment for moment in self.moments if moment.accuracy >= target), None)


class Finding(NamedTuple):
    """What a method came to, as means over the seeds; bytes are ``None`` where a seed never reached its target."""

    accuracy: float
    gap_points: float
    c_ratio: float
    up_bytes: float | None
    down_bytes: float | None


def small_cnn() -> Any:
    """Two convolutions of 3x3 and two dense layers, for 28x28 grey images: 206,922 parameters."""
    from torch import nn

    from lamina.models.definition import Definition
    from lamina.models.initial import start_he

    module = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    start_he(module)
    return Definition("small_cnn", module, (1, 28, 28), 10)


def subjects(data: Path | None, quick: bool) -> list[Subject]:
    """What is learned."""
    digits = Subject("digits", "digits", "digits_cnn", 12, 12 if quick else 40, 0.05, 16)
    fashion = Subject("fashion", str(data), f"{__file__}:small_cnn", 8, 8 if quick else 32, 0.02, 16)
    return [digits, fashion] if data else [digits]


def methods(subject: Subject, quick: bool) -> list[Method]:
    """The rows of a data set, the dense one first: with the digits, which take seconds a run, every codec."""
    if quick:
        return [BASELINE, Method(1, "int8"), *AGGRESSIVE]
    if subject.name == "digits":
        rows = [Method(phi, codec) for phi in (1, 4) for codec in CODECS]
    else:
        rows = [Method(1, "int8"), Method(4, "float32"), Method(4, "int8"), *AGGRESSIVE, Method(4, "top1")]
    halved = [Method(4, codec, weak=True) for codec in ("int8", "top10", "top3")]
    return [BASELINE, *rows, *(Method(2, codec) for codec in ("int8", "top10", "top3", "top1")), *halved]


def learn(subject: Subject, method: Method, seed: int) -> Course:
    """Carry out one run."""
    weak = subject.devices // 2 if method.weak else 0
    setting = Setting(
        data=subject.data,
        model=subject.model,
        batch_size=subject.batch_size,
        seed=seed,
        fleet=TierCounts(strong=subject.devices - weak, weak=weak),
        partition=Partition(kind="dirichlet", alpha=0.5),
        training=Training(rounds=subject.rounds, local_steps=10, lr=subject.lr, hyperparameters={"momentum": 0.9}),
        cohorts=Cohorts(active=0.5),
        aggregation=Aggregation(phi=method.phi),
        evaluation=Evaluation(every=4),
    )
    context = prepare_run(setting)
    codecs = DENSE if method == BASELINE else Wire(update_codec=method.codec)
    wire = SimulatedWire(context.spec, codecs, setting.names)
    longest = max((layer.name for layer in context.spec.layers), key=len)
    topic = Topics("federation").layer_update(longest, "device-0001")
    moments = []
    with open_backend("loop", context) as backend:
        simulation = Simulation(context, backend, wire=wire)
        while not simulation.finished:
            record, _ = simulation.advance()
            if record.accuracy is not None:
                moments.append(Moment(record.accuracy, _packets(wire.up, topic), _packets(wire.down, topic)))
    return Course(tuple(moments), simulation.run_state.ledger.c_ratio)


def found(courses: Sequence[Course], dense: Sequence[Course]) -> Finding:
    """A method's finding from its courses, one a seed, beside the dense ones."""
    moments = [course.reached(other.accuracy - POINT - 1e-9) for course, other in zip(courses, dense, strict=True)]
    there = [moment for moment in moments if moment]
    every = len(there) == len(courses)
    return Finding(
        fmean(course.accuracy for course in courses),
        100 * fmean(other.accuracy - course.accuracy for course, other in zip(courses, dense, strict=True)),
        fmean(course.c_ratio for course in courses),
        fmean(moment.up_bytes for moment in there) if every else None,
        fmean(moment.down_bytes for moment in there) if every else None,
    )


def best(findings: Mapping[Method, Finding]) -> Method:
    """The method of the fewest bytes up among those that serve; the dense one does."""
    serving = {
        method: finding.up_bytes
        for method, finding in findings.items()
        if finding.up_bytes is not None and (finding.gap_points <= 1 or method == BASELINE)
    }
    return min(serving, key=lambda method: serving[method])


def measure(quick: bool, data: Path | None = None) -> tuple[Figures, list[Row]]:
    """See the module."""
    seeds = SEEDS[:1] if quick else SEEDS
    jobs = [
        (subject, method, seed)
        for subject in subjects(data, quick)
        for method in methods(subject, quick)
        for seed in seeds
    ]
    courses = dict(zip(jobs, _carried_out(jobs), strict=True))
    figures: Figures = {"best_uplink_ratio": float("inf"), "accuracy_gap_points": float("-inf")}
    table: list[Row] = [("", "accuracy %", "gap, points", "C", "MB up to target", "ratio up", "MB down", "ratio down")]
    for subject in subjects(data, quick):
        mine = {method: [courses[subject, method, seed] for seed in seeds] for method in methods(subject, quick)}
        findings = {method: found(each, mine[BASELINE]) for method, each in mine.items()}
        winner = best(findings)
        table += [*_rows(subject, findings), (f"{subject.name}: best is {winner.label}", *[""] * 7)]
        named = {"best": winner, **{method.codec: method for method in AGGRESSIVE}}
        for name, method in named.items():
            ratio = _ratio(findings[BASELINE].up_bytes, findings[method].up_bytes)
            figures[f"{subject.name}_{name}_uplink_ratio"] = ratio
            figures[f"{subject.name}_{name}_gap_points"] = findings[method].gap_points
        figures["best_uplink_ratio"] = min(figures["best_uplink_ratio"], figures[f"{subject.name}_best_uplink_ratio"])
        figures["accuracy_gap_points"] = max(figures["accuracy_gap_points"], findings[winner].gap_points)
    return figures, table


def _carried_out(jobs: Sequence[tuple[Subject, Method, int]]) -> Iterator[Course]:
    """The courses of the jobs, in their order; a line on stderr tells of each."""
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        for job, course in zip(jobs, pool.map(learn, *zip(*jobs, strict=True)), strict=True):
            subject, method, seed = job
            print(f"{subject.name}, seed {seed}: {method.label}: {100 * course.accuracy:.2f} %", file=sys.stderr)
            yield course


def _rows(subject: Subject, findings: Mapping[Method, Finding]) -> Iterable[Row]:
    dense = findings[BASELINE]
    for method, finding in findings.items():
        yield (
            f"{subject.name}: {method.label}",
            f"{100 * finding.accuracy:.2f}",
            f"{finding.gap_points:.2f}",
            f"{finding.c_ratio:.2f}",
            _megabytes(finding.up_bytes),
            f"{_ratio(dense.up_bytes, finding.up_bytes):.1f}",
            _megabytes(finding.down_bytes),
            f"{_ratio(dense.down_bytes, finding.down_bytes):.1f}",
        )


def _ratio(dense: float | None, other: float | None) -> float:
    """How many times fewer bytes; 0 where the target was not reached."""
    return dense / other if dense and other else 0.0


def _megabytes(number: float | None) -> str:
    return "never" if number is None else f"{number / 1e6:.3f}"


def _packets(traffic: Traffic, topic: str) -> int:
    """Bytes with MQTT's own: type and length, the topic, a packet id, no properties."""
    return traffic.payload_bytes + traffic.messages * (1 + 3 + 2 + len(topic) + 2 + 1)


def run(arguments: list[str] | None = None) -> None:
    """Run the benchmark from the command line."""
    parser = command_line(QUESTION)
    parser.add_argument("--data", type=Path, metavar="FILE", help="Fashion-MNIST as .npz, to be learned as well")
    options = parser.parse_args(arguments)
    show(QUESTION, *measure(options.quick, options.data), options.json)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run()
