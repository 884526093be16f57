"""One training step on an inference engine: the graph's contract, resident vectors, frozen pieces."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.edge_agent.training import onnx_runtime
from lamina.edge_agent.training.installed import installed
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.edge_agent.training.trainer import FrozenForward, Trainer
from lamina.models.errors import ConfigError, ModelError
from lamina.models.manifest import (
    ENGINES,
    ONNXRUNTIME,
    ONNXRUNTIME_TRAINING,
    FileEntry,
    GraphsOfEngine,
    Manifest,
    SubModel,
)
from tests.tiny_model import VALUES
from tests.tiny_training import Twin, write_trainable_bundle

X = np.array([[1, 2], [-1, 0], [0.5, -1]], np.float32)
Y = np.array([0, 2, 1])


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_trainable_bundle(tmp_path)


def trainer_of(manifest: Manifest, folder: Path, cut: int = 0) -> Trainer:
    trainer = Trainer(manifest, cut, folder / manifest.sub_model(cut).graph.file_name)
    twin = Twin.start()
    trainer.parameters[...] = twin.parameters[manifest.spec.parameter_offsets[cut] :]
    trainer.statistics[...] = twin.shift if cut == 0 else 0
    return trainer


def test_five_steps_agree_with_the_arithmetic(manifest: Manifest, tmp_path: Path) -> None:
    trainer, twin = trainer_of(manifest, tmp_path), Twin.start()
    for _ in range(5):
        result = trainer.step(X, Y, {"lr": 0.5, "momentum": 0.9})
        loss, correct = twin.step(X, Y, {"lr": 0.5, "momentum": 0.9})
        assert result.loss == pytest.approx(loss, rel=1e-5)
        assert result.correct == correct
    np.testing.assert_allclose(trainer.parameters, twin.parameters, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trainer.statistics, twin.shift, rtol=1e-5)
    np.testing.assert_allclose(trainer.optimiser_state["momentum_buffer"], twin.buffer, rtol=1e-3, atol=1e-6)


def test_a_batch_may_have_any_length(manifest: Manifest, tmp_path: Path) -> None:
    trainer, twin = trainer_of(manifest, tmp_path), Twin.start()
    for stop in (3, 1, 2):
        result = trainer.step(X[:stop], Y[:stop], {})
        assert result.loss == pytest.approx(twin.step(X[:stop], Y[:stop], {})[0], rel=1e-5)


def test_a_hyperparameter_that_is_not_given_takes_its_default(manifest: Manifest, tmp_path: Path) -> None:
    given, default = trainer_of(manifest, tmp_path), trainer_of(manifest, tmp_path)
    given.step(X, Y, {"lr": 0.9})
    given.step(X, Y, {"lr": 0.1, "momentum": 0.0})
    default.step(X, Y, {"lr": 0.9})
    default.step(X, Y, {})
    np.testing.assert_array_equal(given.parameters, default.parameters)


def test_an_unknown_hyperparameter_is_refused_by_name(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no hyperparameter 'rate'; it has lr, momentum"):
        trainer_of(manifest, tmp_path).step(X, Y, {"rate": 0.1})


def test_what_is_written_into_the_resident_vectors_counts(manifest: Manifest, tmp_path: Path) -> None:
    trainer, fresh = trainer_of(manifest, tmp_path), trainer_of(manifest, tmp_path)
    trainer.step(X, Y, {"momentum": 0.9})
    for name, vector in trainer.vectors.items():
        vector[...] = fresh.vectors[name]
    assert trainer.step(X, Y, {"momentum": 0.9}) == fresh.step(X, Y, {"momentum": 0.9})
    np.testing.assert_array_equal(trainer.parameters, fresh.parameters)


def test_a_sub_model_without_statistics_has_none(manifest: Manifest, tmp_path: Path) -> None:
    trainer = trainer_of(manifest, tmp_path, cut=1)
    assert trainer.statistics.shape == (0,)
    assert set(trainer.vectors) == {"parameters", "momentum_buffer"}
    trainer.step(X, Y, {})
    assert trainer.statistics.shape == (0,)


def test_a_batch_of_another_shape_is_refused_with_both_shapes(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no step on x \(3, 4\) float32"):
        trainer_of(manifest, tmp_path).step(np.zeros((3, 4), np.float32), Y, {})


def test_a_refused_batch_changes_nothing(manifest: Manifest, tmp_path: Path) -> None:
    trainer, fresh = trainer_of(manifest, tmp_path), trainer_of(manifest, tmp_path)
    with pytest.raises(ValueError, match="no step"):
        trainer.step(X.astype(np.float64), Y, {})
    assert trainer.step(X, Y, {}) == fresh.step(X, Y, {})


def test_a_graph_of_another_cut_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its inputs must be"):
        Trainer(manifest, 0, tmp_path / manifest.sub_model(1).graph.file_name)


def test_a_graph_of_another_size_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    layers = manifest.spec.layers
    smaller = msgspec.structs.replace(layers[1], parameters=layers[1].parameters[:1])
    spec = msgspec.structs.replace(manifest.spec, layers=(layers[0], smaller))
    with pytest.raises(ModelError, match=r"must have 12 elements, not 15"):
        Trainer(msgspec.structs.replace(manifest, spec=spec), 0, tmp_path / manifest.sub_model(0).graph.file_name)


def test_a_file_that_is_no_graph_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match=r"noise\.onnx can't be loaded by onnxruntime"):
        Trainer(manifest, 0, tmp_path / "noise.onnx")
    with pytest.raises(ModelError, match=r"missing\.onnx can't be loaded"):
        Trainer(manifest, 0, tmp_path / "missing.onnx")


def test_a_frozen_piece_takes_its_values_from_outside(manifest: Manifest, tmp_path: Path) -> None:
    piece = tmp_path / manifest.pieces[0].graph.file_name
    values = {name: value for name, value in VALUES.items() if name.startswith("first")}
    # [1, 1] @ [[1, 2], [3, 4]] + [5, 6] - [7, 8] = [4, 6] - [2, 2]
    assert FrozenForward(piece, values)(np.ones((1, 2), np.float32)).tolist() == [[2, 4]]
    doubled = {name: 2 * value for name, value in values.items()}
    assert FrozenForward(piece, doubled)(np.ones((1, 2), np.float32)).tolist() == [[4, 8]]


def test_a_frozen_piece_without_its_values_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    piece = tmp_path / manifest.pieces[0].graph.file_name
    with pytest.raises(ModelError, match="can't be loaded"):
        FrozenForward(piece, {"first.weight": VALUES["first.weight"]})


FOR_ALL, FOR_TRAINING = FileEntry("0" * 64, 1, ".onnx"), FileEntry("1" * 64, 1, ".onnx")
PLAIN = SubModel(0, FOR_ALL, 1, 1, 1.0, 1.0)
BOTH = SubModel(
    0, FOR_ALL, 1, 1, 1.0, 1.0, of_engines={ONNXRUNTIME_TRAINING: GraphsOfEngine(FOR_TRAINING, FOR_TRAINING)}
)


@pytest.mark.parametrize(
    ("build", "chosen", "sub_model", "graph"),
    [
        (ONNXRUNTIME, "auto", PLAIN, FOR_ALL),
        (ONNXRUNTIME, "auto", BOTH, FOR_ALL),
        (ONNXRUNTIME, ONNXRUNTIME, BOTH, FOR_ALL),
        (ONNXRUNTIME_TRAINING, "auto", PLAIN, FOR_ALL),
        (ONNXRUNTIME_TRAINING, "auto", BOTH, FOR_TRAINING),
        (ONNXRUNTIME_TRAINING, ONNXRUNTIME, BOTH, FOR_ALL),
        (ONNXRUNTIME_TRAINING, ONNXRUNTIME_TRAINING, BOTH, FOR_TRAINING),
    ],
)
def test_the_graph_is_the_one_for_what_is_installed_and_chosen(
    build: str, chosen: str, sub_model: SubModel, graph: FileEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_runtime, "installed", lambda: build)
    assert OnnxRuntime(chosen).suited(sub_model).graph == graph


def test_a_bundle_without_graphs_for_the_chosen_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "installed", lambda: ONNXRUNTIME_TRAINING)
    with pytest.raises(ModelError, match="build it with `lamina bundle --engine onnxruntime-training`"):
        OnnxRuntime(ONNXRUNTIME_TRAINING).suited(PLAIN)


def test_an_engine_that_is_not_installed_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_runtime, "installed", lambda: ONNXRUNTIME)
    with pytest.raises(ConfigError, match=r"is not installed, but onnxruntime.*install onnxruntime-training-cpu"):
        OnnxRuntime(ONNXRUNTIME_TRAINING)


def test_the_name_tells_which_build_is_installed() -> None:
    assert installed() in ENGINES
    assert OnnxRuntime().name.startswith(f"{installed()} 1.")
