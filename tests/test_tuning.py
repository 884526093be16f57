"""The mode of execution that is fastest is taken, remembered, found again, and changes nothing but rounding."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.edge_agent.training.choices import FILE, VERSION, read_choices
from lamina.edge_agent.training.choosing import candidates, choose
from lamina.edge_agent.training.engine import STANDARD, ExecutionMode, StepResult
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.edge_agent.training.trainer import Trainer
from lamina.edge_agent.training.tuning import Tuned, random_batch
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition
from lamina.models.engine_facts import block_size
from lamina.models.errors import ModelError
from lamina.models.manifest import BLOCKS, PARALLEL
from lamina.models.values import flatten

ONE, TWO = ExecutionMode(STANDARD), ExecutionMode(PARALLEL, 2)
BLOCKED, BLOCKED_TWO = ExecutionMode("blocked16"), ExecutionMode("blocked16", 2)
SPINNING = ExecutionMode("blocked16", 2, spinning=True)
MODES = candidates([STANDARD, PARALLEL, "blocked16"], 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    build_bundle(load_definition("digits_cnn"), folder, batch_size=8, check=False)
    return read_bundle(folder)


def chosen(seconds: dict[ExecutionMode, float]) -> ExecutionMode:
    return choose([mode for mode in MODES if mode in seconds], seconds.__getitem__).mode


def test_one_thread_is_always_a_candidate_and_the_plain_way_the_first() -> None:
    assert candidates([STANDARD], 1) == [ONE]
    assert MODES[:4] == [ONE, BLOCKED, TWO, BLOCKED_TWO]
    assert {mode.threads for mode in candidates([STANDARD, PARALLEL], 4)} == {1, 2, 4}
    assert ExecutionMode(STANDARD, 2) in candidates([STANDARD], 2)  # a network without convolutions


def test_the_fastest_mode_is_chosen() -> None:
    assert chosen({ONE: 10, BLOCKED: 8, TWO: 9, BLOCKED_TWO: 6, SPINNING: 7}) == BLOCKED_TWO
    assert chosen({ONE: 10, BLOCKED: 8, TWO: 9, BLOCKED_TWO: 6, SPINNING: 5}) == SPINNING


def test_the_plain_way_stays_unless_another_is_clearly_faster() -> None:
    assert chosen({ONE: 10, BLOCKED: 9.9}) == ONE


def test_several_threads_that_are_slower_than_one_are_not_taken() -> None:
    assert chosen({ONE: 10, BLOCKED: 8, TWO: 14, BLOCKED_TWO: 12, SPINNING: 11}) == BLOCKED


def test_spinning_is_measured_in_the_fastest_form_alone_and_what_is_slow_is_measured_once() -> None:
    times = {ONE: 10, BLOCKED: 6, TWO: 20, BLOCKED_TWO: 7, SPINNING: 5, ExecutionMode(PARALLEL, 2, True): 1}
    measured: Counter[ExecutionMode] = Counter()

    def measure(mode: ExecutionMode) -> float:
        measured[mode] += 1
        return times[mode]

    assert choose(MODES, measure).mode == SPINNING
    assert measured == {ONE: 3, BLOCKED: 3, TWO: 1, BLOCKED_TWO: 3, SPINNING: 2}


@given(st.integers(0, 2), st.floats(2, 20))
def test_a_turn_that_is_busy_altogether_changes_nothing(turn: int, busy: float) -> None:
    times = {ONE: 10, BLOCKED: 8, TWO: 9, BLOCKED_TWO: 6, SPINNING: 5}
    turns: Counter[ExecutionMode] = Counter()

    def measure(mode: ExecutionMode) -> float:
        now = turns[mode] + mode.spinning  # it joins in the second turn
        turns[mode] += 1
        return times[mode] * (busy if now == turn else 1)

    assert choose(MODES, measure).mode == SPINNING


@pytest.mark.parametrize("parts", [False, True])
def test_a_choice_is_measured_once_and_remembered(
    parts: bool, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        engine = Tuned(OnnxRuntime(), tmp_path)
        make = engine.parts_trainer if parts else engine.trainer
        make(bundle.manifest, 0, bundle.path, threads=2)
    (message,) = (record.getMessage() for record in caplog.records)
    assert "the fastest way to run it is" in message
    (choice,) = read_choices(tmp_path / FILE).values()
    assert {str(ONE), str(TWO)} <= choice.step_ms.keys()
    assert any(mode.endswith("spinning") for mode in choice.step_ms)


OLD = {"a step of 0": {"form": "standard", "spinning": False, "step_ms": {"standard": 1.0}}}


@pytest.mark.parametrize("content", ["{", json.dumps(OLD), json.dumps({"version": VERSION + 1, "choices": {}})])
def test_a_file_that_is_damaged_or_of_another_version_is_measured_anew(
    content: str, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / FILE).write_text(content)
    Tuned(OnnxRuntime(), tmp_path).trainer(bundle.manifest, 0, bundle.path, threads=2)
    assert len(read_choices(tmp_path / FILE)) == 1


class Clock:
    """It goes on when a step is taken."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A trainer whose steps take as long as its mode says."""

    def __init__(self, trainer: Trainer, clock: Clock, seconds: float) -> None:
        self._trainer, self._clock, self._seconds = trainer, clock, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def step(self, *inputs: Any) -> StepResult:
        self._clock.now += self._seconds
        return self._trainer.step(*inputs)

    def gather(self, *inputs: Any) -> StepResult:
        self._clock.now += self._seconds
        result: StepResult = self._trainer.gather(*inputs)  # type: ignore[attr-defined]  # of the other kind
        return result


class TimedEngine(OnnxRuntime):
    """ONNX Runtime whose times are given.

    Args:
        clock: goes on by a step's seconds.
        seconds: by mode; others take a second, and those that are infinite can't be opened.
    """

    def __init__(self, clock: Clock, seconds: dict[ExecutionMode, float]) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.opened: list[ExecutionMode] = []

    def trainer(self, *place: Any, mode: ExecutionMode | None = None, **options: Any) -> Any:
        return self._timed(super().trainer(*place, mode=mode, **options), mode)

    def parts_trainer(self, *place: Any, mode: ExecutionMode | None = None, **options: Any) -> Any:
        return self._timed(super().parts_trainer(*place, mode=mode, **options), mode)

    def _timed(self, trainer: Any, mode: ExecutionMode | None) -> Any:
        assert mode is not None
        self.opened.append(mode)
        seconds = self.seconds.get(mode, 1.0)
        if seconds == float("inf"):
            raise ModelError("no such mode any more")
        return Timed(trainer, self.clock, seconds)


@pytest.mark.parametrize("parts", [False, True])
def test_an_agent_finds_out_while_training_that_another_mode_is_faster_and_keeps_that(
    parts: bool, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    engine = TimedEngine(Clock(), {ONE: 0.1, TWO: 0.5})  # the moment is a busy one for two threads
    tuned = Tuned(engine, tmp_path, clock=engine.clock)
    x, y = random_batch(bundle.manifest.spec, 0, 8)
    parameters, _ = flatten(bundle.manifest.spec, bundle.initial_values())

    def trained(steps: int) -> np.ndarray[Any, Any]:
        if parts:
            in_parts = tuned.parts_trainer(bundle.manifest, 0, bundle.path, threads=2)
            in_parts.parameters[:] = parameters
            engine.seconds[TWO] = 0.05
            for _ in range(steps):
                in_parts.gather(x[:4], y[:4], 0.5)
                in_parts.gather(x[4:], y[4:], 0.5)
                in_parts.update({"lr": 0.01, "momentum": 0.9})
            return in_parts.parameters.copy()
        trainer = tuned.trainer(bundle.manifest, 0, bundle.path, threads=2)
        trainer.parameters[:] = parameters
        engine.seconds[TWO] = 0.05
        for _ in range(steps):
            trainer.step(x, y, {"lr": 0.01, "momentum": 0.9})
        return trainer.parameters.copy()

    after = trained(50)
    (kept,) = read_choices(tmp_path / FILE).values()
    assert kept.mode == TWO
    assert any("turned out to be the fastest way" in record.getMessage() for record in caplog.records)
    assert engine.opened[-1] == TWO

    engine.opened.clear()  # the next start begins with it
    trained(1)
    assert engine.opened == [TWO]

    alone = OnnxRuntime().trainer(bundle.manifest, 0, bundle.path)  # the same steps, without a change of mode
    alone.parameters[:] = parameters
    for _ in range(50):
        alone.step(x, y, {"lr": 0.01, "momentum": 0.9})
    moved = alone.parameters - parameters
    assert np.linalg.norm(after - alone.parameters) < 1e-3 * np.linalg.norm(moved)


def test_a_mode_that_can_not_be_opened_any_more_is_left_out(bundle: Bundle, tmp_path: Path) -> None:
    engine = TimedEngine(Clock(), {ONE: 0.1})
    trainer = Tuned(engine, tmp_path, clock=engine.clock).trainer(bundle.manifest, 0, bundle.path, threads=2)
    x, y = random_batch(bundle.manifest.spec, 0, 8)
    engine.seconds[TWO] = float("inf")
    engine.opened.clear()
    for _ in range(200):
        trainer.step(x, y, {"lr": 0.01})
    assert engine.opened.count(TWO) == 1
    assert engine.opened[-1] == ONE


def test_without_comparing_the_choice_stays(bundle: Bundle, tmp_path: Path) -> None:
    engine = TimedEngine(Clock(), {ONE: 0.1})
    tuned = Tuned(engine, tmp_path, comparing=False, clock=engine.clock)
    trainer = tuned.trainer(bundle.manifest, 0, bundle.path, threads=2)
    engine.opened.clear()
    x, y = random_batch(bundle.manifest.spec, 0, 8)
    for _ in range(100):
        trainer.step(x, y, {"lr": 0.01})
    assert not engine.opened


def test_every_form_that_runs_here_takes_the_same_step(bundle: Bundle) -> None:
    manifest = bundle.manifest
    x, y = random_batch(manifest.spec, 0, 8)
    parameters, _ = flatten(manifest.spec, bundle.initial_values())
    after = {}
    for form in OnnxRuntime().forms(manifest.sub_model(0), 2):
        trainer = OnnxRuntime().trainer(manifest, 0, bundle.path, mode=ExecutionMode(form, 2, spinning=True))
        trainer.parameters[:] = parameters
        trainer.step(x, y, {"lr": 0.1})
        after[form] = trainer.parameters - parameters
    assert len(after) == (3 if block_size() else 2)
    for change in after.values():
        assert np.linalg.norm(change - after[STANDARD]) < 1e-5 * np.linalg.norm(after[STANDARD])


def test_only_forms_of_this_processors_blocks_are_run(bundle: Bundle) -> None:
    sub_model = bundle.manifest.sub_model(0)
    assert set(sub_model.forms) == {PARALLEL, *BLOCKS}
    of_blocks = [form for form in OnnxRuntime().forms(sub_model, 1) if form in BLOCKS]
    assert [BLOCKS[form] for form in of_blocks] == ([block_size()] if block_size() else [])


def test_a_network_without_convolutions_has_one_form(tmp_path: Path) -> None:
    definition = load_definition("text_lstm,length=4,vocabulary=9,width=3,hidden=3")
    manifest = build_bundle(definition, tmp_path / "lstm", batch_size=2, check=False)
    assert not any(sub_model.forms for sub_model in manifest.sub_models)
    read_bundle(tmp_path / "lstm")
