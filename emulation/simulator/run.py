"""How does a setting become a result? Once: what was computed before is read, what was broken off goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.coordinator.records.recorder import Recorder
from lamina.coordinator.records.records import RoundRecord
from lamina.emulation.report import LayerSummary, versions
from lamina.emulation.simulator.backends.choice import WayName, open_way, quickest, samples_per_s
from lamina.emulation.simulator.checkpoint import Course, Point, read_checkpoint, write_checkpoint
from lamina.emulation.simulator.run_context import Ground, lay
from lamina.emulation.simulator.setting import Setting
from lamina.emulation.simulator.simulation import Simulation, State
from lamina.models.capacity import capacity
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
        accuracy: of the final averaged model on held-out samples.
        best_accuracy: of all evaluations.
        c_ratio: parameters communicated, relative to FedAvg.
        uplink_bytes: what devices sent, in float32.
        fedavg_uplink_bytes: what FedAvg would have sent.
        points: evaluations.
        layers: in forward order.
        tiers: present ones.
        course: how it was carried out.
        samples_per_s: over the whole run, evaluation included.
        wall_s: spent in rounds.
        versions: of the packages that took part.
        own_accuracies: of the final model by device, on the samples that the device kept; empty where none did.
    """

    setting: Setting
    accuracy: float
    best_accuracy: float
    c_ratio: float
    uplink_bytes: int
    fedavg_uplink_bytes: int
    points: tuple[Point, ...]
    layers: tuple[LayerSummary, ...]
    tiers: tuple[TierSummary, ...]
    course: Course
    samples_per_s: float
    wall_s: float
    versions: dict[str, str]
    own_accuracies: dict[str, float] = {}


def known_result(setting: Setting, cache: Path) -> Result | None:
    """The result of an earlier run with this setting."""
    try:
        return msgspec.json.decode((folder_of(setting, cache) / RESULT).read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError):
        return None


def folder_of(setting: Setting, cache: Path) -> Path:
    """Where a setting's run leaves everything."""
    return cache / setting.digest


def run(
    setting: Setting,
    cache: Path,
    *,
    way: WayName = "auto",
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
        way: to carry out its tasks in; ``auto`` measures. A run that goes on keeps to its way.
        processes: of the pool, or lanes on Ray; 0: as many as there are cores to use.
        ray: address of a Ray cluster, for the way ``ray``; empty starts one on this machine.
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
    ground = lay(setting, device, apart=way in ("auto", "pool"))
    state, course = read_checkpoint(folder / CHECKPOINT) or (None, _course(way, ground))
    points, before_s = list(course.points), course.processor_s

    def so_far() -> Course:
        spent = before_s + time.process_time() - began
        return msgspec.structs.replace(course, points=tuple(points), processor_s=spent)

    recorder = Recorder(folder, state.standing.round if state else 0)
    with _begun(ground, course.way, state, processes, ray) as simulation:
        ground = simulation.ground
        saved = time.monotonic()
        while not simulation.finished:
            record, adjustment = simulation.advance()
            if record.accuracy is not None:
                points.append(Point(record.round + 1, record.accuracy, record.uplink_bytes, record.c_ratio))
            recorder.add_round(record)
            if adjustment:
                recorder.add_cycle(adjustment)
            if time.monotonic() - saved >= checkpoint_s:
                write_checkpoint(folder / CHECKPOINT, simulation.state(), so_far())
                saved = time.monotonic()
            observe(record)
        result = _result(ground, simulation, so_far())
        write_values(folder / "model.safetensors", simulation.tensors())
    replace_file(folder / RESULT, msgspec.json.format(msgspec.json.encode(result), indent=2))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


@contextmanager
def _begun(ground: Ground, way: str, state: State | None, processes: int, ray: str) -> Iterator[Simulation | Exchange]:
    """The loop that goes with what is exchanged."""
    if ground.setting.exchange == "logits":
        from lamina.emulation.simulator.research.exchanging import (
            Exchange,  # it takes torch, which a pool's conductor does without
        )

        yield Exchange(ground, state)
        return
    with open_way(way, ground, processes, ray) as opened:
        ground = ground.on(opened.arena)
        yield Simulation(ground, opened, state)


def _course(way: WayName, ground: Ground) -> Course:
    if ground.setting.exchange == "logits":
        return Course("loop")  # it has no other
    if way != "auto":
        return Course(way)
    rates = samples_per_s(ground)
    return Course(quickest(rates), {name: round(rate, 1) for name, rate in rates.items()})


def _result(ground: Ground, simulation: Simulation | Exchange, course: Course) -> Result:
    setting, standing, spec = ground.setting, simulation.standing, ground.spec
    seen = standing.round * setting.training.local_steps * setting.batch_size * ground.slots
    return Result(
        setting=setting,
        accuracy=course.points[-1].accuracy,
        best_accuracy=max(point.accuracy for point in course.points),
        c_ratio=standing.ledger.c_ratio,
        uplink_bytes=standing.uplink_bytes,
        fedavg_uplink_bytes=standing.ledger.fedavg_uplink_bytes,
        points=course.points,
        layers=tuple(
            LayerSummary(layer.name, layer.size, count)
            for layer, count in zip(spec.layers, standing.aggregations, strict=True)
        ),
        tiers=_tiers(ground),
        course=course,
        samples_per_s=seen / standing.wall_s,
        wall_s=standing.wall_s,
        versions=versions(_PACKAGES),
        own_accuracies=simulation.own_accuracies(),
    )


def _tiers(ground: Ground) -> tuple[TierSummary, ...]:
    setting, spec, tiers = ground.setting, ground.spec, ground.setting.fleet.tiers
    cut_of = {"strong": 0, "moderate": spec.cuts[len(spec.cuts) // 2], "weak": spec.cuts[-1]}
    summaries = []
    for tier in dict.fromkeys(tiers):
        variant = ground.recipe.variants[ground.variants[setting.names[tiers.index(tier)]]]
        ratio = capacity(spec, cut_of[tier], setting.batch_size).ratio
        summaries.append(TierSummary(tier, tiers.count(tier), variant.cut, variant.ratio, ratio))
    return tuple(summaries)
