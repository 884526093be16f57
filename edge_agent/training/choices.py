"""Keeps on the board, in a file of the agent's folder, how each graph runs fastest there.

A choice holds for one engine, processor, number of threads and set of graphs. The file says in which version it is
written; one of another version is set aside, and what it held is measured anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from lamina.edge_agent.training.engine import ExecutionMode
from lamina.models.decoding import from_json
from lamina.models.storage.replace import replace_file

FILE = "tuning.json"
VERSION = 2

log = logging.getLogger("lamina.agent")


class TuningResult(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        form: of the graph.
        threads: that a step uses.
        spinning: whether threads wait actively.
        step_ms: of every mode that was measured, by its name.
    """

    form: str
    threads: int
    spinning: bool
    step_ms: dict[str, float]

    @property
    def mode(self) -> ExecutionMode:
        """The chosen mode."""
        return ExecutionMode(self.form, self.threads, self.spinning)

    def seconds(self, modes: Iterable[ExecutionMode]) -> dict[ExecutionMode, float]:
        """The seconds that a step takes in each of some modes, where it was measured."""
        return {mode: self.step_ms[str(mode)] / 1e3 for mode in modes if str(mode) in self.step_ms}


class _ChoicesFile(msgspec.Struct, frozen=True):
    version: int
    choices: dict[str, TuningResult]


def read_choices(path: Path) -> dict[str, TuningResult]:
    """What was found before, by what it was found for; nothing where there is no file, or none that can be read."""
    try:
        file = from_json(path.read_bytes(), _ChoicesFile)
    except (OSError, msgspec.DecodeError):
        return {}
    return file.choices if file.version == VERSION else {}


def keep_choice(path: Path, key: str, result: TuningResult) -> None:
    """Add a choice to the file, which appears whole or not at all; without it, the next start measures again."""
    content = msgspec.json.encode(_ChoicesFile(VERSION, {**read_choices(path), key: result}))
    try:
        replace_file(path, msgspec.json.format(content))
    except OSError as error:
        log.warning("can't keep in %s what runs fastest: %s", path, error.strerror)
