"""Layer values in chunks: golden bytes, round trips in any order, and damage that never decodes silently."""

from __future__ import annotations

import hashlib
import random
import struct
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.chunks import Joiner, LayerValue, pack, split, split_file, unpack
from lamina.broker.wire.codecs import CODECS
from lamina.broker.wire.codecs import codec as codec_named
from lamina.models.errors import ConfigError, DecodeError, RejectedUpdate
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.sealing import sealed_again

CONV = LayerSpec(
    "conv",
    parameters=(
        TensorSpec("w", (4, 3, 3, 3), "kernel"),  # 108
        TensorSpec("gamma", (4,), "norm"),
        TensorSpec("beta", (4,), "norm"),
    ),
    statistics=(TensorSpec("mean", (4,), "statistic"), TensorSpec("var", (4,), "statistic")),
)
DENSE = LayerSpec("dense", parameters=(TensorSpec("w", (2, 2), "kernel"), TensorSpec("scale", (), "norm")))
SPEC = ModelSpec("tiny", (CONV, DENSE), (BlockSpec("all", 0, 2, (3, 8, 8)),), (0,), classes=2)
HEADER_BYTES = {0: 68 + 5 + 4 * (4 + 1 + 1 + 1 + 1), 1: 68 + 2 + 4 * 2}  # ranks, then extents


def vector_of(layer: LayerSpec, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(layer.vector_size).astype(np.float32)


def value_of(layer: int = 0, *, seed: int = 0, codec: str = "float32", **fields: object) -> LayerValue:
    spec = SPEC.layers[layer]
    packed = pack(
        "update", epoch=9, round=5, layer=layer, version=3, layer_spec=spec, vector=vector_of(spec, seed), codec=codec
    )
    return replace(packed, **fields)  # type: ignore[arg-type]


# The layout.


def test_golden_bytes_of_protocol_1() -> None:
    value = LayerValue("update", 9, 5, 1, 3, 0.25, "float16", ((2, 2), ()), bytes.fromhex("003c00c000380000003c"))
    first, second = split(value, 68 + 10 + 5)
    common = (
        "01020200"  # protocol, update, float16
        "01000200"  # layer 1 of two tensors
        "0500000003000000"  # round, version
        "0900000000000000"  # epoch
        "000000000000d03f"  # weight 0.25
        "0a000000"  # bytes of data
    )
    transfer = "c1dee99e9a991ac9ece8050f6ced0cde"
    table = "02020000000200000000"
    assert first.hex() == "4c414d4c" + "2cd0a95b" + common + "0000000002000000" + transfer + table + "003c00c000"
    assert second.hex() == "4c414d4c" + "7843e9e0" + common + "0100000002000000" + transfer + table + "380000003c"


def test_transfer_id_is_the_digest_of_what_is_transferred() -> None:
    [payload] = split(value_of(1), 1000)
    what, table, data = payload[8:44], payload[68:78], payload[78:]
    assert payload[52:68] == hashlib.blake2b(what + table + data, digest_size=16).digest()


def test_conv_with_its_norm_takes_105_bytes_besides_the_data() -> None:
    [payload] = split(value_of(0), 10_000)
    assert len(payload) - 4 * CONV.vector_size == 105 == HEADER_BYTES[0]


@given(st.integers(106, 700), st.sampled_from(CODECS), st.integers(0, 1))
def test_no_chunk_is_larger_than_asked_and_none_is_empty(chunk_bytes: int, codec: str, layer: int) -> None:
    value = value_of(layer, codec=codec)
    sizes = [len(payload) for payload in split(value, chunk_bytes)]
    assert max(sizes) <= chunk_bytes
    assert min(sizes) > HEADER_BYTES[layer]
    assert sum(sizes) == len(value.data) + len(sizes) * HEADER_BYTES[layer]


@pytest.mark.parametrize(
    "fields", [{"round": -1}, {"round": 2**32}, {"epoch": 2**64}, {"version": -1}, {"weight": 0.0}]
)
def test_field_that_does_not_fit_is_not_sent(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"fit its header|weight must be finite and positive"):
        split(value_of(**fields), 1000)


def test_chunk_without_room_is_not_sent() -> None:
    with pytest.raises(ValueError, match="a chunk of 105 bytes has no room for its header of 105"):
        split(value_of(0), 105)
    assert len(split(value_of(0), 106)) == 4 * CONV.vector_size  # one byte each


def test_vector_of_another_size_is_not_sent() -> None:
    with pytest.raises(ValueError, match=r"layer dense takes \(5,\), not \(4,\)"):
        pack(
            "global",
            epoch=0,
            round=0,
            layer=1,
            version=0,
            layer_spec=DENSE,
            vector=np.zeros(4, np.float32),
            codec="float32",
        )


def test_unknown_codec_is_the_operators_error() -> None:
    with pytest.raises(ConfigError, match="unknown codec"):
        value_of(codec="float8")


# Joining.


@given(
    chunk_bytes=st.integers(110, 700),
    codec=st.sampled_from(CODECS),
    layer=st.integers(0, 1),
    weight=st.floats(1e-9, 1e9),
    repeats=st.integers(1, 3),
    rng=st.randoms(use_true_random=False),
)
def test_any_order_with_duplicates_joins_once(
    chunk_bytes: int, codec: str, layer: int, weight: float, repeats: int, rng: random.Random
) -> None:
    value = value_of(layer, codec=codec, weight=weight)
    payloads = split(value, chunk_bytes) * repeats
    rng.shuffle(payloads)
    joiner = Joiner(SPEC)
    results = [result for payload in payloads if (result := joiner.add(payload, "pi")) is not None]
    assert results == [value]
    assert joiner.held_bytes == 0
    vector, shapes = vector_of(SPEC.layers[layer]), value.shapes
    there = codec_named(codec).for_tensors(shapes)
    expected = there.decode(there.encode(vector), len(vector))
    np.testing.assert_array_equal(unpack(results[0], SPEC.layers[layer]), expected)


@given(st.randoms(use_true_random=False))
def test_many_senders_and_layers_are_joined_at_once(rng: random.Random) -> None:
    sent = {
        (device, layer): value_of(layer, seed=number) for number, (device, layer) in enumerate(product("abc", (0, 1)))
    }
    payloads = [(device, payload) for (device, _), value in sent.items() for payload in split(value, 150)]
    rng.shuffle(payloads)
    joiner = Joiner(SPEC)
    joined = {}
    for device, payload in payloads:
        if (value := joiner.add(payload, device)) is not None:
            joined[device, value.layer] = value
    assert joined == sent


def test_newer_transfer_replaces_an_unfinished_one_and_late_chunks_of_the_old_are_ignored() -> None:
    old, new = value_of(seed=1), value_of(seed=2, round=6)
    old_payloads, new_payloads = split(old, 300), split(new, 300)
    joiner = Joiner(SPEC)
    assert joiner.add(old_payloads[0], "pi") is None
    assert joiner.add(new_payloads[0], "pi") is None
    held = joiner.held_bytes
    for payload in old_payloads[1:]:
        assert joiner.add(payload, "pi") is None
    assert joiner.held_bytes == held
    results = [joiner.add(payload, "pi") for payload in new_payloads[1:]]
    assert results == [None] * (len(results) - 1) + [new]


def test_stale_retained_chunks_between_fresh_ones_do_no_harm() -> None:
    # Version 2 had three chunks, version 4 has two: the third one of version 2 is still retained.
    old = replace(value_of(seed=1), purpose="global", version=2, round=2)
    new = replace(value_of(seed=2, codec="float16"), purpose="global", version=4, round=4)
    [_, _, stray] = split(old, 300)
    first, second = split(new, 300)
    joiner = Joiner(SPEC, epoch=9)
    assert [joiner.add(payload, "coordinator") for payload in (first, stray, second)] == [None, None, new]


def test_chunks_of_another_epoch_are_ignored() -> None:
    stray, current = split(value_of(epoch=8), 300), split(value_of(), 300)
    joiner = Joiner(SPEC, epoch=9)
    results = [joiner.add(payload, "pi") for pair in zip(current, stray, strict=True) for payload in pair]
    assert [result for result in results if result] == [value_of()]


def test_without_an_epoch_the_latest_one_wins() -> None:
    joiner = Joiner(SPEC)
    joiner.add(split(value_of(epoch=8, round=100), 300)[0], "pi")
    results = [joiner.add(payload, "pi") for payload in split(value_of(), 300)]
    assert results[-1] == value_of()


def test_value_cut_otherwise_is_another_transfer() -> None:
    joiner = Joiner(SPEC)
    joiner.add(split(value_of(), 300)[0], "pi")
    results = [joiner.add(payload, "pi") for payload in split(value_of(), 200)]
    assert results[-1] == value_of()


def test_finished_value_counts_again_once_its_sender_is_forgotten() -> None:
    [payload] = split(value_of(1), 1000)
    joiner = Joiner(SPEC)
    assert joiner.add(payload, "pi") is not None
    assert joiner.add(payload, "pi") is None
    joiner.forget("another")
    assert joiner.add(payload, "pi") is None
    joiner.forget("pi")
    assert joiner.add(payload, "pi") == value_of(1)


# Bounds.


def test_what_came_before_its_round_was_followed_counts_when_it_is_sent_again() -> None:
    joiner = Joiner(SPEC)
    joiner.follow(9, None)
    [chunk] = split(value_of(1), 4096)
    with pytest.raises(RejectedUpdate, match="while no round is open"):
        joiner.add(chunk, "pi")
    joiner.follow(9, 5)
    assert joiner.add(chunk, "pi") == value_of(1)
    assert joiner.add(chunk, "pi") is None


@pytest.mark.parametrize("followed_first", [True, False])
def test_a_later_round_does_not_suppress_the_one_that_a_coordinator_went_back_to(followed_first: bool) -> None:
    joiner = Joiner(SPEC)
    later, earlier = split(value_of(round=7, version=4), 256), split(value_of(), 256)
    if followed_first:
        joiner.follow(9, 5)
        with pytest.raises(RejectedUpdate, match="round 5 is open"):
            joiner.add(later[0], "pi")
    else:
        joiner.add(later[0], "pi")
        joiner.follow(9, 5)
    assert joiner.held_bytes == 0
    assert [joiner.add(chunk, "pi") for chunk in earlier][-1] == value_of()


def test_chunks_of_the_followed_round_outlive_a_repetition_of_its_plan() -> None:
    joiner = Joiner(SPEC)
    joiner.follow(9, 5)
    first, *others = split(value_of(), 256)
    joiner.add(first, "pi")
    joiner.follow(9, 5)
    assert [joiner.add(chunk, "pi") for chunk in others][-1] == value_of()


def test_held_bytes_stay_under_the_limit_and_what_was_idle_longest_goes() -> None:
    a, b, c = (split(value_of(seed=seed), 105 + 124) for seed in range(3))  # 4 chunks of 124 bytes each
    taken = 105 + 124 + 256  # a message, and what holding it takes besides
    joiner = Joiner(SPEC, max_bytes=6 * taken)
    for payload, device in [(a[0], "a"), (b[0], "b"), (b[1], "b"), (a[1], "a"), (c[0], "c"), (c[1], "c")]:
        assert joiner.add(payload, device) is None
    assert joiner.held_bytes == 6 * taken
    assert joiner.add(c[2], "c") is None  # `b` is forgotten for it
    assert joiner.held_bytes == 5 * taken
    assert joiner.add(c[3], "c") == value_of(seed=2)
    assert [joiner.add(payload, "a") for payload in a[2:]] == [None, value_of(seed=0)]
    assert [joiner.add(payload, "b") for payload in b[2:]] == [None, None]


def test_a_sender_that_never_finishes_costs_itself_and_nobody_else() -> None:
    joiner, honest = Joiner(SPEC), split(value_of(), 300)
    assert joiner.add(honest[0], "honest") is None
    opened = 0
    for seed in range(40):  # each replaces the one before
        for payload in split(value_of(seed=seed, round=seed), 106)[:-1]:  # one byte a chunk
            with suppress(DecodeError):
                joiner.add(payload, "liar")
            opened += 1
    assert opened > 5000
    assert joiner.held_bytes < 100_000  # twice the model's 4 KB, and the slack
    assert [joiner.add(payload, "honest") for payload in honest[1:]][-1] == value_of()


def test_too_small_chunks_end_in_their_declared_error() -> None:
    joiner = Joiner(SPEC)
    refused: list[DecodeError] = []
    for payload in split(value_of(), 106):
        try:
            joiner.add(payload, "pi")
        except DecodeError as error:
            refused.append(error)
    assert "too small ones" in str(refused[0])
    assert joiner.held_bytes < 100_000


@pytest.mark.parametrize("purpose", ["global", "delta", "partial"])
def test_nothing_is_held_of_what_a_sender_may_not_send(purpose: str) -> None:
    joiner = Joiner(SPEC)
    [first, *_] = split(value_of(), 300)
    wrong = sealed_again(first, 9, bytes([{"global": 1, "delta": 3, "partial": 4}[purpose]]))
    with pytest.raises(DecodeError, match=f"a {purpose} of layer .* where update is awaited"):
        joiner.add(wrong, "pi", ("update",))
    assert joiner.held_bytes == 0


def test_transfers_in_mind_stay_under_the_limit() -> None:
    joiner = Joiner(SPEC, max_transfers=2)
    [payload] = split(value_of(1), 1000)
    assert [joiner.add(payload, device) is None for device in "aabb"] == [False, True, False, True]
    assert joiner.add(payload, "c") is not None  # `a` is forgotten
    assert joiner.add(payload, "b") is None
    assert joiner.add(payload, "a") is not None


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (8, b"\x02", "of protocol 2"),
        (9, b"\x05", "unknown purpose 5"),
        (10, b"\x63", "unknown codec id 99"),
        (12, b"\x02\x00", "layer 2, and the model has 2"),
        (12, b"\x00\x00", "layer conv: tensors"),
        (14, b"\x03\x00", "ends within its table"),
        (14, b"\xff\xff", "ends within its table"),
        (32, struct.pack("<d", float("nan")), "weight nan"),
        (32, struct.pack("<d", -1.0), r"weight -1\.0"),
        (40, struct.pack("<I", 2**32 - 1), "layer chunk 0 of 1 has 20 bytes"),
        (44, struct.pack("<I", 1), "chunk 1 of 1"),
        (48, struct.pack("<I", 0), "chunk 0 of 0"),
        (48, struct.pack("<I", 2), "layer chunk 0 of 2 has 20 bytes"),
        (48, struct.pack("<I", 2**32 - 1), "20 bytes are not cut into 4294967295 chunks"),
        (69, struct.pack("<I", 3), "layer dense: tensors"),
    ],
)
def test_well_sealed_nonsense_is_refused(offset: int, new: bytes, message: str) -> None:
    [payload] = split(value_of(1), 1000)
    joiner = Joiner(SPEC)
    with pytest.raises(DecodeError, match=message):
        joiner.add(sealed_again(payload, offset, new), "pi")
    assert joiner.held_bytes == 0
    assert joiner.add(payload, "pi") == value_of(1)


@pytest.mark.parametrize(("offset", "new"), [(52, bytes(16)), (80, b"\xff")])
def test_chunks_that_join_to_something_else_than_their_digest_says_are_refused(offset: int, new: bytes) -> None:
    payloads = split(value_of(1), 68 + 10 + 13)  # two of 10 bytes of data
    first, second = (sealed_again(payload, offset, new) for payload in payloads)
    joiner = Joiner(SPEC)
    assert joiner.add(first, "pi") is None
    with pytest.raises(DecodeError, match="another digest than its id"):
        joiner.add(second, "pi")
    assert joiner.held_bytes == 0
    assert [joiner.add(payload, "pi") for payload in payloads] == [None, value_of(1)]


def test_single_chunk_is_what_its_crc_covers() -> None:
    # Whoever could seal another content could have given it its own digest.
    [payload] = split(value_of(1), 1000)
    joined = Joiner(SPEC).add(sealed_again(payload, 78, struct.pack("<f", 0.5)), "pi")
    assert joined is not None
    assert unpack(joined, DENSE).tolist() == [0.5, *vector_of(DENSE)[1:].tolist()]


def test_another_kind_of_message_is_refused() -> None:
    for payload in (b"", b"LAML", *split_file(b"x", 100)):
        with pytest.raises(DecodeError, match=r"not a LAML message|damaged"):
            Joiner(SPEC).add(payload, "pi")


def test_more_data_than_the_layer_can_have_are_refused_by_the_first_chunk() -> None:
    [payload] = split(value_of(1, data=bytes(21)), 1000)
    with pytest.raises(DecodeError, match="21 bytes of data, more than the possible 20"):
        Joiner(SPEC).add(payload, "pi")


@given(st.integers(0, 1), st.data())
def test_flipped_bit_never_decodes(layer: int, data: st.DataObject) -> None:
    payload = split(value_of(layer), 300)[0]
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    damaged = bytearray(payload)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DecodeError):
        Joiner(SPEC).add(bytes(damaged), "pi")


@given(st.data())
def test_truncated_or_lengthened_chunk_never_decodes(data: st.DataObject) -> None:
    payload = split(value_of(0), 300)[0]
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    for damaged in (cut, payload + b"\0", sealed_again(cut, 8, b"") if len(cut) >= 8 else b""):
        with pytest.raises(DecodeError):
            Joiner(SPEC).add(damaged, "pi")


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        Joiner(SPEC).add(payload, "pi")
    with pytest.raises(DecodeError):
        Joiner(SPEC).add(sealed_again(b"LAML" + payload[4:], 8, b"") if len(payload) > 8 else payload, "pi")


# Unpacking.


def test_value_of_another_layer_is_refused() -> None:
    with pytest.raises(DecodeError, match="layer conv: tensors"):
        unpack(value_of(1), CONV)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_value_that_is_not_finite_is_refused(bad: float) -> None:
    data = np.array([0, 0, bad, 0, 0], dtype="<f4").tobytes()
    with pytest.raises(DecodeError, match="layer dense: holds NaN or infinity"):
        unpack(value_of(1, data=data), DENSE)


def test_data_of_another_size_are_refused() -> None:
    with pytest.raises(DecodeError, match="5 values take 20"):
        unpack(value_of(1, data=bytes(16)), DENSE)


def test_the_chunks_that_are_missing_of_a_value_are_known() -> None:
    joiner = Joiner(SPEC)
    assert joiner.missing("layer", "global", 3) == [0, 1, 2]  # nothing is known of it
    parts = split(value_of(purpose="global"), 200)
    assert len(parts) > 4
    joiner.add(parts[1], "layer")
    assert joiner.missing("layer", "global", 2) == [0, 2]
    assert joiner.held("global").keys() == {"layer"}
    joiner.forget("layer", finished_only=True)
    assert joiner.missing("layer", "global", 2) == [0, 2]
    joiner.forget_all(finished_only=True)
    assert joiner.missing("layer", "global", 2) == [0, 2]
    for part in parts:
        joiner.add(part, "layer")
    assert joiner.held("global") == {}
    joiner.forget("layer", finished_only=True)
    assert joiner.add(parts[0], "layer") is None
    assert joiner.missing("layer", "global", 1) == [1]  # it comes anew
