"""Narrow networks: their shapes, their place in the whole one, their capacity, and the element-wise mean."""

import numpy as np
import pytest
import torch

from lamina.emulation.simulator.research.coverage import CoverageFold
from lamina.emulation.simulator.research.width import matching_ratio, narrowed, positions
from lamina.emulation.simulator.rows import layer_offsets, places, to_row
from lamina.models.capacity import capacity
from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ModelError
from lamina.models.layout import derive_spec
from lamina.models.spec import LayerSpec, ModelSpec, TensorSpec
from tests.simulated import NETS


@pytest.fixture(scope="module")
def net() -> tuple[Definition, ModelSpec]:
    definition = load_definition(f"{NETS}:convolutional")
    return definition, derive_spec(definition)


def test_leading_channels_stay_and_the_classifiers_outputs_too(net: tuple[Definition, ModelSpec]) -> None:
    narrow = narrowed(*net, 0.5)
    shapes = {tensor.name: tensor.shape for tensor, _ in places(narrow.spec)}
    assert shapes["conv1.weight"] == (2, 1, 3, 3)
    assert shapes["norm1.running_mean"] == (2,)
    assert shapes["conv2.weight"] == (4, 2, 3, 3)
    assert shapes["classifier.weight"] == (3, 4 * 4)  # 4 channels of 2x2
    assert shapes["classifier.bias"] == (3,)


def test_channels_are_rounded_up(net: tuple[Definition, ModelSpec]) -> None:
    # 0.3 of 4 is 1.2 and of 8 is 2.4
    shapes = {tensor.name: tensor.shape for tensor, _ in places(narrowed(*net, 0.3).spec)}
    assert shapes["conv2.weight"][:2] == (3, 2)


def test_a_row_of_the_whole_gives_the_narrow_networks_values(net: tuple[Definition, ModelSpec]) -> None:
    definition, spec = net
    narrow = narrowed(definition, spec, 0.5)
    tensors = {name: tensor.numpy() for name, tensor in definition.module.state_dict().items()}
    row = to_row(spec, tensors)[positions(spec, narrow.spec)]
    own = to_row(narrow.spec, {name: tensor.numpy() for name, tensor in narrow.module.state_dict().items()})
    np.testing.assert_array_equal(row, own)


def test_ratio_1_is_the_whole_network(net: tuple[Definition, ModelSpec]) -> None:
    definition, spec = net
    narrow = narrowed(definition, spec, 1.0)
    np.testing.assert_array_equal(positions(spec, narrow.spec), np.arange(layer_offsets(spec)[-1]))
    x = torch.randn(2, 1, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(narrow.module.eval()(x), definition.module.eval()(x))
    assert narrow.activations == sum(layer.activations for layer in spec.layers)


def test_the_narrow_network_is_the_whole_one_with_its_other_channels_off(net: tuple[Definition, ModelSpec]) -> None:
    # channels whose norms have scale and shift 0 hand over nothing
    definition, spec = load_definition(f"{NETS}:convolutional"), net[1]
    narrow = narrowed(definition, spec, 0.5)
    with torch.no_grad():
        for norm, kept in ((definition.module.norm1, 2), (definition.module.norm2, 4)):
            norm.weight[kept:] = 0
            norm.bias[kept:] = 0
    x = torch.randn(3, 1, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(narrow.module.eval()(x), definition.module.eval()(x))


def test_no_other_ratio_comes_nearer_to_the_capacity(net: tuple[Definition, ModelSpec]) -> None:
    definition, spec = net
    whole = capacity(spec, 0, 5)

    def of(ratio: float) -> float:
        narrow = narrowed(definition, spec, ratio)
        return (narrow.spec.size + 5 * narrow.activations) / (whole.parameters + whole.activations)

    for cut in spec.cuts:
        wanted = capacity(spec, cut, 5).ratio
        found = matching_ratio(definition, spec, wanted, 5)
        assert abs(of(found) - wanted) == min(abs(of(step / 8) - wanted) for step in range(1, 9))


@pytest.mark.slow
def test_resnet20_at_the_papers_capacities() -> None:
    definition = load_definition("resnet20")
    spec = derive_spec(definition)
    ratios = {cut: matching_ratio(definition, spec, capacity(spec, cut, 32).ratio, 32) for cut in spec.cuts}
    assert ratios[0] == 1
    assert 0.35 < ratios[8] < 0.5  # activations, by far the larger part, grow with the ratio itself
    assert 0.1 < ratios[15] < 0.2


def test_an_lstm_can_not_be_narrowed() -> None:
    definition = load_definition(f"{NETS}:recurrent")
    with pytest.raises(ModelError, match="LSTM"):
        narrowed(definition, derive_spec(definition), 0.5)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.1])
def test_a_ratio_is_a_share(net: tuple[Definition, ModelSpec], ratio: float) -> None:
    with pytest.raises(ValueError, match="share"):
        narrowed(*net, ratio)


def test_an_element_is_averaged_over_those_that_cover_it() -> None:
    # element 0: all three, (1 + 2 + 6) / 3 = 3; element 1: the first two, (3 + 5) / 2 = 4; element 2: nobody
    fold = CoverageFold(LayerSpec("layer", (TensorSpec("weight", (3,), "kernel"),)))
    base = np.array([0, 0, 7], np.float32)
    wide = np.array([[1, 3, 7], [2, 5, 7]], np.float32)
    fold.add_all(["a", "b"], wide, base, [1.0, 1.0], np.array([True, True, False]))
    fold.add_all(["c"], np.array([[6, 0, 7]], np.float32), base, [1.0], np.array([True, False, False]))
    assert fold.finish(base).value.tolist() == [3, 4, 7]
