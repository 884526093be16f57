"""An exported model is one file that stock onnxruntime loads, with the trained values inside."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from lamina.models.bundle import Bundle, read_bundle
from lamina.models.draft import drafted
from lamina.models.errors import BundleError, ModelError
from lamina.models.export import export_model
from lamina.models.model_card import ModelFacts, movements
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.tiny_model import VALUES, inference_graph, manifest_in, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    write_bundle(tmp_path / "tiny")
    return read_bundle(tmp_path / "tiny")


def logits(path: Path, x: np.ndarray) -> np.ndarray:
    """What onnxruntime makes of x, in a folder where there is nothing but the file."""
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"x": x})
    return np.asarray(found)


def test_the_file_computes_with_the_values_given(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_model(bundle, VALUES, path)
    # (1, 1) @ [[1, 2], [3, 4]] + (5, 6) - (7, 8) = (2, 4); (2, 4) @ [[9, 10, 11], [12, 13, 14]] = (66, 72, 78)
    assert logits(path, np.ones((1, 2), np.float32)).tolist() == [[66 + 15, 72 + 16, 78 + 17]]


def test_statistics_are_exported_too_and_an_older_file_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_model(bundle, VALUES, path)
    # With the shift (9, 12) the first layer gives (0, 0): only the last bias is left.
    export_model(bundle, {**VALUES, "first.shift": np.array([9, 12], np.float32)}, path)
    assert logits(path, np.ones((1, 2), np.float32)).tolist() == [[15, 16, 17]]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "tiny"]


def test_any_number_of_samples_goes_in_at_once(bundle: Bundle, tmp_path: Path) -> None:
    export_model(bundle, VALUES, tmp_path / "model.onnx")
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    one_by_one = [logits(tmp_path / "model.onnx", row[None])[0].tolist() for row in x]
    assert logits(tmp_path / "model.onnx", x).tolist() == one_by_one


def test_the_bundle_is_left_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    export_model(bundle, VALUES, tmp_path / "model.onnx")
    assert read_bundle(bundle.folder).digest == bundle.digest


def test_a_missing_tensor_is_named_and_nothing_is_written(bundle: Bundle, tmp_path: Path) -> None:
    lacking = {name: tensor for name, tensor in VALUES.items() if name != "first.shift"}
    with pytest.raises(ModelError, match=r"lack the tensor first\.shift"):
        export_model(bundle, lacking, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_graph_that_asks_for_more_than_the_spec_has_is_told(tmp_path: Path) -> None:
    graph = inference_graph()
    graph.graph.initializer[0].name = "third.weight"
    with pytest.raises(BundleError, match=r"asks for 'third\.weight'"):
        export_model(with_inference(graph, tmp_path), VALUES, tmp_path / "model.onnx")


def test_a_graph_with_another_shape_than_the_spec_is_told(tmp_path: Path) -> None:
    graph = inference_graph()
    graph.graph.initializer[0].dims[0] = 3
    with pytest.raises(BundleError, match=r"first\.weight has the shape \(3, 2\), and in the spec \(2, 2\)"):
        export_model(with_inference(graph, tmp_path), VALUES, tmp_path / "model.onnx")


def with_inference(graph: onnx.ModelProto, folder: Path) -> Bundle:
    """The tiny bundle with another inference graph."""
    with drafted(folder / "other") as draft:
        entry = draft.add(graph.SerializeToString(), ".onnx")
        draft.close(msgspec.structs.replace(manifest_in(draft), inference=entry))
    return read_bundle(folder / "other")


def test_the_file_says_how_it_is_used_and_has_a_card(bundle: Bundle, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(bundle.manifest.spec, class_names=("cat", "dog | fox", "hen"))
    named = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, spec=spec))
    facts = ModelFacts("farm", 12, "ab" * 32, {"accuracy": 0.875}, (4, 8), (6, 3))
    moved = {**VALUES, "second.bias": VALUES["second.bias"] * 2}
    export_model(named, moved, tmp_path / "model.onnx", facts)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["lamina.classes"]) == ["cat", "dog | fox", "hen"]
    assert json.loads(told["lamina.figures"]) == {"accuracy": 0.875}
    assert [port["name"] for port in json.loads(told["lamina.inputs"])] == ["x"]
    assert (told["lamina.federation"], told["lamina.round"], told["lamina.task"]) == ("farm", "12", spec.wanted.task)
    assert "divided by 255" in told["lamina.scaling"]
    card = (tmp_path / "model.md").read_text()
    assert "`farm`, 12 rounds. Evaluation: accuracy 0.875" in card
    assert "| 1 | dog \\| fox |" in card
    assert "| `first` | 6 | 4 | 6 | 0 |" in card
    assert logits(tmp_path / "model.onnx", np.ones((1, 2), np.float32)).shape == (1, 3)


def test_how_far_a_layer_moved_is_relative_to_its_beginning() -> None:
    began = {"second.weight": np.full((2, 3), 2, np.float32), "second.bias": np.zeros(3, np.float32)}
    ended = {"second.weight": np.full((2, 3), 3, np.float32), "second.bias": np.zeros(3, np.float32)}
    layer = LayerSpec(
        "second", (TensorSpec("second.weight", (2, 3), "kernel"), TensorSpec("second.bias", (3,), "bias"))
    )
    spec = ModelSpec("one", (layer,), (BlockSpec("second", 0, 1, (2,)),), (0,), 3)
    assert movements(spec, began, ended) == [0.5]  # sqrt(6 * 1) / sqrt(6 * 4)
    assert np.isnan(movements(spec, {name: 0 * value for name, value in began.items()}, ended)[0])
