"""The mode of execution that was fastest is taken, remembered, and changes nothing but rounding."""

import logging
from pathlib import Path

import numpy as np
import pytest

from lamina.edge_agent.training.engine import STANDARD, ExecutionMode
from lamina.edge_agent.training.trainer import OnnxRuntime
from lamina.edge_agent.training.tuning import FILE, Tuned, choose, fastest_ms, random_batch, read_choices
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition
from lamina.models.engine_facts import block_size
from lamina.models.manifest import BLOCKS, PARALLEL
from lamina.models.values import flatten


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    build_bundle(load_definition("digits_cnn"), folder, batch_size=8)
    return read_bundle(folder)


def taken(**ms: float) -> tuple[ExecutionMode, dict[str, float]]:
    """What is chosen where modes take so long; a name that ends in ``_spinning`` is that of a spinning mode."""
    forms = [name for name in ms if not name.endswith("_spinning")]

    def measure(mode: ExecutionMode) -> float:
        return ms[f"{mode.form}_spinning" if mode.spinning else mode.form]

    choice = choose(forms, 2 if len(forms) < len(ms) else 1, measure)
    return choice.mode, choice.step_ms


def test_the_fastest_form_is_chosen() -> None:
    assert taken(standard=10, parallel=8, blocked16=6)[0] == ExecutionMode("blocked16")


def test_the_standard_way_stays_unless_another_is_clearly_faster() -> None:
    assert taken(standard=10, blocked16=9.9)[0] == ExecutionMode(STANDARD)


def test_spinning_is_measured_in_the_fastest_form_alone() -> None:
    mode, measured = taken(standard=10, blocked16=6, blocked16_spinning=5)
    assert mode == ExecutionMode("blocked16", spinning=True)
    assert measured == {"standard": 10, "blocked16": 6, "blocked16, spinning": 5}


def test_the_first_step_does_not_count() -> None:
    calls: list[int] = []
    assert fastest_ms(lambda: calls.append(1)) < 100
    assert len(calls) == 6


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
    assert "the fastest is" in message
    (choice,) = read_choices(tmp_path / FILE).values()
    assert {STANDARD, PARALLEL} <= choice.step_ms.keys()
    assert any(mode.endswith("spinning") for mode in choice.step_ms)


def test_a_damaged_file_is_measured_anew(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{")
    Tuned(OnnxRuntime(), tmp_path).trainer(bundle.manifest, 0, bundle.path, threads=2)
    assert len(read_choices(tmp_path / FILE)) == 1


def test_every_form_that_runs_here_takes_the_same_step(bundle: Bundle) -> None:
    manifest = bundle.manifest
    x, y = random_batch(manifest.spec, 0, 8)
    parameters, _ = flatten(manifest.spec, bundle.initial_values())
    after = {}
    for form in OnnxRuntime().forms(manifest.sub_model(0), 2):
        trainer = OnnxRuntime().trainer(manifest, 0, bundle.path, threads=2, mode=ExecutionMode(form, spinning=True))
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
    manifest = build_bundle(definition, tmp_path / "lstm", batch_size=2)
    assert not any(sub_model.forms for sub_model in manifest.sub_models)
    read_bundle(tmp_path / "lstm")
