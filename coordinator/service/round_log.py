"""What becomes of a finished round: it is evaluated, written down and told of, while the next one trains.

At the end the averaged model is exported, and beside it the best one by evaluation. What a run that was broken off had
not evaluated yet is evaluated when it goes on, as far as the store has kept it.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from lamina.coordinator.records.device_figures import DeviceFigures, answers_of, device_figures
from lamina.coordinator.records.evaluate import Evaluator
from lamina.coordinator.records.evaluations import Evaluations
from lamina.coordinator.records.exporting import export, facts_of
from lamina.coordinator.records.history import Evaluated, Judged, Past, RoundDone
from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.recorder import Recorder
from lamina.coordinator.records.records import CycleRecord, RoundRecord, RunResult
from lamina.coordinator.rounds.federation import Federation, RoundOutcome
from lamina.coordinator.rounds.round import Round
from lamina.coordinator.settings import FederationSettings
from lamina.models.arrays import Vector
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError, DataError
from lamina.models.metrics import ACCURACY
from lamina.models.sources import load_samples
from lamina.models.storage.disk import Disk

log = logging.getLogger("lamina.coordinator")

_UNRECORDED = 4
"""Finished rounds, each with the model's values, that may wait to be evaluated before training waits for them."""


class _Entry(NamedTuple):
    """A finished round that is not written down yet, and the model after it."""

    done: RoundDone
    values: tuple[Vector, ...]


class RoundLog:
    """The records of one run.

    Args:
        settings: the operator's.
        bundle: what is trained.
        federation: whose rounds are recorded.
        journal: of the run, which was recovered.
        past: what counts of its history.
        disk: the records lie on.
        observe: is told of every finished round, in order.
        observe_cycle: is told of every adjustment of the intervals.

    Attributes:
        evaluations: so far.
        figures: of the last one, by name.
        devices_said: what devices said last of a model, on the samples that they keep.
    """

    def __init__(
        self,
        settings: FederationSettings,
        bundle: Bundle,
        federation: Federation,
        journal: Journal,
        past: Past,
        disk: Disk,
        observe: Callable[[RoundRecord], None],
        observe_cycle: Callable[[CycleRecord], None],
    ) -> None:
        self._settings, self._bundle, self._federation = settings, bundle, federation
        self._store, self._history = journal.store, journal.history
        self._past, self._disk = past, disk
        self._observe, self._observe_cycle = observe, observe_cycle
        self._folder = Path(settings.folder)
        self._evaluator = _evaluator(settings, bundle)
        self._judge, self._columns = bundle.manifest.judge, bundle.manifest.figure_names
        self.evaluations = Evaluations(past.scores(self._judge), lower_is_better=bundle.manifest.lower_is_better)
        self.devices_said: DeviceFigures | None = past.judged[max(past.judged)] if past.judged else None
        self.figures: dict[str, float] = past.figures[max(past.figures)] if past.figures else {}
        self._left_over = self._unevaluated()
        self._unjudged = frozenset(self._left_over)  # generations that are to be evaluated; replaced, never changed
        self._recorder = self._new_recorder()
        self._entries: asyncio.Queue[_Entry | None] = asyncio.Queue(_UNRECORDED)
        self._resumed = asyncio.Event()

    @property
    def accuracy(self) -> float | None:
        """The accuracy of the averaged model when it was last evaluated."""
        return self.figures.get(ACCURACY)

    def pinned(self) -> frozenset[int]:
        """Generations that the store must keep, besides the last ones. Any thread may ask."""
        best = self.evaluations.best
        return self._unjudged | ({best[0]} if best and self._settings.evaluation.keep_best else set())

    def note_judged(self, round_: Round) -> None:
        """Keep what devices say of the last model."""
        figures = self._judged(round_)
        rounds = round_.plan.round
        self._history.add(Judged(rounds, figures))
        self._past.judged[rounds] = figures
        if figures is None:
            log.warning("no device has samples by which it could judge the last model (evaluation.devices)")

    def on_devices(self, rounds: int) -> DeviceFigures | None:
        """What devices said of the last model, which so many rounds have made."""
        return self._past.judged.get(rounds)

    def note(self, outcome: RoundOutcome) -> RoundDone:
        """What the history says of a round that is about to be committed."""
        if self._is_evaluated(outcome.snapshot.round):
            self._unjudged |= {outcome.snapshot.round}
        return RoundDone(self._round_record(outcome), outcome.adjustment)

    async def add(self, done: RoundDone, outcome: RoundOutcome) -> None:
        """Have a round evaluated and written down; waits where too many are not yet."""
        await self._entries.put(_Entry(done, outcome.values))

    async def end(self) -> None:
        """There are no more rounds."""
        await self._entries.put(None)

    async def caught_up(self) -> None:
        """Return when all rounds so far are evaluated."""
        await self._resumed.wait()
        await self._entries.join()

    async def keep(self) -> None:
        """Evaluate, write down and report each round. Cancelled, it writes down what is left, and evaluates no more."""
        entry: _Entry | None = None
        try:
            await self._resume()
            while (entry := await self._entries.get()) is not None:
                self._record(entry.done, await self._figures_of(entry.done.record.round + 1, entry.values))
                entry = None
                self._entries.task_done()
        except asyncio.CancelledError:
            left = [entry]
            while not self._entries.empty():
                left.append(self._entries.get_nowait())
            for entry in filter(None, left):
                self._record(entry.done, {})
            raise
        await asyncio.to_thread(self._export)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _new_recorder(self) -> Recorder:
        rounds, judged = self._history.rounds(self._past), self._settings.evaluation.devices > 0
        return Recorder(self._folder, rounds, self._disk, self._columns, judged=judged)

    def _judged(self, round_: Round) -> DeviceFigures | None:
        """What the reports of a round say of the model with which it began."""
        if round_.plan.judges is not True:
            return None
        found = device_figures(round_.plan.round, self._bundle.manifest, answers_of(round_.reports))
        self.devices_said = found or self.devices_said
        return found

    async def _resume(self) -> None:
        """Evaluate what an earlier run had left, and write the records anew where that adds to them."""
        for rounds in self._left_over:
            values = (await asyncio.to_thread(self._store.at, rounds, self._federation.wire_spec)).values
            if figures := await self._figures_of(rounds, tuple(values)):
                self._past.figures[rounds] = figures
        if self._left_over:
            self._recorder = self._new_recorder()
        self._resumed.set()

    def _unevaluated(self) -> list[int]:
        """Rounds done of generations that were to be evaluated, and were not."""
        missing = {round_ + 1 for round_ in self._past.lines if self._is_evaluated(round_ + 1)}
        missing -= self._past.figures.keys()
        return sorted(missing.intersection(self._store.generations())) if missing else []

    async def _figures_of(self, rounds: int, values: tuple[Vector, ...]) -> dict[str, float]:
        """What the evaluation after so many rounds comes to; nothing where there is none."""
        if self._evaluator is None or not self._is_evaluated(rounds):
            return {}
        self.figures = figures = await asyncio.to_thread(self._evaluator.figures, values)
        self._history.add(Evaluated.of(rounds, figures))
        if self._judge in figures:
            self.evaluations.add(rounds, figures[self._judge])
        self._unjudged -= {rounds}
        return figures

    def _record(self, done: RoundDone, figures: dict[str, float]) -> None:
        done = done.with_figures(figures)
        self._recorder.add(done)
        if done.adjustment:
            self._observe_cycle(done.adjustment)
        self._observe(done.record)

    def _is_evaluated(self, rounds: int) -> bool:
        """Whether the model after so many rounds is."""
        due = rounds % self._settings.evaluation.every == 0 or rounds == self._federation.rounds
        return self._evaluator is not None and due

    def _round_record(self, outcome: RoundOutcome) -> RoundRecord:
        round_, plan = outcome.round, outcome.round.plan
        finite = {name: report for name, report in round_.reports.items() if math.isfinite(report.loss)}
        weights = [self._federation.devices[name].profile.num_examples for name in finite]
        return RoundRecord(
            round=plan.round,
            cycle=plan.cycle,
            cohort=plan.cohort,
            due=plan.due,
            updates=outcome.updates,
            expected=outcome.expected,
            rejected=round_.rejected,
            lr=plan.hyperparameters["lr"],
            loss=weighted_mean([report.loss for report in finite.values()], weights),
            train_accuracy=(
                weighted_mean([report.accuracy for report in finite.values()], weights)
                if self._bundle.manifest.spec.wanted.is_right_or_wrong
                else None
            ),
            accuracy=None,
            c_ratio=outcome.snapshot.ledger.c_ratio,
            uplink_bytes=outcome.snapshot.uplink_bytes,
            downlink_bytes=outcome.snapshot.downlink_bytes,
            fedavg_uplink_bytes=outcome.snapshot.ledger.fedavg_uplink_bytes,
            wall_s=outcome.snapshot.wall_s,
            round_s=outcome.seconds,
            waited_s=outcome.waited_s,
            on_devices=self._judged(round_) or msgspec.UNSET,
        )

    def _export(self) -> None:
        """The averaged model as ``model``, and the best one by evaluation as ``best``."""
        last = self.evaluations.last
        name, scores = self._settings.federation, dict(filter(None, (last, self.evaluations.best)))
        facts = facts_of(self._federation.snapshot, name, self._judge, scores)
        export(self._bundle, self._federation.values, self._folder, "model", facts)
        best = self.evaluations.best
        if best is None or not self._settings.evaluation.keep_best:
            return
        try:
            saved = self._store.at(best[0], self._federation.wire_spec)
        except ConfigError as error:
            log.warning("the best model, of round %d, is not exported: %s", best[0], error)
        else:
            facts = facts_of(saved.snapshot, name, self._judge, scores)
            export(self._bundle, saved.values, self._folder, "best", facts)

    def result(self) -> RunResult:
        """What the run came to."""
        federation, snapshot = self._federation, self._federation.snapshot
        best = self.evaluations.best
        return RunResult(
            accuracy=self.accuracy,
            c_ratio=snapshot.ledger.c_ratio,
            rounds=snapshot.round,
            wall_s=snapshot.wall_s,
            devices=federation.device_records(),
            uplink_bytes=snapshot.uplink_bytes,
            downlink_bytes=federation.downlink_bytes,
            fedavg_uplink_bytes=snapshot.ledger.fedavg_uplink_bytes,
            aggregations=snapshot.versions,  # a version is an aggregation
            best_round=best[0] if best else None,
            best_accuracy=best[1] if best and self._bundle.manifest.judge == ACCURACY else None,
            metrics=self.figures if self._bundle.manifest.metrics else msgspec.UNSET,
            on_devices=self.on_devices(snapshot.round) or msgspec.UNSET,
        )


def _evaluator(settings: FederationSettings, bundle: Bundle) -> Evaluator | None:
    evaluation = settings.evaluation
    if not evaluation.data:
        return None
    try:
        return Evaluator(bundle, load_samples(evaluation.data), evaluation.batch_size)
    except DataError as error:
        raise DataError(f"evaluation.data: {error}") from error


def weighted_mean(figures: Sequence[float], num_examples: Sequence[int]) -> float | None:
    """Mean over the samples of all devices, of a figure a device; ``None`` without a device."""
    return float(np.average(figures, weights=num_examples)) if figures else None
