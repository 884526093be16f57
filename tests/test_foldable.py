"""Deltas as their codecs have them: what they give, and that folding them is folding what they decode to."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lamina.broker.wire.chunks import pack, unpack, unpack_to_fold
from lamina.broker.wire.codecs import CODECS
from lamina.broker.wire.foldable import INT8_BLOCK, Delta, Int8Blocks, Joined
from lamina.coordinator.folds.aggregate import FOLDS, LayerFold, rule
from lamina.coordinator.folds.exact import ExactSum
from lamina.models.errors import DecodeError, RejectedUpdate
from lamina.models.spec import LayerSpec, TensorSpec


def int8_blocks(size: int, first: int = 0, seed: int = 0) -> Int8Blocks:
    rng = np.random.default_rng(seed)
    scales = rng.uniform(1e-5, 1e-2, -(-(first + size) // INT8_BLOCK)).astype(np.float32)
    return Int8Blocks(rng.integers(-127, 128, size).astype(np.int8), scales, first)


def slow(blocks: Int8Blocks) -> list[np.float32]:
    return [np.float32(q) * blocks.scales[(blocks.first + k) // INT8_BLOCK] for k, q in enumerate(blocks.quanta)]


def pieces() -> Joined:
    floats = np.random.default_rng(5).normal(size=100).astype(np.float32)
    return Joined([int8_blocks(700), floats, int8_blocks(1, 255, 1), int8_blocks(600, 40, 2), floats[:0]])


@given(st.integers(0, 1200), st.integers(0, 255), st.integers(0, 1200), st.integers(0, 1200))
def test_a_slice_of_blocks_is_that_of_the_vector(size: int, first: int, start: int, stop: int) -> None:
    blocks = int8_blocks(size, first)
    assert blocks[start:stop].tolist() == slow(blocks)[start:stop]
    if start <= stop <= size:
        assert blocks.cut(start, stop)[:].tolist() == slow(blocks)[start:stop]


def test_blocks_without_their_scales_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="257 quanta need 2 scales"):
        Int8Blocks(np.zeros(257, np.int8), np.ones(1, np.float32))


@given(st.integers(0, 1401), st.integers(0, 1401))
def test_a_slice_of_joined_parts_is_that_of_the_vector(start: int, stop: int) -> None:
    joined = pieces()
    whole = np.concatenate([part[:] for part in joined.parts])
    assert joined.size == whole.size == 1401
    assert joined[start:stop].tolist() == whole[start:stop].tolist()


@pytest.mark.parametrize("name", sorted(FOLDS))
@pytest.mark.parametrize("delta", [int8_blocks(1000), pieces()], ids=["blocks", "joined"])
def test_folding_as_it_came_is_folding_what_it_decodes_to(name: str, delta: Delta) -> None:
    base = np.zeros(delta.size, np.float32)
    coded, decoded = rule(name)(delta.size, delta.size - 300), rule(name)(delta.size, delta.size - 300)
    for device in ("a", "b", "c"):
        coded.add(device, delta, 3.0)
        decoded.add(device, delta[:].copy(), 3.0)
    ends = coded.finish(base), decoded.finish(base)
    assert ends[0].value.tobytes() == ends[1].value.tobytes()
    assert ends[0].discrepancy_numerator == ends[1].discrepancy_numerator


def test_a_scale_too_large_is_refused() -> None:
    fold = LayerFold(2, 2)
    with pytest.raises(RejectedUpdate, match="out_of_bounds"):
        fold.add("a", Int8Blocks(np.array([1, 2], np.int8), np.array([2.0**40], np.float32)), 1.0)
    with pytest.raises(ValueError, match="3 elements"):
        fold.add("a", int8_blocks(3), 1.0)
    assert fold.count == 0


CASES: dict[str, Delta] = {
    "floats": np.random.default_rng(3).normal(size=1401).astype(np.float32),
    "tiny": np.random.default_rng(3).normal(scale=1e-11, size=1401).astype(np.float32),
    "blocks": int8_blocks(1401),
    "unaligned": int8_blocks(1401, 77),
    "joined": pieces(),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weight", [1.0, 1.1, 600.0])
@pytest.mark.parametrize("parameters", [0, 5, 700, 1401])
def test_the_compiled_pass_ends_in_the_same_bits(case: str, weight: float, parameters: int) -> None:
    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    sums = [ExactSum(1401, compiled=compiled) for compiled in (False, True)]
    squares = [sum_.add_near(CASES[case], weight, parameters) for sum_ in sums]
    assert squares[0] == squares[1] is not None
    assert sums[0].words()[0].tobytes() == sums[1].words()[0].tobytes()


def test_the_compiled_pass_takes_back_what_is_not_finite() -> None:
    pytest.importorskip("numba", reason="the extra `fast` is not installed")
    sum_ = ExactSum(1000, compiled=True)
    wrong: NDArray[np.float32] = np.ones(1000, np.float32)
    wrong[[3, 400, 999]] = np.nan, np.inf, -np.inf
    assert sum_.add_near(wrong, 2.0, 999) is None
    assert not sum_.words()[0].any()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    "shapes",
    [((300,),), ((20, 30),), ((10, 40), (10,), (10,), (3, 100)), ((7,), (33, 9)), ((400, 350), (350,), (2, 3))],
    ids=["1", "2", "4", "12", "large"],
)
def test_every_codecs_update_is_folded_as_what_it_decodes_to(name: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    tensors = tuple(TensorSpec(f"t{i}", shape, "kernel") for i, shape in enumerate(shapes))
    layer = LayerSpec("layer", tensors[:-1], tensors[-1:])
    delta = np.random.default_rng(0).normal(size=layer.vector_size).astype(np.float32)
    value = pack("update", epoch=1, round=2, layer=0, version=3, layer_spec=layer, vector=delta, codec=name)
    opened = unpack_to_fold(value, layer)
    assert opened.size == layer.vector_size
    assert opened[:].tobytes() == unpack(value, layer).tobytes()


def test_a_large_int8_kernel_is_not_decoded_before_it_is_folded() -> None:
    layer = LayerSpec("layer", (TensorSpec("w", (400, 350), "kernel"), TensorSpec("b", (350,), "bias")))
    vector = np.ones(140_350, np.float32)
    value = pack("update", epoch=1, round=2, layer=0, version=3, layer_spec=layer, vector=vector, codec="int8")
    opened = unpack_to_fold(value, layer)
    assert isinstance(opened, Joined)
    assert isinstance(opened.parts[0], Int8Blocks)
    with pytest.raises(DecodeError):
        unpack_to_fold(replace(value, data=value.data[:-1]), layer)
    with pytest.raises(DecodeError, match="the model has"):
        unpack_to_fold(replace(value, shapes=((140_000,), (350,))), layer)
