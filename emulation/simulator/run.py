"""Computes the result of a setting once: what was computed before is read, what was broken off goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.coordinator.records.device_figures import DeviceFigures
from lamina.coordinator.records.evaluations import Evaluations
from lamina.coordinator.records.history import History, RoundDone
from lamina.coordinator.records.recorder import Recorder
from lamina.coordinator.records.records import RoundRecord
from lamina.emulation.report import LayerSummary, versions
from lamina.emulation.simulator.backends.choosing import BackendName, open_backend, quickest, samples_per_s
from lamina.emulation.simulator.checkpoint import EvaluationPoint, RunHistory, read_checkpoint, write_checkpoint
from lamina.emulation.simulator.run_context import RunContext, prepare_run
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.simulation import Simulation, SimulationState
from lamina.models.capacity import capacity
from lamina.models.decoding import from_json
from lamina.models.metrics import ACCURACY
from lamina.models.storage.replace import replace_file
from lamina.models.values import write_values

if TYPE_CHECKING:
    from lamina.emulation.simulator.research.exchanging import Exchange

RESULT = "result.json"
CHECKPOINT = "checkpoint.npz"
_CHECKPOINT_S = 20.0  # between two of them
_PACKAGES = ("lamina-fl", "numpy", "torch", "msgspec")


class TierSummary(msgspec.Struct, frozen=True):
    """What devices of one tier trained.

    Attributes:
        tier: strong, moderate or weak.
        devices: how many.
        cut: first layer.
        ratio: of the channels.
        capacity: as EmbracingFL measures it; of the matched sub-model, for a narrow network.
    """

    tier: str
    devices: int
    cut: int
    ratio: float
    capacity: float


class Result(msgspec.Struct, frozen=True):
    """A run that has ended, as ``result.json``.

    Attributes:
        setting: of the run.
        accuracy: of the final averaged model on held-out samples, or the figure that its task judges by.
        best_accuracy: of all evaluations.
        c_ratio: parameters communicated, relative to FedAvg.
        uplink_bytes: what devices sent, in float32.
        fedavg_uplink_bytes: what FedAvg would have sent.
        points: evaluations.
        layers: in forward order.
        tiers: present ones.
        history: how it was carried out.
        samples_per_s: over the whole run, evaluation included.
        wall_s: spent in rounds.
        versions: of the packages that took part.
        own_accuracies: of the final model by device, on the samples that the device kept; empty where none did.
        on_devices: the same put together, where ``evaluation.devices`` asks for it.
        judge: name of the figure that the task judges by.
        lower_is_better: whether a lower one is the better one.
    """

    setting: Setting
    accuracy: float
    best_accuracy: float
    c_ratio: float
    uplink_bytes: int
    fedavg_uplink_bytes: int
    points: tuple[EvaluationPoint, ...]
    layers: tuple[LayerSummary, ...]
    tiers: tuple[TierSummary, ...]
    history: RunHistory
    samples_per_s: float
    wall_s: float
    versions: dict[str, str]
    own_accuracies: dict[str, float] = {}
    on_devices: DeviceFigures | msgspec.UnsetType = msgspec.UNSET
    judge: str = ACCURACY
    lower_is_better: bool = False


def known_result(setting: Setting, cache: Path) -> Result | None:
    """The result of an earlier run with this setting."""
    try:
        return from_json((folder_of(setting, cache) / RESULT).read_bytes(), Result)
    except (OSError, msgspec.DecodeError):
        return None


def folder_of(setting: Setting, cache: Path) -> Path:
    """Return the folder where a setting's run leaves everything."""
    return cache / setting.digest


def run(
    setting: Setting,
    cache: Path,
    *,
    backend: BackendName = "auto",
    processes: int = 0,
    ray: str = "",
    device: str = "cpu",
    observe: Callable[[RoundRecord], None] = lambda record: None,
    checkpoint_s: float = _CHECKPOINT_S,
) -> Result:
    """Carry out a run, or what is left of it.

    Its folder ends with ``result.json``, ``rounds.csv``, ``cycles.jsonl`` and ``model.safetensors``.

    Args:
        setting: of the run.
        cache: folder of all runs, by digest.
        backend: carries out its tasks; ``auto`` measures. A run that goes on keeps to its backend.
        processes: of the pool, or lanes on Ray; 0: as many as there are cores to use.
        ray: address of a Ray cluster, for the backend ``ray``; empty starts one on this machine.
        device: torch's name of where to compute.
        observe: is told of every round.
        checkpoint_s: seconds between checkpoints; 0 makes one after every round.

    Raises:
        ConfigError: the setting can't be run.
        LaminaError: a process of the simulator failed.
    """
    if known := known_result(setting, cache):
        return known
    folder = folder_of(setting, cache)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    context = prepare_run(setting, device, apart=backend in ("auto", "pool"))
    state, history = read_checkpoint(folder / CHECKPOINT) or (None, _history(backend, context))
    points, before_s = list(history.points), history.processor_s

    def so_far() -> RunHistory:
        spent = before_s + time.process_time() - began
        return msgspec.structs.replace(history, points=tuple(points), processor_s=spent)

    kept = _RunFolder(folder, state.run_state.round if state else 0)
    with _begun(context, history.backend, state, processes, ray) as simulation:
        context = simulation.context
        saved = time.monotonic()
        evaluations = Evaluations(
            {point.round: point.accuracy for point in points}, lower_is_better=context.common.lower_is_better
        )
        while not simulation.finished and not evaluations.stalled(setting.evaluation.stop_after):
            record, adjustment = simulation.advance()
            score = record.metrics.get(context.common.judge) if record.metrics else record.accuracy
            if score is not None:
                points.append(EvaluationPoint(record.round + 1, score, record.uplink_bytes, record.c_ratio))
                evaluations.add(record.round + 1, score)
            kept.add(RoundDone(record, adjustment))
            if time.monotonic() - saved >= checkpoint_s:
                kept.save(simulation.state(), so_far())
                saved = time.monotonic()
            observe(record)
        result = _result(context, simulation, so_far())
        write_values(folder / "model.safetensors", simulation.tensors())
    kept.finish(result)
    return result


class _RunFolder:
    """What a run leaves in its folder as it goes on: the log of its rounds, their tables, and checkpoints.

    Args:
        folder: of the run.
        round_: from which the run goes on; what the log has beyond it is taken back.
    """

    def __init__(self, folder: Path, round_: int) -> None:
        self._folder = folder
        self._log = History(folder / "history.log")
        past = self._log.past()
        self._log.go_back(past, round_, "restart")
        self._recorder = Recorder(folder, self._log.rounds(past))

    def add(self, done: RoundDone) -> None:
        """Write down a round that is done."""
        self._log.add(done)
        self._recorder.add(done)

    def save(self, state: SimulationState, history: RunHistory) -> None:
        """Write a checkpoint; the rounds before it are on the disk first."""
        self._log.sync()
        write_checkpoint(self._folder / CHECKPOINT, state, history)

    def finish(self, result: Result) -> None:
        """Write the result, which makes the checkpoint needless."""
        replace_file(self._folder / RESULT, msgspec.json.format(msgspec.json.encode(result), indent=2))
        (self._folder / CHECKPOINT).unlink(missing_ok=True)


@contextmanager
def _begun(
    context: RunContext, backend: str, state: SimulationState | None, processes: int, ray: str
) -> Iterator[Simulation | Exchange]:
    """The loop that goes with what is exchanged."""
    if context.setting.exchange == "logits":
        from lamina.emulation.simulator.research.exchanging import (
            Exchange,  # it takes torch, which a pool's conductor does without
        )

        yield Exchange(context, state)
        return
    with open_backend(backend, context, processes, ray) as opened:
        context = context.on(opened.arrays)
        yield Simulation(context, opened, state)


def _history(backend: BackendName, context: RunContext) -> RunHistory:
    if context.setting.exchange == "logits":
        return RunHistory("loop")  # it has no other
    if backend != "auto":
        return RunHistory(backend)
    rates = samples_per_s(context)
    return RunHistory(quickest(rates), {name: round(rate, 1) for name, rate in rates.items()})


def _result(context: RunContext, simulation: Simulation | Exchange, history: RunHistory) -> Result:
    setting, run_state, spec = context.setting, simulation.run_state, context.spec
    seen = run_state.round * setting.training.local_steps * setting.batch_size * context.slots
    return Result(
        setting=setting,
        accuracy=history.points[-1].accuracy,
        best_accuracy=(min if context.common.lower_is_better else max)(point.accuracy for point in history.points),
        c_ratio=run_state.ledger.c_ratio,
        uplink_bytes=run_state.uplink_bytes,
        fedavg_uplink_bytes=run_state.ledger.fedavg_uplink_bytes,
        points=history.points,
        layers=tuple(
            LayerSummary(layer.name, layer.size, count)
            for layer, count in zip(spec.layers, run_state.versions, strict=True)
        ),
        tiers=_tiers(context),
        history=history,
        samples_per_s=seen / run_state.wall_s,
        wall_s=run_state.wall_s,
        versions=versions(_PACKAGES),
        own_accuracies=simulation.own_accuracies(),
        on_devices=_on_devices(simulation) or msgspec.UNSET,
        judge=context.common.judge,
        lower_is_better=context.common.lower_is_better,
    )


def _on_devices(simulation: Simulation | Exchange) -> DeviceFigures | None:
    """What the devices say, where they are asked."""
    asked = isinstance(simulation, Simulation) and simulation.context.setting.evaluation.devices
    return simulation.on_devices() if asked and isinstance(simulation, Simulation) else None


def _tiers(context: RunContext) -> tuple[TierSummary, ...]:
    setting, spec, tiers = context.setting, context.spec, context.setting.fleet.tiers
    cut_of = {"strong": 0, "moderate": spec.cuts[len(spec.cuts) // 2], "weak": spec.cuts[-1]}
    summaries = []
    for tier in dict.fromkeys(tiers):
        variant = context.common.variants[context.variants[setting.names[tiers.index(tier)]]]
        ratio = capacity(spec, cut_of[tier], setting.batch_size).ratio
        summaries.append(TierSummary(tier, tiers.count(tier), variant.cut, variant.ratio, ratio))
    return tuple(summaries)
