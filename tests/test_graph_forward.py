"""The frozen input side in pieces is the whole, and the values that a session is given are those it uses."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from lamina.models.definition import Definition, load_definition
from lamina.models.graph import forward_graph, inference_graph
from lamina.models.layout import derive_spec
from tests.graph_oracle import Array, run, session, tensors_of


def convolutional() -> Definition:
    """A conv with its norm, which ONNX Runtime folds into one operator."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    return Definition("folded", layers, (3, 6, 6), 4)


def logits(definition: Definition, tensors: dict[str, Array], x: Array) -> Array:
    """Torch's, in inference mode and float64, with other values."""
    module = definition.module
    values = {name: torch.tensor(value).double() for name, value in tensors.items() if value.dtype == np.float32}
    was_training = module.training
    module.eval()
    with torch.no_grad():
        result = torch.func.functional_call(module, values, (torch.tensor(x).double(),))
    module.train(was_training)
    return result.numpy()


def other_values(definition: Definition) -> dict[str, Array]:
    """Values that the module never had; variances stay positive."""
    rng = np.random.default_rng(3)
    return {
        name: np.asarray(rng.random(value.shape) + 0.5, value.dtype)
        for name, value in tensors_of(definition.module).items()
    }


def test_inference_uses_the_values_that_it_is_given() -> None:
    definition = convolutional()
    model = inference_graph(definition, derive_spec(definition))
    x = np.random.default_rng(0).standard_normal((5, 3, 6, 6), np.float32)
    for tensors in (tensors_of(definition.module), other_values(definition)):
        np.testing.assert_allclose(run(model, tensors, x), logits(definition, tensors, x), rtol=2e-5, atol=1e-5)


def test_a_model_from_a_file_folds_the_same(tmp_path: Path) -> None:
    definition = convolutional()
    model = inference_graph(definition, derive_spec(definition))
    path = tmp_path / "inference.onnx"
    path.write_bytes(model.SerializeToString())
    tensors = other_values(definition)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    names = [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    values = [ort.OrtValue.ortvalue_from_numpy(tensors[name]) for name in names]
    options.add_external_initializers(names, values)
    running = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((5, 3, 6, 6), np.float32)
    np.testing.assert_allclose(running.run(None, {"x": x})[0], logits(definition, tensors, x), rtol=2e-5, atol=1e-5)
    optimised = onnx.load(tmp_path / "optimised.onnx", load_external_data=False)
    assert "BatchNormalization" not in {operator.op_type for operator in optimised.graph.node}


def test_every_value_of_the_spec_is_external_and_no_other() -> None:
    definition = convolutional()
    spec = derive_spec(definition)
    model = inference_graph(definition, spec)
    external = {tensor.name for tensor in model.graph.initializer if tensor.external_data}
    assert external == {tensor.name for layer in spec.layers for tensor in (*layer.parameters, *layer.statistics)}
    assert model.ByteSize() < 3000  # the values alone would be 3,512 bytes


@pytest.mark.parametrize(
    "source",
    [
        "digits_cnn",
        "leaf_cnn,hidden=16",
        "text_lstm,length=5,vocabulary=20",
        pytest.param("resnet20", marks=pytest.mark.slow),
    ],
)
def test_pieces_one_after_another_are_the_whole(source: str) -> None:
    definition = load_definition(source)
    spec, tensors = derive_spec(definition), tensors_of(definition.module)
    shape = (3, *definition.input_shape)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape, np.float32) if definition.input_dtype == "float32" else rng.integers(0, 20, shape)
    whole = run(inference_graph(definition, spec), tensors, x)
    for block in range(len(spec.blocks)):
        x = run(forward_graph(definition, spec, block, block + 1), tensors, x)
        if block + 1 < len(spec.blocks):
            assert (x.shape[1:], str(x.dtype)) == (
                spec.blocks[block + 1].input_shape,
                spec.blocks[block + 1].input_dtype,
            )
    np.testing.assert_allclose(x, whole, rtol=1e-5, atol=1e-6)


def test_a_piece_has_its_own_values_alone() -> None:
    definition = load_definition("digits_cnn")
    spec = derive_spec(definition)
    piece = forward_graph(definition, spec, 1, 3)
    names = {tensor.name for tensor in piece.graph.initializer if tensor.external_data}
    assert names == {"conv2.weight", "conv2.bias", "conv3.weight", "conv3.bias"}
    assert [output.name for output in piece.graph.output] == ["boundary"]
    session(piece, tensors_of(definition.module))  # so all its values are known


def test_a_parameter_that_needs_no_gradient_is_a_constant_in_the_file() -> None:
    module = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 2))
    definition = Definition("frozen", module, (2,), 2)
    model = inference_graph(definition, derive_spec(definition))
    x = np.ones((1, 2), np.float32)
    tensors = {"1.weight": module[1].weight.detach().numpy(), "1.bias": module[1].bias.detach().numpy()}
    np.testing.assert_allclose(run(model, tensors, x), module(torch.tensor(x)).detach().numpy(), rtol=1e-5)
