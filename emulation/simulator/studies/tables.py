"""The result of a study: its table, beside the paper's column, and whether it shows what it should."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.emulation.simulator.research.fairness import DeviceSpread, device_spread, over_seeds
from lamina.emulation.simulator.run import Result
from lamina.emulation.simulator.studies.study import Claim, PaperFigures, Planned, Study
from lamina.models.metrics import ACCURACY

Results = Mapping[str, Sequence[Result]]
"""By label of the method, in the order of the seeds."""

HEADS = ("method", "accuracy %", "C %", "sent MB", "of FedAvg %", "lr", "seeds", "paper: accuracy %", "paper: C %")
DEVICE_HEADS = ("by device: mean %", "sd", "worst tenth %")  # where there is federated evaluation
_PLACE = 1  # of the accuracy among the heads


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        label: of the method.
        accuracy: mean over the seeds, in percent.
        spread: standard deviation over the seeds, in points; 0 for one seed.
        c_percent: mean C, relative to FedAvg at the study's shortest interval.
        sent_mb: mean of what all devices sent, in megabytes of float32.
        of_fedavg_percent: that, relative to FedAvg at the same interval with the whole network on every device.
        lr: learning rate to begin with.
        seeds: how many.
        paper: what is published.
        devices: accuracy by device, on its own samples; mean over the seeds. ``None`` without federated evaluation.
        judge: what stands in the place of accuracy, as it is and not in percent, where the task judges by another
            figure.
    """

    label: str
    accuracy: float
    spread: float
    c_percent: float
    sent_mb: float
    of_fedavg_percent: float
    lr: float
    seeds: int
    paper: PaperFigures
    devices: DeviceSpread | None = None
    judge: str = ACCURACY


@dataclass(frozen=True)
class ClaimVerdict:
    """What the runs say to a claim.

    Attributes:
        claim: the claim.
        difference: mean over the seeds, in points of accuracy: how far the first method is ahead of the second.
        spread: standard deviation of the difference over the seeds.
        largest_spread: the largest of that and of the two methods' own.
        c_percent: C of the first method.
        strong_percent: share of strong devices of the first method.
        holds: whether the claim does.
    """

    claim: Claim
    difference: float
    spread: float
    largest_spread: float
    c_percent: float
    strong_percent: float
    holds: bool

    @property
    def text(self) -> str:
        """The claim's verdict in a line."""
        claim = self.claim
        wanted = [f"at least {claim.least:+g} points" if claim.least else "ahead"]
        wanted += [f"by more than the largest spread, {self.largest_spread:.2f}"] if claim.beyond_spread else []
        wanted += [f"C < {claim.c_percent:g}%"] if claim.c_percent else []
        wanted += [f"at most {claim.strong_percent:g}% strong"] if claim.strong_percent else []
        return (
            f"{'shown' if self.holds else 'NOT shown'}: {claim.method} against {claim.against}: {self.difference:+.2f} "
            f"points (standard deviation over seeds {self.spread:.2f}), C {self.c_percent:.1f}%, "
            f"{self.strong_percent:g}% strong; claimed: {', '.join(wanted)}"
        )


def grouped(planned: Sequence[Planned], results: Mapping[str, Result]) -> dict[str, list[Result]]:
    """Results by method, in the order of the plan."""
    groups: dict[str, list[Result]] = {}
    for run in planned:
        groups.setdefault(run.label, []).append(results[run.setting.digest])
    return groups


def entries(study: Study, results: Results) -> list[Entry]:
    """The rows of the table."""
    shortest = _shortest_interval(results)
    chosen = [method for method in study.methods if method.label in results]
    return [_entry(method.label, results[method.label], method.paper, shortest) for method in chosen]


def verdicts(study: Study, results: Results) -> list[ClaimVerdict]:
    """What the runs say to each claim whose methods were run. Differences are taken seed by seed."""
    shortest = _shortest_interval(results)
    tested = [claim for claim in study.claims if claim.method in results and claim.against in results]
    return [_verdict(claim, results, shortest) for claim in tested]


def heads(table: Sequence[Entry]) -> tuple[str, ...]:
    """The heads of the columns of `cells`; a task that isn't judged by accuracy has its own figure there, as it is."""
    judge = table[0].judge if table else ACCURACY
    named = HEADS if judge == ACCURACY else (*HEADS[:_PLACE], judge, *HEADS[_PLACE + 1 :])
    return (*named, *(DEVICE_HEADS if any(entry.devices for entry in table) else ()))


def cells(entry: Entry) -> tuple[str, ...]:
    """A row, for people."""
    devices = entry.devices
    accuracy = f"{entry.accuracy:.2f} ± {entry.spread:.2f}" if entry.seeds > 1 else f"{entry.accuracy:.2f}"
    return (
        entry.label,
        accuracy,
        f"{entry.c_percent:.2f}",
        f"{entry.sent_mb:.1f}",
        f"{entry.of_fedavg_percent:.1f}",
        f"{entry.lr:g}",
        str(entry.seeds),
        "" if entry.paper.accuracy is None else f"{entry.paper.accuracy:.2f}",
        "" if entry.paper.c_percent is None else f"{entry.paper.c_percent:.2f}",
        *((f"{devices.mean:.2f}", f"{devices.spread:.2f}", f"{devices.worst:.2f}") if devices else ()),
    )


def as_markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown, its columns aligned for those who read it as it is."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [titles, rule, *rows]
    return "".join(
        "| "
        + " | ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |\n"
        for line in lines
    )


def as_csv(table: Sequence[Entry]) -> str:
    """The table, for programs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        (
            *("method", "accuracy", "spread", "c_percent", "sent_mb", "of_fedavg_percent", "lr", "seeds"),
            *("paper_accuracy", "paper_c_percent", "device_mean", "device_spread", "device_worst_tenth"),
        )
    )
    for entry in table:
        numbers = (entry.accuracy, entry.spread, entry.c_percent, entry.sent_mb, entry.of_fedavg_percent)
        paper = (entry.paper.accuracy, entry.paper.c_percent)
        devices = (entry.devices.mean, entry.devices.spread, entry.devices.worst) if entry.devices else ()
        shown = [f"{number:.4f}" for number in devices] or ["", "", ""]
        writer.writerow([entry.label, *(f"{number:.4f}" for number in numbers), entry.lr, entry.seeds, *paper, *shown])
    return text.getvalue()


def _entry(label: str, results: Sequence[Result], paper: PaperFigures, shortest: int) -> Entry:
    mean_spread = mean_and_spread([scaled(result) for result in results])
    sent = statistics.fmean(result.uplink_bytes for result in results)
    judge = results[0].judge
    by_device = judge == ACCURACY and all(run.own_accuracies for run in results)
    return Entry(
        label,
        *mean_spread,
        _c_percent(results, shortest),
        sent / 1e6,
        100 * sent / statistics.fmean(_whole_bytes(result, shortest) for result in results),
        results[0].setting.lr(0),
        len(results),
        paper,
        over_seeds([device_spread(run.own_accuracies.values()) for run in results]) if by_device else None,
        judge,
    )


def scaled(result: Result, figure: float | None = None) -> float:
    """What a run is judged by, at its end or earlier: accuracy in percent, another figure as it is."""
    value = result.accuracy if figure is None else figure
    return 100 * value if result.judge == ACCURACY else value


def _verdict(claim: Claim, results: Results, shortest: int) -> ClaimVerdict:
    first, second = ([scaled(run) for run in results[label]] for label in (claim.method, claim.against))
    ahead = -1 if results[claim.method][0].lower_is_better else 1
    difference, spread = mean_and_spread([ahead * (one - other) for one, other in zip(first, second, strict=True)])
    largest = max(spread, *(mean_and_spread(accuracies)[1] for accuracies in (first, second)))
    c_percent = _c_percent(results[claim.method], shortest)
    fleet = results[claim.method][0].setting.fleet
    strong_percent = 100 * fleet.strong / fleet.holders
    holds = (
        difference >= claim.least
        and not (claim.beyond_spread and difference <= largest)
        and (claim.c_percent is None or c_percent < claim.c_percent)
        and (claim.strong_percent is None or strong_percent <= claim.strong_percent)
    )
    return ClaimVerdict(claim, difference, spread, largest, c_percent, strong_percent, holds)


def _shortest_interval(results: Results) -> int:
    return min(run.setting.training.local_steps for runs in results.values() for run in runs)


def _c_percent(results: Sequence[Result], shortest: int) -> float:
    """A run's own C is relative to FedAvg at its own tau'; twice the tau' is half the traffic to begin with."""
    share = shortest / results[0].setting.training.local_steps
    return 100 * share * statistics.fmean(result.c_ratio for result in results)


def _whole_bytes(result: Result, shortest: int) -> float:
    """What FedAvg at the shortest interval would have sent for the same steps."""
    return result.fedavg_uplink_bytes * result.setting.training.local_steps / shortest


def mean_and_spread(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; the latter is 0 for one number."""
    return statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else 0.0
