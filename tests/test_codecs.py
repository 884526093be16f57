"""Codecs: exactness, golden bytes, and refusal of what isn't the vector that was asked for."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from lamina.broker.wire.codecs import CODECS, codec, codec_by_id
from lamina.broker.wire.codecs.frames import Deflater, inflate
from lamina.models.arrays import Vector
from lamina.models.errors import ConfigError, DecodeError

vectors = hn.arrays(
    np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
THREE = np.array([1.0, -2.0, 0.5], dtype=np.float32)


@pytest.mark.parametrize("name", ["float32", "float32+zstd"])
@given(vector=vectors)
def test_float32_comes_back_bit_by_bit(name: str, vector: Vector) -> None:
    back = codec(name).decode(codec(name).encode(vector), vector.size)
    assert back.dtype == np.float32
    assert back.tobytes() == vector.tobytes()  # the sign of zero too


@pytest.mark.parametrize("name", ["float16", "float16+zstd"])
@given(vector=vectors)
@example(vector=np.array([65504.0, 65519.9, 65520.0, 1e30, -1e30], dtype=np.float32))
def test_float16_is_the_nearest_half_within_its_range(name: str, vector: Vector) -> None:
    back = codec(name).decode(codec(name).encode(vector), vector.size)
    nearest = [float(np.float16(min(max(float(x), -65504.0), 65504.0))) for x in vector]
    assert back.tolist() == nearest


def test_float16_of_many_elements_is_what_numpy_makes_of_them() -> None:
    largest = int(np.float32(65504.0).view(np.int32))
    borders = np.arange(1 << 12, largest, 1 << 12)  # in the middle between two halves, or on one
    anywhere = np.random.default_rng(0).integers(0, largest, 100_000)
    bits = np.concatenate([borders - 1, borders, borders + 1, anywhere, [0, largest]]).astype(np.int32)
    vector = np.concatenate([bits.view(np.float32), -bits.view(np.float32)])
    with np.errstate(under="ignore"):
        assert codec("float16").encode(vector) == vector.astype("<f2").tobytes()


@given(vector=hn.arrays(np.float32, 50, elements=st.floats(2**-14, 65504.0, width=32)))
def test_float16_keeps_eleven_bits(vector: Vector) -> None:
    back = codec("float16").decode(codec("float16").encode(vector), 50)
    assert (np.abs(back - vector) <= vector * 2.0**-11).all()


def test_golden_bytes_of_protocol_1() -> None:
    assert codec("float32").encode(THREE).hex() == "0000803f000000c00000003f"
    assert codec("float16").encode(THREE).hex() == "003c00c00038"
    # A Zstandard frame may differ from version to version; its content may not. Planes: low bytes first.
    assert inflate(codec("float32+zstd").encode(THREE), 12, "").hex() == "000000" + "000000" + "800000" + "3fc03f"
    assert inflate(codec("float16+zstd").encode(THREE), 6, "").hex() == "000000" + "3cc038"


def test_wire_ids_are_fixed() -> None:
    assert {name: codec(name).wire_id for name in CODECS} == {
        "float32": 1,
        "float16": 2,
        "float32+zstd": 3,
        "float16+zstd": 4,
        "bfloat16": 5,
        "bfloat16+zstd": 6,
        "int8": 7,
        "int8+stochastic": 8,
        "int4": 9,
        "int4+stochastic": 10,
        "int2": 11,
        "sign": 12,
        "top10": 13,
        "top1": 14,
        "rank2": 15,
        "rank4": 16,
        "top3": 17,
    }
    for name in CODECS:
        assert codec_by_id(codec(name).wire_id).name == name


@pytest.mark.parametrize("name", CODECS)
@given(vector=vectors)
def test_no_vector_takes_more_than_the_bound(name: str, vector: Vector) -> None:
    assert len(codec(name).encode(vector)) <= codec(name).most_bytes(vector.size)


@pytest.mark.parametrize("name", CODECS)
def test_noise_takes_no_more_than_the_bound(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 2**31 - 2**24, 100_000, dtype=np.uint32).view(np.float32)
    assert len(codec(name).encode(noise)) <= codec(name).most_bytes(noise.size)


@pytest.mark.parametrize("name", CODECS)
def test_decoded_vector_can_be_written_to(name: str) -> None:
    back = codec(name).decode(codec(name).encode(THREE), 3)
    expected = [value + 1 for value in back.tolist()]
    back += 1
    assert back.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vector_that_is_not_finite_is_not_sent(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 2 values are NaN or infinite"):
        codec(name).encode(np.array([1.0, bad], dtype=np.float32))


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("wrong", [np.zeros(2), np.zeros((1, 2), np.float32), np.zeros(2, np.int32)])
def test_what_is_not_a_float32_vector_is_not_sent(name: str, wrong: Vector) -> None:
    with pytest.raises(ValueError, match="a codec takes float32"):
        codec(name).encode(wrong)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("size", [0, 2, 4, 10**12])
def test_another_size_is_refused_before_anything_is_allocated(name: str, size: int) -> None:
    with pytest.raises(DecodeError, match=f"{size} values take"):
        codec(name).decode(codec(name).encode(THREE), size)


@pytest.mark.parametrize("name", ["float32+zstd", "float16+zstd"])
def test_compressed_bomb_is_refused_by_its_claim(name: str) -> None:
    bomb = Deflater().frame(bytes(100_000_000))
    assert len(bomb) < 20_000
    with pytest.raises(DecodeError, match="claims 100000000 bytes decompressed"):
        codec(name).decode(bomb, 3)


def test_compressed_frame_that_claims_nothing_is_refused() -> None:
    silent = bytes.fromhex("28b52ffd005845000010000001001bc002")  # twelve zeros, as a stream
    with pytest.raises(DecodeError, match="3 values take 12"):
        codec("float32+zstd").decode(silent, 3)


@pytest.mark.parametrize("name", ["float32+zstd", "float16+zstd"])
@given(data=st.data())
def test_damaged_frame_is_refused_or_has_the_size(name: str, data: st.DataObject) -> None:
    whole = codec(name).encode(np.arange(40, dtype=np.float32))
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(whole)))])
    try:
        assert codec(name).decode(cut, 40).shape == (40,)
    except DecodeError as error:
        assert name in str(error)  # noqa: PT017 - either outcome is right


def test_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown codec 'flaot16'; did you mean 'float16'"):
        codec("flaot16")
    with pytest.raises(ConfigError, match="unknown codec 'gzip'; there are float32, float16"):
        codec("gzip")


def test_unknown_wire_id_is_a_remotes_error() -> None:
    with pytest.raises(DecodeError, match="unknown codec id 99"):
        codec_by_id(99)
