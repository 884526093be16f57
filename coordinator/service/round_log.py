"""What becomes of a finished round? It is evaluated, written down and told of, while the next one trains.

At the end the averaged model is exported.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lamina.coordinator.records.evaluate import Evaluator, read_evaluation_data
from lamina.coordinator.records.recorder import Recorder
from lamina.coordinator.records.records import CycleRecord, RoundRecord
from lamina.coordinator.rounds.federation import Federation, RoundOutcome
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import Bundle
from lamina.models.export import export_model
from lamina.models.values import layer_tensors, write_values

_UNRECORDED = 4
"""Finished rounds, each with the model's values, that may wait to be evaluated before training waits for them."""


class Chronicle:
    """The records of one run.

    Args:
        settings: the operator's.
        bundle: what is trained.
        federation: whose rounds are recorded.
        observe: is told of every finished round, in order.
        observe_cycle: is told of every adjustment of the intervals.

    Attributes:
        accuracy: of the averaged model, when it was last evaluated.
    """

    def __init__(
        self,
        settings: FederationSettings,
        bundle: Bundle,
        federation: Federation,
        observe: Callable[[RoundRecord], None],
        observe_cycle: Callable[[CycleRecord], None],
    ) -> None:
        self._settings, self._bundle, self._federation = settings, bundle, federation
        self._observe, self._observe_cycle = observe, observe_cycle
        self._folder = Path(settings.folder)
        self._recorder = Recorder(self._folder, federation.snapshot.round)
        self._evaluator = _evaluator(settings, bundle)
        self._outcomes: asyncio.Queue[RoundOutcome | None] = asyncio.Queue(_UNRECORDED)
        self.accuracy: float | None = None

    async def add(self, outcome: RoundOutcome) -> None:
        """Have a round recorded; waits where too many are not recorded yet."""
        await self._outcomes.put(outcome)

    async def end(self) -> None:
        """There are no more rounds."""
        await self._outcomes.put(None)

    async def keep(self) -> None:
        """Evaluate, write down and report each outcome; ``None`` ends it. Cancelled, it evaluates no more."""
        outcome: RoundOutcome | None = None
        try:
            while (outcome := await self._outcomes.get()) is not None:
                self._record(outcome, await self._accuracy_of(outcome))
                outcome = None
        except asyncio.CancelledError:
            left = [outcome]
            while not self._outcomes.empty():
                left.append(self._outcomes.get_nowait())
            for outcome in filter(None, left):
                self._record(outcome, None)
            raise
        await asyncio.to_thread(self._export)

    async def _accuracy_of(self, outcome: RoundOutcome) -> float | None:
        if self._evaluator is None or not self._is_evaluated(outcome.round.plan.round):
            return None
        self.accuracy = await asyncio.to_thread(self._evaluator.accuracy, outcome.values)
        return self.accuracy

    def _record(self, outcome: RoundOutcome, accuracy: float | None) -> None:
        record = self._round_record(outcome, accuracy)
        self._recorder.add_round(record)
        if outcome.adjustment:
            self._recorder.add_cycle(outcome.adjustment)
            self._observe_cycle(outcome.adjustment)
        self._observe(record)

    def _is_evaluated(self, round_: int) -> bool:
        done = round_ + 1
        return done % self._settings.evaluation.every == 0 or done == self._federation.rounds

    def _round_record(self, outcome: RoundOutcome, accuracy: float | None) -> RoundRecord:
        round_, plan = outcome.round, outcome.round.plan
        reports = [report for report in round_.reports.values() if math.isfinite(report.loss)]
        return RoundRecord(
            round=plan.round,
            cycle=plan.cycle,
            cohort=plan.cohort,
            due=plan.due,
            updates=outcome.updates,
            expected=outcome.expected,
            rejected=round_.rejected,
            lr=plan.hyperparameters["lr"],
            loss=float(np.mean([report.loss for report in reports])) if reports else None,
            train_accuracy=float(np.mean([report.accuracy for report in reports])) if reports else None,
            accuracy=accuracy,
            c_ratio=outcome.snapshot.ledger.c_ratio,
            uplink_bytes=outcome.snapshot.uplink_bytes,
            downlink_bytes=self._federation.downlink_bytes,
            fedavg_uplink_bytes=outcome.snapshot.ledger.fedavg_uplink_bytes,
            wall_s=outcome.snapshot.wall_s,
            round_s=outcome.seconds,
            waited_s=outcome.waited_s,
        )

    def _export(self) -> None:
        """``model.safetensors`` and ``model.onnx`` of the averaged model."""
        spec = self._bundle.manifest.spec
        tensors = {
            name: tensor
            for layer, vector in enumerate(self._federation.values)
            for name, tensor in layer_tensors(spec, layer, vector).items()
        }
        write_values(self._folder / "model.safetensors", tensors)
        export_model(self._bundle, tensors, self._folder / "model.onnx")


def _evaluator(settings: FederationSettings, bundle: Bundle) -> Evaluator | None:
    evaluation = settings.evaluation
    if not evaluation.data:
        return None
    x, y = read_evaluation_data(Path(evaluation.data))
    return Evaluator(bundle, x, y, evaluation.batch_size)
