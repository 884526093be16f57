"""Files in chunks: golden bytes, round trips in any order, and damage that never joins."""

from __future__ import annotations

import hashlib
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.chunks import FileJoiner, split_file
from lamina.models.errors import DecodeError
from tests.sealing import sealed_again


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_golden_file_chunk_of_protocol_1() -> None:
    first, second = split_file(b"abc", 28 + 2)
    assert first.hex() == "4c414d46" + "e796be8d" + "0100000000000000020000000300000000000000" + "6162"
    assert second.hex() == "4c414d46" + "56dd2996" + "0100000001000000020000000300000000000000" + "63"


@given(st.binary(max_size=500), st.integers(29, 200), st.randoms(use_true_random=False))
def test_file_joins_from_any_order_with_duplicates(content: bytes, chunk_bytes: int, rng: random.Random) -> None:
    payloads = split_file(content, chunk_bytes)
    assert max(len(payload) for payload in payloads) <= chunk_bytes
    rng.shuffle(payloads)
    joiner = FileJoiner(sha256(content), len(content))
    for payload in payloads[:-1]:
        assert joiner.add(payload) is None
        assert joiner.add(payload) is None
    assert joiner.add(payloads[-1]) == content


def test_chunks_of_an_earlier_cut_of_the_same_file_do_no_harm() -> None:
    content = bytes(range(100))
    old, new = split_file(content, 28 + 10), split_file(content, 28 + 50)
    joiner = FileJoiner(sha256(content), 100)
    assert [joiner.add(payload) for payload in (new[0], *old[2:], new[1])] == [None] * 9 + [content]


def test_a_file_is_not_held_in_more_than_four_cuts() -> None:
    content = bytes(100)
    joiner = FileJoiner(sha256(content), 100)
    for room in (10, 20, 30, 40):
        assert joiner.add(split_file(content, 28 + room)[0]) is None
    with pytest.raises(DecodeError, match="more than 4 ways"):
        joiner.add(split_file(content, 28 + 50)[0])


def test_file_of_another_digest_is_refused_and_can_be_fetched_again() -> None:
    joiner = FileJoiner(sha256(b"right"), 5)
    with pytest.raises(DecodeError, match="joined to one of SHA-256"):
        joiner.add(split_file(b"wrong", 100)[0])
    assert joiner.add(split_file(b"right", 100)[0]) == b"right"


def test_file_of_unknown_length_joins_up_to_16_mib() -> None:
    payloads = split_file(b"unknown", 28 + 4)
    joiner = FileJoiner(sha256(b"unknown"))
    assert [joiner.add(payload) for payload in payloads] == [None, b"unknown"]
    count = (16 << 20) // 4 + 1
    huge = sealed_again(payloads[0], 16, struct.pack("<IQ", count, 4 * count))  # chunks of 4 bytes each
    with pytest.raises(DecodeError, match="of a file of 16777220 bytes, where one of at most 16777216 is awaited"):
        FileJoiner(sha256(b"unknown")).add(huge)


def test_file_of_another_length_is_refused_by_its_first_chunk() -> None:
    with pytest.raises(DecodeError, match="of a file of 6 bytes, where one of 5 is awaited"):
        FileJoiner(sha256(b"right"), 5).add(split_file(b"longer", 100)[0])


@given(st.data())
def test_damaged_file_chunk_never_joins(data: st.DataObject) -> None:
    [payload] = split_file(b"content", 100)
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    damaged = bytearray(payload)
    damaged[bit // 8] ^= 1 << bit % 8
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    joiner = FileJoiner(sha256(b"content"), 7)
    for broken in (bytes(damaged), cut, payload + b"\0"):
        with pytest.raises(DecodeError):
            joiner.add(broken)


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (8, b"\x02", "of protocol 2"),
        (12, struct.pack("<I", 1), "chunk 1 of 1"),
        (16, struct.pack("<I", 2), "file chunk 0 of 2 has 7 bytes"),
        (20, struct.pack("<Q", 2**60), "file chunk 0 of 1 has 7 bytes"),
    ],
)
def test_well_sealed_nonsense_of_a_file_is_refused(offset: int, new: bytes, message: str) -> None:
    [payload] = split_file(b"content", 100)
    with pytest.raises(DecodeError, match=message):
        FileJoiner(sha256(b"content"), 7).add(sealed_again(payload, offset, new))
    with pytest.raises(DecodeError, match="file chunk of 8 bytes"):
        FileJoiner(sha256(b""), 0).add(sealed_again(payload[:8], 8, b""))


def test_file_chunk_without_room_is_not_sent() -> None:
    with pytest.raises(ValueError, match="a chunk of 28 bytes has no room for its header of 28"):
        split_file(b"x", 28)
