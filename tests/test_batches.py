"""Batches: what is put in comes out, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire import batches
from lamina.models.errors import DecodeError


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_messages_come_back_in_order(messages: list[bytes]) -> None:
    batch = batches.pack(messages)
    assert batches.unpack(batch) == messages
    assert len(batch) == batches.size(messages)


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), st.data())
def test_a_batch_that_is_cut_short_is_refused_or_holds_fewer_whole_messages(
    messages: list[bytes], data: st.DataObject
) -> None:
    batch = batches.pack(messages)
    kept = data.draw(st.integers(0, len(batch) - 1))
    try:
        left = batches.unpack(batch[:kept])
    except DecodeError:
        return
    assert left == messages[: len(left)]
    assert batches.size(left) == kept


@given(st.binary(max_size=200))
def test_noise_ends_in_a_decode_error_or_in_its_own_parts(noise: bytes) -> None:
    try:
        messages = batches.unpack(b"LAMB" + noise)
    except DecodeError:
        return
    assert batches.pack(messages) == b"LAMB" + noise


def test_the_layout_is_golden() -> None:
    assert batches.pack([b"ab", b""]).hex() == "4c414d42" + "02000000" + "6162" + "00000000"


def test_another_message_is_no_batch() -> None:
    with pytest.raises(DecodeError, match="not a batch"):
        batches.unpack(b"LAML....")
