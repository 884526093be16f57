"""Carries out a study: plan, runs, table, figures; all that it leaves is in its folder."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lamina.emulation.simulator.run import Result, known_result
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.studies.many import Means, carry_out
from lamina.emulation.simulator.studies.study import Planned, Scale, Study, plan
from lamina.emulation.simulator.studies.tables import (
    ClaimVerdict,
    Entry,
    Results,
    as_csv,
    as_markdown,
    cells,
    entries,
    grouped,
    heads,
    mean_and_spread,
    scaled,
    verdicts,
)
from lamina.models.metrics import ACCURACY
from lamina.models.storage.replace import replace_file

VALIDATION_SHARE = 0.2  # of the training set, that a sweep judges by


@dataclass(frozen=True)
class Effort:
    """What a study took.

    Attributes:
        runs: different ones in it.
        known: of these, that were in the cache.
        wall_s: seconds from beginning to end; on a machine that is shared, or paused, they say little.
        processor_s: seconds of processor time of the runs that were not known, and of this process.
    """

    runs: int
    known: int
    wall_s: float
    processor_s: float


@dataclass(frozen=True)
class Findings:
    """A study that has ended.

    Attributes:
        study: that was asked.
        scale: at which.
        table: a row a method.
        verdicts: on its claims.
        folder: of table, CSV and figures.
        effort: that it took.
    """

    study: Study
    scale: Scale
    table: tuple[Entry, ...]
    verdicts: tuple[ClaimVerdict, ...]
    folder: Path
    effort: Effort


def conduct(
    study: Study,
    scale: Scale,
    out: Path,
    means: Means,
    *,
    changes: Mapping[str, object] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Findings:
    """Carry out all runs of a study that are not known yet, and write table, CSV and figures.

    Args:
        study: to be asked.
        scale: ``full`` or ``small``.
        out: folder for the studies' folders.
        means: to carry runs out with.
        changes: to every setting, by dotted key.
        progress: is told which share of all rounds is done.

    Raises:
        ConfigError: a setting can't be run.
        LaminaError: a run failed.
    """
    began, own_began = time.perf_counter(), time.process_time()
    planned = plan(study, scale, changes)
    known = {run.setting.digest for run in planned if known_result(run.setting, means.cache)}
    by_digest = carry_out([run.setting for run in planned], means, progress)
    results = grouped(planned, by_digest)
    folder = folder_of_study(study, scale, out)
    folder.mkdir(parents=True, exist_ok=True)
    table = tuple(entries(study, results))
    _draw(study, results, means.cache, folder)
    theirs = sum(run.history.processor_s for digest, run in by_digest.items() if digest not in known)
    effort = Effort(
        *(len(by_digest), len(known)), time.perf_counter() - began, theirs + time.process_time() - own_began
    )
    findings = Findings(study, scale, table, tuple(verdicts(study, results)), folder, effort)
    _write(findings, results)
    return findings


def report(findings: Findings) -> str:
    """The study in Markdown: question, table, verdicts."""
    study = findings.study
    own_networks = any(planned.setting.exchange == "logits" for planned in plan(study, findings.scale))
    lines = [f"## {study.question}\n", f"{study.name}, {findings.scale} scale. {study.source}\n"]
    lines.append(as_markdown(heads(findings.table), [cells(entry) for entry in findings.table]))
    lines += [f"- {verdict.text}" for verdict in findings.verdicts]
    lines.append(
        "\nAccuracy is that of the averaged model, with averaged running statistics, on held-out samples; mean and "
        "standard deviation over the seeds. Published runs judge by the best of several local models."
        + (" Where logits are exchanged, it is the mean over the devices' own networks." if own_networks else "")
        + "\n"
    )
    return "\n".join(lines)


def _write(findings: Findings, results: Results) -> None:
    replace_file(findings.folder / "table.md", report(findings).encode())
    replace_file(findings.folder / "table.csv", as_csv(findings.table).encode())
    runs = {label: [run.setting.digest for run in runs] for label, runs in results.items()}
    replace_file(findings.folder / "runs.json", msgspec.json.format(msgspec.json.encode(runs), indent=2))


def _draw(study: Study, results: Results, cache: Path, folder: Path) -> None:
    from lamina.emulation.simulator.studies.figures import draw_study  # matplotlib takes a second to import

    draw_study(folder / "plots", results, cache)
    if study.kind == "similarity":
        from lamina.emulation.simulator.research.layer_similarity_report import compare_layers

        compare_layers(results, cache, folder)


@dataclass(frozen=True)
class Tried:
    """One value of a sweep, for one method.

    Attributes:
        label: of the method.
        value: that was tried.
        accuracy: mean over the seeds, in percent; or of what the task judges by, as it is.
        spread: standard deviation over the seeds, in points; 0 for one seed.
        best: whether it is the method's best.
        judge: name of the figure.
    """

    label: str
    value: object
    accuracy: float
    spread: float
    best: bool
    judge: str = ACCURACY


def sweep(
    study: Study,
    scale: Scale,
    key: str,
    values: Sequence[object],
    out: Path,
    means: Means,
    *,
    changes: Mapping[str, object] | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Tried]:
    """Run every method with every value of ``key``, a dotted key of a setting, and write ``sweep-KEY.csv``.

    Runs are judged by a validation part of the training set (`VALIDATION_SHARE`, or the study's own
    ``holdout.validation``): what is chosen by a sweep has not seen the test set.

    Raises:
        ConfigError: a setting can't be run.
        LaminaError: a run failed.
    """
    plans = {index: _tuning(plan(study, scale, {**(changes or {}), key: value})) for index, value in enumerate(values)}
    every = [run.setting for planned in plans.values() for run in planned]
    results = carry_out(every, means, progress)
    judge = next(iter(results.values())).judge
    tried: list[Tried] = []
    for label in dict.fromkeys(run.label for run in plans[0]):
        found = [mean_and_spread(_accuracies(label, plans[index], results)) for index in range(len(values))]
        lower = any(result.lower_is_better for result in results.values())
        best = (min if lower else max)(mean for mean, _ in found)
        tried += [Tried(label, value, *one, one[0] == best, judge) for value, one in zip(values, found, strict=True)]
    folder = folder_of_study(study, scale, out)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / f"sweep-{key}.csv", _tried_csv(key, tried).encode())
    return tried


def folder_of_study(study: Study, scale: Scale, out: Path) -> Path:
    """Return the folder where a study leaves its table, CSV and figures."""
    return out / (study.name if scale == "full" else f"{study.name}-{scale}")


def _tuning(planned: Sequence[Planned]) -> list[Planned]:
    """The same runs, judged by a validation part."""
    return [msgspec.structs.replace(run, setting=_judged_by_validation(run.setting)) for run in planned]


def _judged_by_validation(setting: Setting) -> Setting:
    replace, holdout = msgspec.structs.replace, setting.holdout
    return replace(setting, holdout=replace(holdout, validation=holdout.validation or VALIDATION_SHARE))


def _accuracies(label: str, planned: Sequence[Planned], results: Mapping[str, Result]) -> list[float]:
    return [scaled(results[run.setting.digest]) for run in planned if run.label == label]


def _tried_csv(key: str, tried: Sequence[Tried]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", key, "accuracy", "spread", "best"))
    writer.writerows((one.label, one.value, f"{one.accuracy:.4f}", f"{one.spread:.4f}", int(one.best)) for one in tried)
    return text.getvalue()
