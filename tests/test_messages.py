"""The small messages: round trips, golden bytes of protocol 1, and what is refused."""

from contextlib import suppress
from typing import get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.broker.wire.messages import (
    CoordinatorStatus,
    DeviceProfile,
    DeviceStatus,
    Message,
    Report,
    RoundPlan,
    Task,
    decode,
    encode,
)
from lamina.models.errors import DecodeError

KINDS = (CoordinatorStatus, RoundPlan, DeviceStatus, DeviceProfile, Task, Report)


def test_golden_bytes_of_protocol_1() -> None:
    assert encode(DeviceStatus(state="online")).hex() == "83a46b696e64a6737461747573a17601a57374617465a66f6e6c696e65"
    assert encode(Task(epoch=7, accepted=True, reason="fits", cut=3, manifest="ab")).hex() == (
        "87a46b696e64a47461736ba17601a565706f636807a86163636570746564c3"
        "a6726561736f6ea466697473a363757403a86d616e6966657374a26162"
    )


def test_golden_plan_of_protocol_1_is_still_understood() -> None:
    golden = (
        "de0010a46b696e64a4706c616ea17601a57374617465a8747261696e696e67a565706f636801a5726f756e6402a56379636c6500"
        "a6636f686f727491a161ab6c6f63616c5f737465707300aa62617463685f73697a6500af6879706572706172616d6574657273"
        "81a26c72cb3fe0000000000000a36475659100a876657273696f6e739105a5636f646563a7666c6f61743332a47365656400"
        "a9776569676874696e67a7756e69666f726daa646561646c696e655f73cb0000000000000000"
    )
    plan = RoundPlan(epoch=1, round=2, cohort=("a",), due=(0,), versions=(5,), hyperparameters={"lr": 0.5})
    assert decode(bytes.fromhex(golden), RoundPlan) == plan


FIELDS: dict[object, st.SearchStrategy[object]] = {
    int: st.integers(0, 2**63),
    float: st.floats(allow_nan=False),  # NaN is not equal to itself
    float | None: st.none() | st.floats(allow_nan=False),
    tuple[int, ...]: st.lists(st.integers(0, 2**32)).map(tuple),
    dict[str, tuple[int, ...]]: st.dictionaries(st.text(), st.lists(st.integers(0, 2**32)).map(tuple)),
    dict[str, float]: st.dictionaries(st.text(), st.floats(allow_nan=False)),
}


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name != "v"}
    return st.builds(kind, **{name: FIELDS.get(hint, st.from_type(hint)) for name, hint in hints.items()})


@given(st.sampled_from(KINDS).flatmap(messages))
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message), type(message)) == message


@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_refused(payload: bytes) -> None:
    for kind in KINDS:
        with suppress(DecodeError):  # any other error fails the test
            assert isinstance(decode(payload, kind), kind)


def test_another_version_is_refused() -> None:
    for other in (DeviceStatus(v=2, state="online"), {"kind": "status", "v": 2, "mood": "fine"}):
        with pytest.raises(DecodeError, match="DeviceStatus of protocol 2: this program speaks 1"):
            decode(msgspec.msgpack.encode(other), DeviceStatus)


def test_another_kind_is_refused() -> None:
    with pytest.raises(DecodeError, match="not a Task"):
        decode(encode(DeviceStatus(state="online")), Task)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "status", "v": 1, "state": "asleep"},
        {"kind": "status", "v": 1, "state": "online", "mood": "fine"},
        {"kind": "status", "v": 1},
    ],
)
def test_unknown_missing_or_wrong_field_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(DecodeError, match="not a DeviceStatus"):
        decode(msgspec.msgpack.encode(fields), DeviceStatus)
