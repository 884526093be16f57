"""Puts together what devices say of a model on the samples that they keep: a mean, the spread, the worst. Pure.

Each device sends a sum and a count of each metric. Added over the devices they are the metrics on all of their samples;
divided for each device they say how unlike the devices fare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from lamina.broker.wire.messages import Report
from lamina.models.manifest import Manifest
from lamina.models.metrics import ACCURACY, MetricSpec, Sums, finished

_WORST = 0.1  # share of the devices; one at least


class DeviceFigures(msgspec.Struct, frozen=True):
    """A model, judged by devices.

    Attributes:
        rounds: done when the model was made.
        devices: how many judged it.
        figures: the metrics by name, on the samples of all of them together.
        judge: name of that one which the next three are of.
        mean: over devices, each counting the same.
        spread: standard deviation over devices.
        worst: mean over the tenth of the devices with the worst figures.
    """

    rounds: int
    devices: int
    figures: dict[str, float]
    judge: str
    mean: float
    spread: float
    worst: float

    @property
    def text(self) -> str:
        """For a person, in a line."""
        return (
            f"{self.judge} {self.mean:.4g} on {self.devices} devices' own samples (spread {self.spread:.4g}, worst "
            f"tenth {self.worst:.4g})"
        )


def device_figures(
    rounds: int, manifest: Manifest, answers: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> DeviceFigures | None:
    """What devices' sums and counts come to; ``None`` where none of them can be used.

    Args:
        rounds: done when the model was made.
        manifest: of the bundle.
        answers: sums and counts of each device. Those of another length, and of negative counts, are passed over.
    """
    return summed(rounds, specs_of(manifest), manifest.judge, manifest.lower_is_better, answers)


def specs_of(manifest: Manifest) -> tuple[MetricSpec, ...]:
    """The metrics of a bundle, accuracy alone where it says nothing of them."""
    return manifest.metrics.figures if manifest.metrics else (MetricSpec(ACCURACY, better="higher"),)


def summed(
    rounds: int,
    specs: Sequence[MetricSpec],
    judge: str,
    lower_is_better: bool,
    answers: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> DeviceFigures | None:
    """As `device_figures`, with what it takes from the manifest."""
    vectors = [pair for _, pair in sorted(usable(specs, answers).items())]
    each = [finished(specs, *pair)[judge] for pair in vectors]
    own = np.array([figure for figure in each if math.isfinite(figure)])
    if not own.size:
        return None
    total = [np.sum([pair[place] for pair in vectors], axis=0) for place in (0, 1)]
    figures = {name: value for name, value in finished(specs, *total).items() if math.isfinite(value)}
    ordered = np.sort(own)[::-1] if lower_is_better else np.sort(own)
    worst = ordered[: math.ceil(_WORST * own.size)]
    return DeviceFigures(rounds, own.size, figures, judge, float(own.mean()), float(own.std()), float(worst.mean()))


def usable(
    specs: Sequence[MetricSpec], answers: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> dict[str, tuple[Sums, Sums]]:
    """The answers that may be added: of the right length, finite, and with counts that are none below 0."""
    size = sum(spec.size for spec in specs)
    vectors = {name: tuple(np.asarray(part, np.float64) for part in pair) for name, pair in answers.items()}
    return {name: (sums, counts) for name, (sums, counts) in vectors.items() if _fits(sums, counts, size)}


def answers_of(reports: Mapping[str, Report]) -> dict[str, tuple[Sequence[float], Sequence[float]]]:
    """The sums and counts in devices' reports."""
    return {
        name: (report.sums, report.counts)
        for name, report in reports.items()
        if report.sums is not msgspec.UNSET and report.counts is not msgspec.UNSET
    }


def _fits(sums: Sums, counts: Sums, size: int) -> bool:
    whole: Any = len(sums) == len(counts) == size
    return bool(whole and np.isfinite(sums).all() and np.isfinite(counts).all() and (counts >= 0).all())
