"""Partials: what goes out comes in, the same in any order, and hostile bytes are refused before they cost anything."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lamina.broker.wire.chunks import Joiner, LayerValue, pack_partial, split, unpack_partial
from lamina.broker.wire.codecs.frames import Deflater, inflate
from lamina.broker.wire.partials import Partial, decode, encode, most_bytes
from lamina.coordinator.folds.aggregate import LayerFold, rule
from lamina.models.errors import DecodeError, RejectedUpdate
from lamina.models.spec import LayerSpec, TensorSpec
from tests.small_federation import model

Update = tuple[str, NDArray[np.float32], float]


def vector(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def fold_of(*updates: Update, size: int = 2) -> LayerFold:
    fold = LayerFold(size, size)
    for update in updates:
        fold.add(*update)
    return fold


def joined(*partials: Partial, size: int = 2) -> LayerFold:
    fold = LayerFold(size, size)
    for partial in partials:
        fold.join(partial)
    return fold


A: Update = ("a", vector(1, -2), 1.0)
B: Update = ("b", vector(0.5, 2.0**-36), 3.0)
HUGE: Update = ("huge", vector(2.0**35, -(2.0**35)), 1.0)


@st.composite
def some_updates(draw: st.DrawFn) -> list[Update]:
    scale = draw(st.sampled_from([2.0**-20, 1.0, 2.0**20]))
    numbers = st.lists(st.floats(-scale, scale, width=32), min_size=3, max_size=3)
    weights = st.sampled_from([1.0, 1.1, 600.0])
    return [(f"d{i}", vector(*draw(numbers)), draw(weights)) for i in range(draw(st.integers(1, 6)))]


@given(some_updates(), st.data())
def test_a_tree_of_partials_ends_in_the_bits_of_one_flat_fold(updates: list[Update], data: st.DataObject) -> None:
    base = vector(1, 2, 3)
    flat = fold_of(*updates, size=3)
    leaves = [LayerFold(3, 3) for _ in range(3)]
    for update in data.draw(st.permutations(updates)):
        data.draw(st.sampled_from(leaves)).add(*update)
    over_the_wire = [decode(encode(leaf.partial()), 3) for leaf in leaves if leaf.count]
    tree = joined(*data.draw(st.permutations(over_the_wire)), size=3)
    ends = [fold.finish(base) for fold in (flat, tree)]
    assert ends[0].value.tobytes() == ends[1].value.tobytes()
    assert ends[0].discrepancy_numerator == ends[1].discrepancy_numerator
    assert (ends[0].weight, ends[0].devices) == (ends[1].weight, ends[1].devices)
    assert encode(flat.partial()) == encode(tree.partial())


def test_golden_bytes_of_protocol_1() -> None:
    # 1 - 2 = -1, in steps of 2^-36: -2^36; the moments are w ||delta||^2: 1 and 3 * 2^2 / 3
    fold = fold_of(("a", vector(1), 1.0), ("b", vector(-1), 2.0), size=1)
    data = encode(fold.partial())
    roster = bytes.fromhex(
        "93 92a161a162 92cb3ff0000000000000cb4000000000000000 92cb3ff0000000000000cb4000000000000000"
    )
    assert data[:8] == bytes([len(roster), 0, 0, 0, 1, 0, 0, 0])
    assert data[8 : 8 + len(roster)] == roster
    planes = inflate(data[8 + len(roster) :], 8, "")
    assert planes == (-(2**36)).to_bytes(8, "little", signed=True)


def test_huge_sums_take_a_second_word_and_come_back() -> None:
    partial = decode(encode(fold_of(HUGE, A).partial()), 2)
    assert partial.far is not None
    exact = joined(partial, fold_of(("back", -HUGE[1], 1.0)).partial())  # (1, -2) is left, over a weight of 3
    np.testing.assert_array_equal(exact.finish(vector(0, 0)).value, vector(1 / 3, -2 / 3))


def test_a_fold_that_was_sent_may_go_on() -> None:
    fold = fold_of(A)
    sent = fold.partial()
    fold.add(*B)
    assert sent.devices == ("a",)
    assert joined(sent).finish(vector(0, 0)).value.tolist() == [1, -2]


@pytest.mark.parametrize(
    ("partial", "reason"),
    [
        (fold_of(A, B).partial(), "duplicate"),
        (Partial(("c",), (0.5,), (1.0,), np.zeros(2, np.int64)), "out_of_bounds"),
        (Partial(("c",), (1.0,), (1.0,), np.full(2, 2**63 - 1)), "out_of_bounds"),
        (Partial(("c",), (1.0,), (1.0,), np.zeros(2, np.int64), np.full(2, 2**60)), "out_of_bounds"),
    ],
)
def test_a_partial_that_can_not_be_joined_leaves_no_trace(partial: Partial, reason: str) -> None:
    fold = fold_of(A)
    with pytest.raises(RejectedUpdate) as refusal:
        fold.join(partial)
    assert refusal.value.reason == reason
    assert fold.devices == ("a",)
    assert fold.finish(vector(0, 0)).value.tolist() == [1, -2]


def test_a_partial_of_another_layer_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="2 elements can't join a fold of 3"):
        LayerFold(3, 3).join(fold_of(A).partial())


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "clipped_mean"])
def test_robust_rules_neither_take_nor_give_sums(name: str) -> None:
    fold = rule(name)(2, 2)
    with pytest.raises(RejectedUpdate, match="collects"):
        fold.join(fold_of(A).partial())
    with pytest.raises(RejectedUpdate, match="collects"):
        fold.partial()


# -- over the wire -----------------------------------------------------------------------------------------------------

SPEC = model([2, 3])


def message(partial: Partial, layer: int = 0) -> LayerValue:
    return pack_partial(partial, epoch=9, round=4, layer=layer, version=7, layer_spec=SPEC.layers[layer])


@pytest.mark.parametrize("chunk_bytes", [110, 4096])
def test_a_partial_travels_in_chunks(chunk_bytes: int) -> None:
    joiner = Joiner(SPEC)
    *first, last = split(message(fold_of(A, B).partial()), chunk_bytes)
    assert [joiner.add(chunk, "site") for chunk in first] == [None] * len(first)
    value = joiner.add(last, "site")
    assert value is not None
    assert (value.purpose, value.epoch, value.round, value.layer, value.version) == ("partial", 9, 4, 0, 7)
    assert value.weight == 4.0
    partial = unpack_partial(value, SPEC.layers[0])
    assert partial.devices == ("a", "b")
    assert joiner.add(last, "site") is None  # a duplicate


def test_a_partial_of_other_tensors_is_refused() -> None:
    other = LayerSpec("other", (TensorSpec("weight", (1, 2), "kernel"),))
    with pytest.raises(DecodeError, match="not a partial of it"):
        unpack_partial(message(fold_of(A).partial()), other)


def test_a_partial_larger_than_any_is_refused_before_it_is_held() -> None:
    value = message(fold_of(A).partial())
    huge = replace(value, data=bytes(most_bytes(2) + 1))
    joiner = Joiner(SPEC)
    with pytest.raises(DecodeError, match="more than the possible"):
        joiner.add(split(huge, 1 << 20)[0], "site")
    assert joiner.held_bytes == 0


@given(st.binary(max_size=80))
def test_any_bytes_are_a_partial_or_an_error(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data, 2)


@given(st.integers(0, 200), st.integers(1, 255))
def test_a_damaged_partial_decodes_to_numbers_or_not_at_all(place: int, change: int) -> None:
    data = bytearray(encode(fold_of(A, B).partial()))
    data[place % len(data)] ^= change
    try:
        partial = decode(bytes(data), 2)
    except DecodeError:
        return
    assert partial.near.shape == (2,)
    assert len(partial.devices) == len(partial.weights) == len(partial.moments)


def with_roster(*roster: object) -> bytes:
    content = msgspec.msgpack.encode(roster)
    squeezed = Deflater().frame(bytes(16))
    return len(content).to_bytes(4, "little") + b"\x01\0\0\0" + content + squeezed


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (with_roster((), (), ()), "of 0 devices"),
        (with_roster(("a", "b"), (1.0,), (1.0, 1.0)), "of 2 devices, 1 weights"),
        (with_roster(("b", "a"), (1.0, 1.0), (1.0, 1.0)), "do not ascend"),
        (with_roster(("a", "a"), (1.0, 1.0), (1.0, 1.0)), "repeat"),
        (with_roster(("a/b",), (1.0,), (1.0,)), "damaged roster"),
        (with_roster(("a",), (float("nan"),), (1.0,)), "not a number"),
        (with_roster(("a",), (1.0,), (-1.0,)), "negative"),
        (with_roster(("a",), (1.0,)), "damaged roster"),
        (b"\xff\xff\xff\xff\x01\0\0\0" + bytes(40), "roster of 4294967295 bytes"),
        (b"\x01\0\0\0\x03\0\0\0" + bytes(40), "3 words"),
    ],
)
def test_a_wrong_roster_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(DecodeError, match=words):
        decode(data, 2)


def test_a_frame_of_another_size_is_refused_by_what_it_claims() -> None:
    data = with_roster(("a",), (1.0,), (1.0,))
    assert decode(data, 2).near.tolist() == [0, 0]
    with pytest.raises(DecodeError, match="claims 16 bytes of sums, where 8000000 are awaited"):
        decode(data, 1_000_000)
