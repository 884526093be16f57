"""Where the dashboard's facts come from: the coordinator that runs, and the folder in which it keeps its records."""

from __future__ import annotations

import csv
import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lamina.coordinator.dashboard.overview import JudgeView, Overview, device_views, layer_views, overview
from lamina.coordinator.records.evaluations import Evaluations
from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.recorder import CYCLES, EVALUATED, FIELDS, ON_DEVICES, ROUNDS, read_cycles
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError
from lamina.models.metrics import ACCURACY

_MOST_LINES = 1000
_FIGURES = (
    "lr", "loss", "train_accuracy", "accuracy", "c_ratio", "uplink_bytes", "downlink_bytes", "fedavg_uplink_bytes",
    "wall_s", "round_s", "waited_s",
)  # fmt: skip


class LogLine(NamedTuple):
    """One line of the coordinator's log: when (seconds since 1970), how grave, and what it says."""

    at: float
    level: str
    text: str


class LogTail(logging.Handler):
    """The last lines of a log, for people to look at."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[LogLine] = deque(maxlen=_MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self._lines.append(LogLine(record.created, record.levelname.lower(), record.getMessage()))

    def lines(self, device: str = "") -> list[LogLine]:
        """The lines, oldest first; with a device's name, those that name it."""
        if not device:
            return list(self._lines)
        word = re.compile(rf"(?<![\w.-]){re.escape(device)}(?![\w-])")
        return [line for line in self._lines if word.search(line.text)]


@contextmanager
def tail_of(name: str) -> Iterator[LogTail]:
    """Keep the last lines of the logger of that name."""
    log, tail = logging.getLogger(name), LogTail()
    log.addHandler(tail)
    try:
        yield tail
    finally:
        log.removeHandler(tail)


def rounds_after(folder: Path, done: int) -> list[dict[str, Any]]:
    """The records of the rounds from the 0-based round ``done`` on, but for lines that are torn."""
    try:
        with (folder / ROUNDS).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            return [_round(row) for row in rows if _whole(row) and int(row["round"]) >= done]
    except FileNotFoundError:
        return []


def cycles_after(folder: Path, cycle: int) -> list[Any]:
    """The records of the cycles from the 0-based ``cycle`` on."""
    return [record for record in read_cycles(folder / CYCLES) if record.cycle >= cycle]


def overview_of(folder: Path, name: str, bundle: Bundle, rounds: int) -> Overview:
    """How a federation stands by its folder alone, while no coordinator runs.

    Args:
        folder: of the run.
        name: of the federation.
        bundle: that it trains.
        rounds: it was to do.

    Raises:
        ConfigError: no round is committed there, or it is of another bundle.
    """
    journal, spec = Journal(folder), bundle.manifest.spec
    kept = journal.store.generations()
    if not kept:
        raise ConfigError(f"{folder} holds no committed round: `lamina run` trains")
    saved = journal.store.at(kept[0], spec)
    snapshot = saved.snapshot
    if snapshot.manifest != bundle.digest:
        raise ConfigError(f"the state in {folder} is of another bundle than {bundle.folder}")
    manifest = bundle.manifest
    past = journal.history.past()
    evaluations = Evaluations(past.scores(manifest.judge), lower_is_better=manifest.lower_is_better)
    figures = past.figures[max(past.figures)] if past.figures else {}
    said = past.judged[max(past.judged)] if past.judged else None
    finished = snapshot.round >= rounds or (folder / "summary.json").exists()
    return overview(
        name,
        rounds,
        snapshot,
        JudgeView.of(manifest, evaluations, figures, said),
        live=False,
        state="finished" if finished else "stopped",
        layers=layer_views(spec, snapshot),
        devices=device_views(spec, snapshot.devices, {}, {}, {}),
    )


def _whole(row: dict[str, str | None]) -> bool:
    return None not in row.values() and None not in row  # a line that is being written lacks cells


def _round(row: dict[str, str]) -> dict[str, Any]:
    figures = {name: float(row[name]) if row.get(name) else None for name in _FIGURES}
    return {
        "round": int(row["round"]),
        "cycle": int(row["cycle"]),
        "cohort": len(row["cohort"].split()),
        "due": [int(layer) for layer in row["due"].split()],
        "updates": int(row["updates"]),
        "expected": int(row["expected"]),
        "rejected": int(row["rejected"]),
        **figures,
        "figures": _evaluated(row),
    }


def _evaluated(row: Mapping[str, str]) -> dict[str, float]:
    """What the model came to after the round, by the metric's name."""
    return {
        name.removeprefix(EVALUATED): float(cell)
        for name, cell in row.items()
        if cell and (name == ACCURACY or name not in FIELDS) and not name.startswith(ON_DEVICES)
    }
