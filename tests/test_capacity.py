"""Capacity counts the parameters and activations that a sub-model keeps."""

import pytest

from lamina.models.capacity import Capacity, capacity
from lamina.models.errors import ModelError
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.tiny_model import SPEC


def test_the_whole_network_has_capacity_one() -> None:
    # p = 6 + 9, a = 4 * (2 + 3)
    assert capacity(SPEC, 0, 4) == Capacity(15, 20, 1.0)


def test_a_cut_keeps_the_output_side() -> None:
    # p = 9, a = 4 * 3; (9 + 12) / (15 + 20)
    assert capacity(SPEC, 1, 4) == Capacity(9, 12, 0.6)


def test_activations_grow_with_the_batch_and_parameters_do_not() -> None:
    assert capacity(SPEC, 1, 1) == Capacity(9, 3, 12 / 20)
    assert capacity(SPEC, 1, 100) == Capacity(9, 300, 309 / 515)


def test_statistics_are_not_counted() -> None:
    layer = LayerSpec(
        "only", (TensorSpec("weight", (2,), "kernel"),), (TensorSpec("mean", (50,), "statistic"),), activations=3
    )
    spec = ModelSpec("norms", (layer,), (BlockSpec("only", 0, 1, (1,)),), (0,), classes=2)
    assert capacity(spec, 0, 1) == Capacity(2, 3, 1.0)


def test_a_cut_inside_a_block_is_refused() -> None:
    spec = ModelSpec("joined", SPEC.layers, (BlockSpec("both", 0, 2, (2,)),), (0,), classes=3)
    with pytest.raises(ModelError, match="no block starts at layer 1"):
        capacity(spec, 1, 4)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        capacity(SPEC, 0, 0)
