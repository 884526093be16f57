"""The small messages: round trips, golden bytes of protocol 1, and what is refused."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import inspect

from lamina.broker.wire.deployments import Deployed, Deployment
from lamina.broker.wire.messages import (
    CoordinatorStatus,
    DeviceProfile,
    DeviceStatus,
    Kept,
    Lease,
    Message,
    Question,
    Report,
    Request,
    RoundPlan,
    Task,
    decode,
    encode,
)
from lamina.broker.wire.orders import Mandate, Signed
from lamina.models.errors import DecodeError

KINDS = (
    CoordinatorStatus, Lease, Question, RoundPlan, DeviceStatus, DeviceProfile, Task, Report, Request, Kept, Mandate,
    Signed, Deployment, Deployed,
)  # fmt: skip


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


def values(kind: inspect.Type) -> st.SearchStrategy[object]:
    """Anything that lies within the bounds that a field states."""
    match kind:
        case inspect.IntType(ge=least, le=most):
            return st.integers(least, most)
        case inspect.FloatType(ge=least, le=most):
            return st.floats(least, most, allow_nan=False)  # NaN is not equal to itself
        case inspect.StrType(pattern=str() as pattern):
            return st.from_regex(pattern, fullmatch=True)
        case inspect.StrType(max_length=most):
            return st.text(max_size=most)
        case inspect.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=min(most or 0, 99))
        case inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=9).map(tuple)
        case inspect.TupleType(item_types=items):
            return st.tuples(*map(values, items))
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(values(key), values(value), max_size=9)
        case inspect.UnionType(types=types):
            return st.one_of(*map(values, types))
        case inspect.LiteralType(values=words):
            return st.sampled_from(words)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values(field.type) for field in fields})
    raise AssertionError(f"no values of {kind}")


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return st.builds(kind, **{field.name: values(field.type) for field in described.fields if field.name != "v"})


def unbounded(kind: inspect.Type) -> bool:
    """Whether a field has room for something without end. A float of any value takes 8 bytes."""
    match kind:
        case inspect.IntType(ge=least, le=most):
            return least is None or most is None
        case inspect.StrType(max_length=most) | inspect.BytesType(max_length=most):
            return most is None
        case inspect.VarTupleType(item_type=item, max_length=most):
            return most is None or unbounded(item)
        case inspect.TupleType(item_types=items):
            return any(map(unbounded, items))
        case inspect.DictType(key_type=key, value_type=value, max_length=most):
            return most is None or unbounded(key) or unbounded(value)
        case inspect.UnionType(types=types):
            return any(map(unbounded, types))
        case inspect.StructType(fields=fields):
            return any(unbounded(field.type) for field in fields)
    return not isinstance(kind, inspect.FloatType | inspect.LiteralType | inspect.BoolType | inspect.NoneType)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_every_message_is_bounded(kind: type[Message]) -> None:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    assert [field.name for field in described.fields if field.name != "v" and unbounded(field.type)] == []


def test_every_kind_of_message_is_tried_here() -> None:
    assert set(KINDS) == set(Message.__subclasses__())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01"])
@pytest.mark.parametrize("depth", [40, 1000, 100_000])
def test_a_message_that_is_nested_deeply_is_refused(kind: type[Message], opening: bytes, depth: int) -> None:
    tag = kind.__struct_config__.tag
    for field in ("v", "unknown"):
        head = b"\x82\xa4kind" + msgspec.msgpack.encode(tag) + msgspec.msgpack.encode(field)
        with pytest.raises(DecodeError, match=f"not a {kind.__name__}"):
            decode(head + depth * opening + b"\xc0", kind)


def test_what_a_remote_sent_is_not_quoted_at_length() -> None:
    for fields in ({"state": 70_000 * "x"}, {"state": "online", 70_000 * "\n": 1}, {"state": 1_000_000 * [1]}):
        with pytest.raises(DecodeError) as raised:
            decode(msgspec.msgpack.encode({"kind": "status", "v": 1, **fields}), DeviceStatus)
        assert len(str(raised.value)) < 300
        assert "\n" not in str(raised.value)


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
