"""Many layers at once: the bytes, the bits and the errors of one by one, whatever layers, codecs and damage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from lamina.broker.wire.chunks import LayerValue, pack, pack_all, unpack, unpack_all
from lamina.broker.wire.codecs import CODECS, codec
from lamina.broker.wire.codecs.base import ServesMany
from lamina.broker.wire.deltas import applied, pack_deltas
from lamina.models.arrays import Vector
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.spec import LayerSpec, TensorSpec

TOGETHER = [name for name in CODECS if isinstance(codec(name), ServesMany)]

shapes = st.lists(  # of a layer: kernels and others in any order, empty ones and scalars too
    st.one_of(
        st.sampled_from([(), (0,), (0, 3), (1,), (3, 5), (16, 16), (2, 300), (1023,), (256, 9)]),
        hn.array_shapes(min_dims=1, max_dims=4, max_side=9),
    ),
    max_size=5,
)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
numbers = st.one_of(st.floats(-1e3, 1e3, width=32), finite, st.sampled_from([0.0, -0.0, 1e-45, 3.4e38, -70000.0]))
anything = st.one_of(numbers, st.sampled_from([math.nan, math.inf, -math.inf]))


def layer_of(tensors: Sequence[tuple[int, ...]], number: int = 0) -> LayerSpec:
    return LayerSpec(f"l{number}", tuple(TensorSpec(f"t{k}", shape, "kernel") for k, shape in enumerate(tensors)))


def noise(layer: LayerSpec, seed: int) -> Vector:
    return np.random.default_rng(seed).standard_normal(layer.vector_size).astype(np.float32)


def packed_one_by_one(
    layers: Sequence[LayerSpec], vectors: Sequence[Vector], codecs: Sequence[str]
) -> list[LayerValue | ValueError]:
    """The slow twin."""
    values: list[LayerValue | ValueError] = []
    for index, (layer, vector, name) in enumerate(zip(layers, vectors, codecs, strict=True)):
        try:
            values.append(
                pack(
                    "update",
                    epoch=9,
                    round=5,
                    layer=index,
                    version=index + 3,
                    layer_spec=layer,
                    vector=vector,
                    codec=name,
                    weight=2.0,
                )
            )
        except ValueError as error:
            values.append(error)
    return values


def packed_together(
    layers: Sequence[LayerSpec], vectors: Sequence[Vector], codecs: Sequence[str]
) -> list[LayerValue | ValueError]:
    return pack_all(
        "update",
        epoch=9,
        round=5,
        layers=range(len(layers)),
        versions=[index + 3 for index in range(len(layers))],
        layer_specs=layers,
        vectors=vectors,
        codecs=codecs,
        weight=2.0,
    )


def unpacked_one_by_one(values: Sequence[LayerValue], layers: Sequence[LayerSpec]) -> list[Vector | DecodeError]:
    vectors: list[Vector | DecodeError] = []
    for value, layer in zip(values, layers, strict=True):
        try:
            vectors.append(unpack(value, layer))
        except DecodeError as error:
            vectors.append(error)
    return vectors


def comparable(results: Sequence[LayerValue | Vector | Exception]) -> list[object]:
    """Errors by what they say, vectors by their bits."""
    return [
        (type(one), str(one)) if isinstance(one, Exception) else one.tobytes() if isinstance(one, np.ndarray) else one
        for one in results
    ]


def test_int8_is_one_that_takes_layers_together() -> None:
    assert {"int8", "int4"} <= set(TOGETHER)


@settings(max_examples=150)
@given(st.lists(shapes, max_size=6), st.data())
def test_together_gives_the_bytes_and_the_bits_of_one_by_one(
    tensors: list[list[tuple[int, ...]]], data: st.DataObject
) -> None:
    layers = [layer_of(each, number) for number, each in enumerate(tensors)]
    elements = data.draw(st.sampled_from([numbers, anything]), label="elements")
    vectors = [data.draw(hn.arrays(np.float32, layer.vector_size, elements=elements)) for layer in layers]
    names = st.sampled_from(["int8", data.draw(st.sampled_from(CODECS), label="other codec")])
    codecs = [data.draw(names) for _ in layers]
    before = [vector.copy() for vector in vectors]

    values = packed_together(layers, vectors, codecs)
    assert comparable(values) == comparable(packed_one_by_one(layers, vectors, codecs))
    assert comparable(vectors) == comparable(before)

    whole = [(value, layer) for value, layer in zip(values, layers, strict=True) if isinstance(value, LayerValue)]
    good, theirs = [value for value, _ in whole], [layer for _, layer in whole]
    decoded = unpack_all(good, theirs)
    assert comparable(decoded) == comparable(unpacked_one_by_one(good, theirs))
    vectors = [vector for vector in decoded if isinstance(vector, np.ndarray)]
    assert len(vectors) == len(decoded)
    assert not any(np.may_share_memory(one, other) for one, other in combinations(vectors, 2))


@settings(max_examples=150)
@given(st.sampled_from(TOGETHER), st.data())
def test_damage_to_one_costs_the_others_nothing(name: str, data: st.DataObject) -> None:
    layers = [layer_of(((8, 40), (8,)), 0), layer_of(((300, 2), (5,), (7, 3)), 1), layer_of(((6,),), 2)]
    vectors = [noise(layer, seed) for seed, layer in enumerate(layers)]
    values = [value for value in packed_together(layers, vectors, [name] * 3) if isinstance(value, LayerValue)]
    hit = data.draw(st.integers(0, 2))
    damaged = bytearray(values[hit].data)
    match data.draw(st.sampled_from(["byte", "cut", "longer", "scale", "noise"])):
        case "byte":
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        case "cut":
            del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
        case "longer":
            damaged += data.draw(st.binary(min_size=1, max_size=9))
        case "scale":  # after the rest's float16 and the count
            place = 2 * (8, 5, 6)[hit] + 4
            damaged[place : place + 4] = np.float32(
                data.draw(st.sampled_from([math.nan, math.inf, -1.0, 3e38]))
            ).tobytes()
        case "noise":
            damaged[:] = data.draw(st.binary(max_size=400))
    values[hit] = replace(values[hit], data=bytes(damaged))

    decoded = unpack_all(values, layers)
    assert comparable(decoded) == comparable(unpacked_one_by_one(values, layers))
    assert all(isinstance(vector, np.ndarray) for place, vector in enumerate(decoded) if place != hit)


@pytest.mark.parametrize("name", ["int8", "int4", "sign"])
def test_layers_of_more_than_a_run_go_alone_among_small_ones(name: str) -> None:
    sizes = [10, 400, 3000, 700, 1, 513, 512]  # thousands of elements would be the same; in rows of 200
    layers = [layer_of(((size, 200), (size,)), number) for number, size in enumerate(sizes)]
    vectors = [noise(layer, number) for number, layer in enumerate(layers)]
    values = packed_together(layers, vectors, [name] * len(sizes))
    assert values == packed_one_by_one(layers, vectors, [name] * len(sizes))
    good = [value for value in values if isinstance(value, LayerValue)]
    assert comparable(unpack_all(good, layers)) == comparable(unpacked_one_by_one(good, layers))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_float16_of_a_large_layer_among_small_ones_is_checked(bad: float) -> None:
    layers = [layer_of(((700, 200), (2,)), 0), layer_of(((5, 5),), 1)]
    values = packed_one_by_one(layers, [noise(layer, 0) for layer in layers], ["int8", "int8"])
    good = [value for value in values if isinstance(value, LayerValue)]
    good[0] = replace(good[0], data=np.float16(bad).tobytes() + good[0].data[2:])
    first, second = unpack_all(good, layers)
    assert str(first) == "layer l0: holds NaN or infinity"
    assert isinstance(second, np.ndarray)


@pytest.mark.parametrize("vector", [np.zeros(5, np.float32), np.zeros((3, 3), np.float32), np.zeros(9)])
def test_what_is_not_the_layers_vector_is_refused_alone(vector: Vector) -> None:
    layers = [layer_of(((3, 3),), 0), layer_of(((3, 3),), 1)]
    good, bad = packed_together(layers, [noise(layers[0], 0), vector], ["int8", "int8"])
    assert isinstance(good, LayerValue)
    assert isinstance(bad, ValueError)


def test_value_of_another_layer_is_refused_alone() -> None:
    layers = [layer_of(((3, 3),), 0), layer_of(((3, 4),), 1), layer_of(((2, 2),), 2)]
    values = packed_together(layers, [noise(layer, 0) for layer in layers], ["int8"] * 3)
    good = [value for value in values if isinstance(value, LayerValue)]
    first, second, third = unpack_all(good, [layers[0], layers[0], layers[2]])
    assert isinstance(first, np.ndarray)
    assert "layer l0: tensors ((3, 4),)" in str(second)
    assert isinstance(third, np.ndarray)


def test_unknown_codec_is_the_operators_error() -> None:
    layer = layer_of(((3, 3),))
    with pytest.raises(ConfigError, match="unknown codec"):
        packed_together([layer, layer], [noise(layer, 0)] * 2, ["int8", "float8"])


def test_deltas_together_lead_devices_to_what_one_by_one_would() -> None:
    layers = [layer_of(((size, 40), (size,)), size) for size in (3, 9, 30, 1)]
    bases, targets = [noise(layer, 1) for layer in layers], [noise(layer, 2) for layer in layers]
    names = ["int8", "top10", "int8", "float32"]
    together = pack_deltas(
        epoch=9,
        round=5,
        layers=range(4),
        versions=[4] * 4,
        layer_specs=layers,
        bases=bases,
        targets=targets,
        codecs=names,
    )
    values, results = [value for value, _ in together], [result for _, result in together]
    changes = [target - base for target, base in zip(targets, bases, strict=True)]
    alone = [value.data for value in packed_one_by_one(layers, changes, names) if isinstance(value, LayerValue)]
    assert [value.data for value in values] == alone
    moved = [base + unpack(value, layer) for value, layer, base in zip(values, layers, bases, strict=True)]
    assert comparable(results) == comparable(moved) == comparable(applied(values, layers, bases))


def test_a_damaged_delta_and_a_whole_value_among_deltas() -> None:
    layers = [layer_of(((size, 40),), size) for size in (3, 9, 30)]
    bases, targets = [noise(layer, 1) for layer in layers], [noise(layer, 2) for layer in layers]
    deltas = packed_together(layers, [target - base for target, base in zip(targets, bases, strict=True)], ["int8"] * 3)
    values = [replace(value, purpose="delta") for value in deltas if isinstance(value, LayerValue)]
    values[0] = replace(values[0], data=values[0].data[:-1])
    values[1] = replace(values[1], purpose="global")
    damaged, whole, led = applied(values, layers, [bases[0], None, bases[2]])
    assert isinstance(damaged, DecodeError)
    assert comparable([whole]) == comparable([unpack(values[1], layers[1])])
    assert comparable([led]) == comparable([bases[2] + unpack(values[2], layers[2])])


def test_a_target_that_is_not_finite_has_no_delta() -> None:
    layers = [layer_of(((3, 3),), 0), layer_of(((3, 4),), 1)]
    with pytest.raises(ValueError, match="1 of 12 values are NaN or infinite"):
        pack_deltas(
            epoch=9,
            round=5,
            layers=range(2),
            versions=[4, 4],
            layer_specs=layers,
            bases=[np.zeros(9, np.float32), np.zeros(12, np.float32)],
            targets=[noise(layers[0], 0), np.array([np.nan] + 11 * [1], np.float32)],
            codecs=["int8", "int8"],
        )


def test_nothing_gives_nothing() -> None:
    assert packed_together([], [], []) == []
    assert unpack_all([], []) == []
