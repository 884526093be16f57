"""Codecs of few bits: each against a slow twin, golden bytes, bounds on what is lost, and hostile bytes."""

import math
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from lamina.broker.wire.codecs import CODECS, codec
from lamina.broker.wire.codecs.frames import Deflater
from lamina.models.arrays import Vector
from lamina.models.errors import DecodeError

LOSSY = [name for name in CODECS if not name.startswith(("float", "bfloat"))]
BIASED = [name for name in CODECS if codec(name).biased]
SHAPES = ((6, 4, 3, 3), (6,), (6,), (), (5, 40))  # 216 + 6 + 6 + 1 + 200
SIZE = 429
LARGEST_BFLOAT16 = (2 - 2**-7) * 2.0**127

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
tame = st.floats(-1e3, 1e3, width=32)
vectors = hn.arrays(np.float32, st.integers(0, 700), elements=finite, fill=tame)


def noise(size: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).laplace(size=size).astype(np.float32)


def there_and_back(name: str, vector: Vector) -> Vector:
    subject = codec(name)
    return subject.decode(subject.encode(vector), vector.size)


# What comes back.


def test_the_biased_codecs_are_those_that_need_error_feedback() -> None:
    assert BIASED == ["int2", "sign", "top10", "top3", "top1", "rank2", "rank4"]


@given(vector=vectors)
@example(vector=np.array([65504.0, 3.4028235e38, -3.4028235e38, 1e-45, -0.0, 1.00390625], np.float32))
def test_bfloat16_is_the_nearest_number_of_eight_bits(vector: Vector) -> None:
    for value, back in zip(vector.tolist(), there_and_back("bfloat16", vector).tolist(), strict=True):
        exponent = math.frexp(value)[1]
        step = 2.0 ** (max(exponent, -125) - 8)  # subnormals have a fixed one
        nearest = round(value / step) * step  # ties to even, in Python too
        assert back == (math.copysign(LARGEST_BFLOAT16, value) if abs(nearest) > LARGEST_BFLOAT16 else nearest)


@pytest.mark.parametrize(("name", "most"), [("int8", 127), ("int4", 7)])
@given(vector=vectors)
def test_even_grid_is_at_most_half_a_step_off(name: str, most: int, vector: Vector) -> None:
    back = there_and_back(name, vector)
    for start in range(0, vector.size, 256):
        block, there = vector[start : start + 256].astype(np.float64), back[start : start + 256].astype(np.float64)
        peak = np.abs(block).max()
        if peak > 2.0**120 * most:  # such elements are clipped: the step would not be a float32 any more
            continue
        step = peak / most
        allowed = 0.5 * step * (1 + 1e-4) if peak >= 2.0**-100 else peak
        assert np.abs(there - block).max() <= allowed


def test_int8_by_hand() -> None:
    # The largest is 254, so the step is 2: 3 and 1 lie between two values and go to the even one; 5.1 goes to 6.
    vector = np.array([254.0, 3.0, 1.0, 5.1, -254.0, 0.0], np.float32)
    assert there_and_back("int8", vector).tolist() == [254.0, 4.0, 0.0, 6.0, -254.0, 0.0]


def test_two_bits_by_hand() -> None:
    # Mean square 1, border 0.98: 1.4 and -1.4 are outer ones (1.51), 0.2 and -0.2 inner ones (0.4528).
    # Scale: (2*1.4*1.51 + 2*0.2*0.4528) / (2*1.51^2 + 2*0.4528^2) = 4.40912 / 4.97026 = 0.88710
    vector = np.array([1.4, -0.2, 0.2, -1.4], np.float32)
    expected = [1.33952, -0.40168, 0.40168, -1.33952]
    np.testing.assert_allclose(there_and_back("int2", vector), expected, rtol=1e-4)


def test_sign_by_hand() -> None:
    vector = np.array([3.0, -1.0, 0.0, 4.0], np.float32)  # mean magnitude 2; zero counts as positive
    assert there_and_back("sign", vector).tolist() == [2.0, -2.0, 2.0, 2.0]


@given(vector=vectors, name=st.sampled_from(["top10", "top3", "top1"]))
def test_top_k_keeps_the_largest_and_of_equals_the_first(name: str, vector: Vector) -> None:
    share, values = {"top10": (0.10, "int8"), "top3": (0.03, "int4"), "top1": (0.01, "int8")}[name]
    kept = math.ceil(vector.size * share)
    order = sorted(range(vector.size), key=lambda place: (-abs(float(vector[place])), place))  # the slow twin
    places = sorted(order[:kept])
    expected = np.zeros(vector.size, np.float32)
    expected[places] = there_and_back(values, vector[places])
    assert there_and_back(name, vector).tolist() == expected.tolist()


def test_top_k_crosses_long_gaps() -> None:
    vector = np.zeros(2000, np.float32)
    vector[[0, 1, 257, 258, 769, 1999]] = [1, 2, 3, 4, 5, 6]  # gaps 0, 0, 255, 0, 510, 1229
    vector[300:314] = 0.5  # twenty are kept, one of a hundred
    back = there_and_back("top1", vector)
    assert np.flatnonzero(back).tolist() == [0, 1, 257, 258, *range(300, 314), 769, 1999]
    assert back[[257, 1999]].tolist() == pytest.approx([3, 6], abs=6 / 254)


def test_rank_2_gives_a_matrix_of_rank_2_back() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((20, 2)), rng.standard_normal((2, 30))
    matrix = (left @ right).astype(np.float32)
    subject = codec("rank2").for_tensors(((20, 5, 6),))
    data = subject.encode(matrix.reshape(-1))
    assert len(data) == 2 * 2 * (20 + 30)
    back = subject.decode(data, 600).reshape(20, 30)
    assert np.abs(back - matrix).max() < 0.01 * np.abs(matrix).max()  # the factors are rounded to 8 bits


def test_low_rank_captures_what_a_singular_value_decomposition_would() -> None:
    matrix = np.random.default_rng(2).standard_normal((30, 40)).astype(np.float32)
    matrix += 10 * np.outer(matrix[:, 0], matrix[0])
    best = np.linalg.svd(matrix)[1][4:]  # what no matrix of rank 4 can have
    subject = codec("rank4").for_tensors(((30, 40),))
    back = subject.decode(subject.encode(matrix.reshape(-1)), 1200).reshape(30, 40)
    assert np.linalg.norm(back - matrix) < 1.05 * np.linalg.norm(best)


def test_low_rank_leaves_a_matrix_alone_that_it_would_not_make_smaller() -> None:
    matrix = noise(12)
    subject = codec("rank4").for_tensors(((3, 4),))  # 4 * (3 + 4) > 12
    np.testing.assert_array_equal(subject.decode(subject.encode(matrix), 12), there_and_back("bfloat16", matrix))


@pytest.mark.parametrize("name", BIASED)
@given(vector=hn.arrays(np.float32, SIZE, elements=finite, fill=tame))
def test_what_a_biased_codec_loses_is_never_more_than_the_whole(name: str, vector: Vector) -> None:
    vector = np.clip(vector, -1e30, 1e30)  # beyond 1.3e36 elements are clipped
    vector[216:229] = 0  # what isn't a kernel is no matter of the biased codec
    subject = codec(name).for_tensors(SHAPES)
    back = subject.decode(subject.encode(vector), SIZE).astype(np.float64)
    lost = np.linalg.norm(back - vector.astype(np.float64))
    assert lost <= np.linalg.norm(vector.astype(np.float64)) * (1 + 1e-5)


@pytest.mark.parametrize("name", ["int8+stochastic", "int4+stochastic"])
def test_stochastic_rounding_is_right_on_average(name: str) -> None:
    most = {"int8+stochastic": 127.0, "int4+stochastic": 7.0}[name]
    vector = np.full(256 * 200, 2.25, np.float32)
    vector[::256] = most  # the step of every block is 1
    back = there_and_back(name, vector)
    assert set(back.tolist()) == {2.0, 3.0, most}
    quarter = (back == 3.0).sum() / (back != most).sum()
    assert quarter == pytest.approx(0.25, abs=0.01)  # of 51,000: five standard deviations


@pytest.mark.parametrize("name", CODECS)
def test_the_same_vector_gives_the_same_bytes(name: str) -> None:
    subject = codec(name).for_tensors(SHAPES)
    assert subject.encode(noise(SIZE)) == subject.encode(noise(SIZE).copy())


@pytest.mark.parametrize("name", LOSSY)
def test_a_large_statistic_does_not_drown_small_norms(name: str) -> None:
    vector = noise(SIZE) * np.float32(1e-3)
    vector[216:222], vector[222:228] = 1e-3, 500.0  # shifts of a norm, and of a running variance
    subject = codec(name).for_tensors(SHAPES)
    back = subject.decode(subject.encode(vector), SIZE)
    np.testing.assert_allclose(back[216:228], vector[216:228], rtol=2.0**-11)


@pytest.mark.parametrize("name", LOSSY)
def test_layer_without_kernels_goes_as_float16(name: str) -> None:
    vector = noise(12)
    subject = codec(name).for_tensors(((6,), (6,)))
    np.testing.assert_array_equal(subject.decode(subject.encode(vector), 12), there_and_back("float16", vector))


@pytest.mark.parametrize("name", LOSSY)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 255, 256, 257, 2047, 40_000])
def test_zeros_and_odd_sizes_come_back(name: str, size: int) -> None:
    subject = codec(name).for_tensors(((size, 1),))
    assert subject.decode(subject.encode(np.zeros(size, np.float32)), size).tolist() == [0.0] * size
    assert subject.decode(subject.encode(noise(size)), size).shape == (size,)


@pytest.mark.parametrize("name", CODECS)
def test_vector_that_is_a_slice_of_another_is_taken(name: str) -> None:
    vector = noise(2 * SIZE)
    subject = codec(name).for_tensors(SHAPES)
    assert subject.encode(vector[::2]) == subject.encode(vector[::2].copy())


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_no_layer_takes_more_than_the_bound(name: str, data: st.DataObject) -> None:
    vector = data.draw(hn.arrays(np.float32, SIZE, elements=finite, fill=tame))
    subject = codec(name).for_tensors(SHAPES)
    assert len(subject.encode(vector)) <= subject.most_bytes(SIZE)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("int8", 7.3), ("int4", 3.0), ("int2", 2.2), ("sign", 1.1), ("top10", 1.25), ("top3", 0.35), ("top1", 0.2)],
)
def test_bits_an_element(name: str, bits: float) -> None:
    assert 8 * len(codec(name).encode(noise(1 << 18))) / (1 << 18) < bits


# The bytes.

FOUR = np.array([2.0, -1.0, 0.0, 0.5], np.float32)


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("bfloat16", "004080bf0000003f"),
        ("int8", "04000000" "0402813c" "00" "7fc00020"),  # scale 2/127: 127, -63.5 to the even -64, 0, 31.75
        ("int4", "04000000" "2549923e" "00" "d7" "20"),  # scale 2/7: 7 and -3.5 (a bit less: -3), 0 and 1.75
        ("sign", "04000000" "0000603f" "00" "02"),  # scale 0.875; only the second is negative
        ("top10", "04000000" "02000000" "00" "00" "01000000" "0402813c" "00" "7f"),  # the first, 127/127 of 2
        ("top3", "04000000" "02000000" "00" "00" "01000000" "2549923e" "00" "07"),  # the first, 7/7 of 2
    ],
)  # fmt: skip
def test_golden_bytes_of_protocol_1(name: str, golden: str) -> None:
    assert codec(name).encode(FOUR).hex() == golden
    assert codec(name).decode(bytes.fromhex(golden), 4).shape == (4,)


def test_golden_bytes_of_two_bits_are_still_understood() -> None:
    # Scale 0.5; codes 2 (1.51), 1 (-0.4528), 0 (0.4528), 3 (-1.51), the first one lowest: 11 00 01 10
    back = codec("int2").decode(bytes.fromhex("040000000000003f00c6"), 4)
    assert back.tolist() == pytest.approx([0.755, -0.2264, 0.2264, -0.755])


def test_golden_bytes_of_low_rank_are_still_understood() -> None:
    # The columns of P are the first two unit vectors; those of Q are (2, 3, 0, 0, 0) and (0, 0, 4, 0, 0).
    p = "803f00000000803f" + "00000000" * 3
    q = "004000004040000000008040" + "00000000" * 2
    back = codec("rank2").for_tensors(((5, 5),)).decode(bytes.fromhex(p + q), 25)
    assert back.reshape(5, 5)[:2].tolist() == [[2, 3, 0, 0, 0], [0, 0, 4, 0, 0]]
    assert not back[10:].any()


def test_a_layers_bytes_are_the_fine_ones_then_the_kernels() -> None:
    vector = np.array([1.0, 0.5, 2.0, -1.0, 0.0, 0.5], np.float32)
    whole = codec("int8").for_tensors(((2,), (2, 2))).encode(vector)
    assert whole.hex() == "003c0038" + codec("int8").encode(FOUR).hex()


# Hostile bytes.


def refused_or_right(name: str, data: bytes) -> None:
    with suppress(DecodeError):  # anything else, a warning included, fails
        assert codec(name).for_tensors(SHAPES).decode(data, SIZE).shape == (SIZE,)


@pytest.mark.parametrize("name", LOSSY)
@settings(max_examples=2 * settings.default.max_examples)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_have_the_size(name: str, data: st.DataObject) -> None:
    whole = bytearray(codec(name).for_tensors(SHAPES).encode(noise(SIZE)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    refused_or_right(name, bytes(whole))
    refused_or_right(name, bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize("name", LOSSY)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_or_have_the_size(name: str, data: bytes) -> None:
    refused_or_right(name, data)


@pytest.mark.parametrize("name", LOSSY)
def test_truncated_or_lengthened_bytes_are_refused(name: str) -> None:
    subject = codec(name).for_tensors(SHAPES)
    whole = subject.encode(noise(SIZE))
    for length in range(0, len(whole), 7):
        with pytest.raises(DecodeError):
            subject.decode(whole[:length], SIZE)
    with pytest.raises(DecodeError):
        subject.decode(whole + b"\0", SIZE)


@pytest.mark.parametrize("name", ["int8", "int4", "int2", "sign", "top10", "top3"])
def test_huge_counts_are_refused(name: str) -> None:
    whole = codec(name).encode(noise(40))
    with pytest.raises(DecodeError, match="written for 4294967295 values"):
        codec(name).decode(b"\xff\xff\xff\xff" + whole[4:], 40)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, 3e38])
def test_scale_that_is_not_one_is_refused(scale: float) -> None:
    with pytest.raises(DecodeError, match="a scale is negative, too large, or not a number"):
        codec("int8").decode(struct.pack("<If", 2, scale) + b"\0\1\1", 2)


@pytest.mark.parametrize("kind", [b"\2", b"\xff"])
def test_codes_neither_stored_nor_squeezed_are_refused(kind: bytes) -> None:
    with pytest.raises(DecodeError, match="neither stored nor compressed"):
        codec("int8").decode(struct.pack("<If", 2, 1.0) + kind + b"\1\1", 2)


def test_compressed_bomb_is_refused_by_its_claim() -> None:
    bomb = Deflater().frame(bytes(100_000_000))
    with pytest.raises(DecodeError, match="claims 100000000 bytes decompressed, where at most 2"):
        codec("int8").decode(struct.pack("<If", 2, 1.0) + b"\1" + bomb, 2)


def test_compressed_frame_that_claims_nothing_is_refused() -> None:
    silent = bytes.fromhex("28b52ffd00581100000000")  # two zeros, as a stream
    with pytest.raises(DecodeError, match="does not say how long"):
        codec("int8").decode(struct.pack("<If", 2, 1.0) + b"\1" + silent, 2)


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        (bytes([0, 40]), "an element at 41, and there are 20 values"),
        (bytes([0]), "gaps to 1 elements, where 2 are sent"),
        (bytes([0, 0, 0]), "3 bytes, where at most 2 are possible"),
        (bytes([0, 255]), "gaps to 1 elements"),
    ],
)
def test_gaps_that_lead_nowhere_are_refused(gaps: bytes, message: str) -> None:
    values = codec("int8").encode(np.array([1, 2], np.float32))
    data = struct.pack("<II", 20, len(gaps) + 1) + b"\0" + gaps + values
    with pytest.raises(DecodeError, match=message):
        codec("top10").decode(data, 20)


def test_gaps_longer_than_the_message_are_refused() -> None:
    with pytest.raises(DecodeError, match="4294967295 bytes of gaps in 9"):
        codec("top10").decode(struct.pack("<II", 20, 2**32 - 1) + b"\0", 20)


@pytest.mark.parametrize("bad", ["807f", "c07f", "0043"])  # infinity, NaN, 128
def test_factor_that_can_not_be_is_refused(bad: str) -> None:
    data = bytes.fromhex(bad + "0000" * 19)
    with pytest.raises(DecodeError, match="a factor is too large, or holds NaN"):
        codec("rank2").for_tensors(((5, 5),)).decode(data, 25)


@pytest.mark.parametrize("name", LOSSY)
def test_vector_of_other_tensors_is_not_sent(name: str) -> None:
    with pytest.raises(ValueError, match="the tensors have 429 elements"):
        codec(name).for_tensors(SHAPES).encode(noise(428))
