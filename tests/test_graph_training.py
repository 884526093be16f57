"""A step in the graph is torch's step: at every cut, over several steps, with a short last batch."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ModelError
from lamina.models.graph import forward_graph
from lamina.models.layout import derive_spec
from lamina.models.manifest import ONNXRUNTIME
from lamina.models.spec import ModelSpec
from tests.graph_oracle import (
    Array,
    distance,
    flat,
    graph_steps,
    moving,
    run,
    session,
    tensors_of,
    torch_steps,
    trained,
    training_graph,
)


class Smooth(nn.Module):
    """A residual network without kinks: two convs with norms, a shortcut, a pooling, a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(4, momentum=0.3)
        self.dense = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).tanh()
        x = (self.norm2(self.conv2(x)) + x).sigmoid()
        return self.dense(x.mean((2, 3)))


NETWORKS = {
    "smooth": lambda: Definition("smooth", Smooth(), (2, 6, 6), 3),
    "digits_cnn": lambda: load_definition("digits_cnn"),
    "leaf_cnn": lambda: load_definition("leaf_cnn,hidden=16"),
    "resnet20": lambda: load_definition("resnet20"),
    "resnet20 with group norm": lambda: load_definition("resnet20,norm=group"),
    "text_lstm": lambda: load_definition("text_lstm,length=7,vocabulary=20,width=5,hidden=6"),
}
QUICK = ["smooth", "digits_cnn", "leaf_cnn", "text_lstm"]
SLOW = [pytest.param("resnet20", marks=pytest.mark.slow)]
AGAIN = [pytest.param("resnet20 with group norm", marks=[pytest.mark.slow, pytest.mark.exhaustive])]


def made(name: str) -> tuple[Definition, ModelSpec]:
    torch.manual_seed(0)
    definition = NETWORKS[name]()
    return definition, derive_spec(definition)


def batches(definition: Definition, sizes: tuple[int, ...]) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(1)
    drawn = []
    for size in sizes:
        shape = (size, *definition.input_shape)
        x = (
            rng.standard_normal(shape, np.float32)
            if definition.input_dtype == "float32"
            else rng.integers(0, 20, shape)
        )
        drawn.append((x, rng.integers(0, definition.classes, size)))
    return drawn


def entering(definition: Definition, spec: ModelSpec, cut: int, x: Array) -> Array:
    """The activation at ``cut``, by the frozen input side in one piece."""
    block = spec.block_at(cut)
    return x if block == 0 else run(forward_graph(definition, spec, 0, block), tensors_of(definition.module), x)


@pytest.mark.parametrize("name", [*QUICK, *SLOW, *AGAIN])
def test_several_steps_end_where_torch_ends(name: str) -> None:
    definition, spec = made(name)
    drawn = batches(definition, (4, 3, 1))  # the last batches are short
    start = tensors_of(definition.module)
    state = graph_steps(training_graph(definition, spec, 0), spec, 0, start, drawn)
    exact = torch_steps(definition, spec, 0, drawn, torch.float64)
    reached = torch_steps(definition, spec, 0, drawn, torch.float32)
    before = flat(start, trained(spec))
    limit = 1e-5 if name == "smooth" else 2 * distance(reached.parameters, exact.parameters, before) + 1e-6
    assert distance(state.parameters, exact.parameters, before) <= limit
    np.testing.assert_allclose(state.statistics, exact.statistics, rtol=1e-4, atol=1e-5)
    assert state.loss == pytest.approx(exact.loss, rel=1e-3)
    assert state.correct == exact.correct


@pytest.mark.parametrize("name", [*QUICK, *SLOW, *AGAIN])
def test_every_cut_trains_its_layers_as_torch_does_behind_a_frozen_input_side(name: str) -> None:
    definition, spec = made(name)
    ((x, y),) = batches(definition, (4,))
    start = tensors_of(definition.module)
    for cut in (block.first for block in spec.blocks):
        drawn = [(entering(definition, spec, cut, x), y)]
        state = graph_steps(training_graph(definition, spec, cut), spec, cut, start, drawn)
        exact = torch_steps(definition, spec, cut, [(x, y)], torch.float64)
        assert distance(state.parameters, exact.parameters, flat(start, trained(spec, cut))) < 5e-5, cut
        np.testing.assert_allclose(state.statistics, exact.statistics, rtol=1e-4, atol=1e-5)


def test_running_variance_is_the_unbiased_one() -> None:
    """With momentum 1 the running variance is the batch's own: of 0, 2 it is 2, not 1."""
    norm = nn.BatchNorm1d(1, momentum=1.0)
    definition = Definition("norm", nn.Sequential(norm, nn.Linear(1, 2)), (1,), 2)
    spec = derive_spec(definition)
    x = np.array([[0.0], [2.0]], np.float32)
    state = graph_steps(
        training_graph(definition, spec, 0), spec, 0, tensors_of(definition.module), [(x, np.array([0, 1]))]
    )
    assert [tensor.name for tensor in moving(spec)] == ["0.running_mean", "0.running_var"]
    np.testing.assert_allclose(state.statistics, [1.0, 2.0], rtol=1e-6)


def test_a_batch_of_one_leaves_finite_statistics() -> None:
    """Torch refuses it; on a board it is the rest of the data, and must not spoil the average."""
    definition = Definition("norm", nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 2)), (1,), 2)
    spec = derive_spec(definition)
    step = [(np.array([[3.0]], np.float32), np.array([0]))]
    state = graph_steps(training_graph(definition, spec, 0), spec, 0, tensors_of(definition.module), step)
    np.testing.assert_allclose(state.statistics, [0.3, 0.9], rtol=1e-6)  # 0.9 * 0 + 0.1 * 3, 0.9 * 1 + 0.1 * 0
    assert np.isfinite(state.parameters).all()


def test_weight_decay_applies_to_kernels_alone() -> None:
    definition, spec = made("smooth")
    start = tensors_of(definition.module)
    drawn = batches(definition, (4,))
    graph = training_graph(definition, spec, 0)
    plain, decayed = (
        graph_steps(graph, spec, 0, start, drawn, lr=1.0, weight_decay=decay).parameters for decay in (0.0, 0.5)
    )
    offset = 0
    for tensor in trained(spec):
        own = slice(offset, offset := offset + tensor.size)
        expected = 0.5 * start[tensor.name].reshape(-1) if tensor.kind == "kernel" else np.zeros(tensor.size)
        np.testing.assert_allclose(plain[own] - decayed[own], expected, atol=1e-5)


def test_momentum_gathers_gradients() -> None:
    """With lr 0 nothing moves, and momentum_state is g, then 0.9 g + g."""
    definition, spec = made("smooth")
    graph = training_graph(definition, spec, 0)
    ((x, y),) = batches(definition, (4,))
    parameters = flat(tensors_of(definition.module), trained(spec))
    statistics = flat(tensors_of(definition.module), moving(spec))
    zeros = np.zeros_like(parameters)
    running = session(graph.model)
    feeds = {"x": x, "y": y, "parameters": parameters, "statistics": statistics, "momentum_state": zeros}
    feeds |= {name: np.array(value, np.float32) for name, value in {**graph.hyperparameters, "lr": 0.0}.items()}
    (first,) = running.run(["momentum_state_next"], feeds)
    (second,) = running.run(["momentum_state_next"], feeds | {"momentum_state": first})
    np.testing.assert_allclose(second, 1.9 * np.asarray(first), rtol=1e-5, atol=1e-8)


def test_a_frozen_parameter_is_not_in_the_file() -> None:
    definition, spec = made("leaf_cnn")
    whole, last = (training_graph(definition, spec, cut).model for cut in (0, spec.cuts[-1]))
    largest = max((len(tensor.raw_data) for tensor in last.graph.initializer), default=0)
    assert largest < 1000
    assert last.ByteSize() < whole.ByteSize()


def test_inputs_and_outputs_are_those_of_the_manifest() -> None:
    definition, spec = made("smooth")
    graph = training_graph(definition, spec, spec.cuts[-1])
    assert graph.optimiser_state == ("momentum_state",)
    assert set(graph.hyperparameters) == {
        "lr", "momentum", "weight_decay", "bias_weight_decay", "norm_weight_decay",
    }  # fmt: skip
    inputs = {value.name: value.type.tensor_type for value in graph.model.graph.input}
    assert set(inputs) == {
        "x",
        "y",
        "parameters",
        "momentum_state",
        *graph.hyperparameters,
    }  # a dense layer: no statistics
    assert [extent.dim_param or extent.dim_value for extent in inputs["x"].shape.dim] == ["N", 4]
    assert [extent.dim_param for extent in inputs["y"].shape.dim] == ["N"]
    assert not inputs["lr"].shape.dim
    assert {value.name for value in graph.model.graph.output} == {
        "loss",
        "correct",
        "parameters_next",
        "momentum_state_next",
    }


def test_every_graph_passes_the_checker() -> None:
    definition, spec = made("smooth")
    for cut in spec.cuts:
        model = training_graph(definition, spec, cut, engine=ONNXRUNTIME).model
        onnx.checker.check_model(model, full_check=True)
        assert (model.ir_version, model.opset_import[0].version) == (10, 18)
        assert {operator.domain for operator in model.graph.node} == {""}


@pytest.mark.parametrize("serial", [True, False])
def test_the_forms_for_one_thread_and_for_several_both_train_as_torch_does(serial: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 4, (3, 5), padding=(0, 2)), nn.Flatten()
    )
    definition = Definition("forms", nn.Sequential(module, nn.Linear(4 * 4 * 6, 3)), (2, 6, 6), 3)
    spec, start, drawn = derive_spec(definition), tensors_of(definition.module), batches(definition, (4,))
    graph = training_graph(definition, spec, 0, serial=serial, engine=ONNXRUNTIME)
    # the second convolution, and the gradient of its input
    assert [operator.op_type for operator in graph.model.graph.node].count("ConvTranspose") == (2 if serial else 0)
    state = graph_steps(graph, spec, 0, start, drawn)
    exact = torch_steps(definition, spec, 0, drawn, torch.float64)
    assert distance(state.parameters, exact.parameters, flat(start, trained(spec))) < 1e-5


def test_a_graph_is_the_same_every_time() -> None:
    definition, spec = made("text_lstm")
    first, second = (training_graph(definition, spec, 0).model.SerializeToString() for _ in range(2))
    assert first == second


def test_a_cut_that_is_none_is_an_error() -> None:
    definition, spec = made("resnet20")
    with pytest.raises(ModelError, match="no block starts at layer 2"):
        training_graph(definition, spec, 2)  # inside the first residual block


def test_an_unknown_optimiser_names_the_nearest() -> None:
    definition, spec = made("smooth")
    with pytest.raises(ModelError, match="did you mean 'sgd'"):
        training_graph(definition, spec, 0, "sdg")


def test_the_module_is_left_in_its_mode() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 2))
    derive_spec(Definition("modes", module, (4,), 2))
    assert [part.training for part in module] == [True, False, True]


def test_kernels_over_wide_images_have_torchs_gradients() -> None:
    """Rows of 32 columns or more are shifted one by one."""
    torch.manual_seed(0)
    strided = nn.Conv2d(10, 12, 5, stride=2, padding=2)
    layers = (nn.Conv2d(9, 10, 3, padding=1), nn.Tanh(), strided, nn.Tanh(), nn.Flatten(), nn.Linear(12 * 4 * 32, 3))
    definition = Definition("wide", nn.Sequential(*layers), (9, 8, 64), 3)
    spec = derive_spec(definition)
    drawn = batches(definition, (3,))
    start = tensors_of(definition.module)
    state = graph_steps(training_graph(definition, spec, 0), spec, 0, start, drawn)
    exact = torch_steps(definition, spec, 0, drawn, torch.float64)
    assert distance(state.parameters, exact.parameters, flat(start, trained(spec))) < 1e-5
