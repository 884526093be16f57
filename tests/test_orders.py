"""Signed orders: what they bind, and what a board that was enrolled makes of others."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import numpy as np
import pytest
from nacl.signing import SigningKey

from lamina.broker.wire.deltas import digest_of
from lamina.broker.wire.messages import RoundPlan, Task, decode, encode
from lamina.broker.wire.orders import Mandate, envelope, is_signed, opened
from lamina.broker.wire.signatures import Checker, endorsed, public_key, public_pem, sealed, secret_key, secret_pem
from lamina.edge_agent.admission.orders import Marks, marked
from lamina.edge_agent.service.orders import ALLOWED, Orders
from lamina.edge_agent.settings import AgentSettings
from lamina.models.errors import ConfigError, DecodeError

OPERATOR, COORDINATOR, STRANGER = (SigningKey(bytes([seed]) * 32) for seed in (1, 2, 3))
BUNDLE = "ab" * 32
TOPIC = "lamina/v1/greenhouse/device/pi-3/task"
PLANS = "lamina/v1/greenhouse/round"
TASK = Task(epoch=7, accepted=True, reason="fits", manifest=BUNDLE)
PLAN = RoundPlan(epoch=7, round=3, cohort=("pi-3",), versions=(4,), digests=b"x" * 16)
NOW = 1_800_000_000


def mandate(**changes: object) -> Mandate:
    given: dict[str, object] = {
        "federation": "greenhouse", "key": bytes(COORDINATOR.verify_key), "manifests": (BUNDLE,),
        "issued": NOW * 10**6, "until": NOW + 86400,
    }  # fmt: skip
    return Mandate(**(given | changes))


def order(
    message: Task | RoundPlan = TASK, *, topic: str = TOPIC, sequence: int = 9, operator: SigningKey = OPERATOR,
    key: SigningKey = COORDINATOR, **changes: object,
) -> bytes:  # fmt: skip
    return sealed(key, *endorsed(operator, mandate(**changes)), topic=topic, sequence=sequence, order=message)


@pytest.fixture
def board(tmp_path: Path) -> AgentSettings:
    key = tmp_path / "operator.pub"
    key.write_text(public_pem(OPERATOR.verify_key))
    return AgentSettings(
        federation="greenhouse", device="pi-3", data="x.npz", folder=str(tmp_path / "agent"), operator_key_file=str(key)
    )


def orders(board: AgentSettings, now: float = NOW) -> Orders:
    return Orders(board, clock=lambda: now)


def test_a_signed_order_is_followed(board: AgentSettings) -> None:
    followed = orders(board)
    assert followed.task(TOPIC, order()) == TASK
    assert followed.plan(PLANS, order(PLAN, topic=PLANS)) == PLAN


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (encode(TASK), "not signed by the federation's operator"),
        (order(operator=STRANGER), "mandate is not signed by the federation's operator"),
        (order(key=STRANGER), "not that of the coordinator for whom the operator spoke"),
        (order(federation="orchard"), "mandate is for another federation"),
        (order(topic="lamina/v1/orchard/device/pi-3/task"), "not that of the coordinator"),
        (order(topic="lamina/v1/greenhouse/device/pi-4/task"), "not that of the coordinator"),
        (order(until=NOW - 1), "that is over"),
        (order(manifests=("cd" * 32,)), "the operator has not signed bundle abababababab"),
        (order(manifests=()), "the operator has not signed bundle"),
        (order()[:-1], "not a Signed"),
    ],
    ids=["unsigned", "operator", "coordinator", "federation", "elsewhere", "other-board", "over", "bundle", "none",
         "cut"],
)  # fmt: skip
def test_an_enrolled_board_follows_no_other(board: AgentSettings, payload: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        orders(board).task(TOPIC, payload)


def test_no_bit_of_a_signed_order_may_change(board: AgentSettings) -> None:
    payload = order()
    for index in range(len(payload)):
        changed = bytearray(payload)
        changed[index] ^= 1
        with pytest.raises(DecodeError):
            orders(board).task(TOPIC, bytes(changed))


def test_what_was_said_before_does_not_count_again_though_the_agent_was_restarted(board: AgentSettings) -> None:
    orders(board).task(TOPIC, order(sequence=9))
    again = orders(board)
    assert again.task(TOPIC, order(sequence=9)) == TASK  # the broker has kept it
    assert again.plan(PLANS, order(PLAN, topic=PLANS, sequence=4)) == PLAN  # numbers are compared within a kind
    for sequence in (8, 0):
        with pytest.raises(DecodeError, match="before the one that is followed"):
            again.task(TOPIC, order(sequence=sequence))


def test_a_new_mandate_ends_the_one_before_and_begins_its_own_numbers(board: AgentSettings) -> None:
    followed = orders(board)
    followed.task(TOPIC, order(sequence=2**62))  # whoever stole the coordinator's key
    assert followed.task(TOPIC, order(sequence=1, issued=NOW * 10**6 + 1)) == TASK
    with pytest.raises(DecodeError, match="replaced its mandate"):
        followed.task(TOPIC, order(sequence=2**62 + 1))


def test_a_forged_order_moves_no_mark(board: AgentSettings) -> None:
    followed = orders(board)
    with pytest.raises(DecodeError):
        followed.task(TOPIC, order(sequence=100, key=STRANGER))
    assert followed.task(TOPIC, order(sequence=1)) == TASK


def test_marks_never_go_back() -> None:
    marks = marked(Marks(), mandate(), "task", 3, NOW)
    assert marked(marks, mandate(), "task", 3, NOW) == marks
    assert marked(marks, mandate(), "plan", 1, NOW).sequences == {"task": 3, "plan": 1}


def test_damaged_marks_are_said_and_begun_anew(board: AgentSettings, caplog: pytest.LogCaptureFixture) -> None:
    orders(board).task(TOPIC, order())
    (Path(board.folder) / "orders").write_bytes(b"{")
    assert orders(board).task(TOPIC, order(sequence=1)) == TASK
    assert "can't be read" in caplog.text


def test_a_signed_plan_says_what_the_values_are(board: AgentSettings) -> None:
    plan = msgspec.structs.replace(PLAN, digests=msgspec.UNSET)
    with pytest.raises(DecodeError, match="without digests"):
        orders(board).plan(PLANS, order(plan, topic=PLANS))
    end = RoundPlan(state="finished", epoch=7, round=3)
    assert orders(board).plan(PLANS, order(end, topic=PLANS)) == end


def test_a_board_that_was_not_enrolled_takes_both(board: AgentSettings) -> None:
    laptop = msgspec.structs.replace(board, operator_key_file="")
    for payload in (encode(TASK), order(), order(operator=STRANGER)):
        assert orders(laptop).task(TOPIC, payload) == TASK


def test_a_pinned_board_waits_for_a_person(board: AgentSettings) -> None:
    pinned = orders(msgspec.structs.replace(board, bundles=("cd" * 32,)))
    assert pinned.allows("cd" * 32)
    assert not pinned.allows(BUNDLE)
    Path(board.folder).mkdir()
    (Path(board.folder) / ALLOWED).write_text(f"{BUNDLE}\n")
    assert pinned.allows(BUNDLE)
    assert orders(board).allows("ef" * 32)


def test_unsigned_messages_are_what_they_were() -> None:
    assert opened(encode(PLAN)) == encode(PLAN)
    assert not is_signed(encode(TASK))
    assert b"digests" not in encode(RoundPlan(epoch=1, round=1))


def test_an_order_in_its_envelope_is_the_same_bytes() -> None:
    assert decode(opened(order()), Task) == TASK
    assert envelope(order()).sequence == 9


def test_keys_are_pem_as_openssl_writes_it() -> None:
    assert bytes(secret_key(secret_pem(OPERATOR), "x")) == bytes(OPERATOR)
    assert public_key(public_pem(OPERATOR.verify_key), "x") == OPERATOR.verify_key
    rfc_8410 = (
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PUBLIC KEY-----\n"
    )
    assert bytes(public_key(rfc_8410, "x")).hex().startswith("19bf44096984cdfe8541bac167dc3b96")
    for text in ("", secret_pem(OPERATOR), rfc_8410.replace("MCow", "MCox"), rfc_8410.replace("MCow", "M?ow")):
        with pytest.raises(ConfigError, match="x: "):
            public_key(text, "x")


def test_the_digest_of_a_value_depends_on_every_bit_of_it() -> None:
    value = np.arange(5, dtype=np.float32)
    other = value.copy()
    other[4] = np.nextafter(other[4], 9, dtype=np.float32)
    assert len(digest_of(value)) == 16
    assert digest_of(value) != digest_of(other)


def test_a_checker_looks_at_a_mandate_once_and_at_a_forged_one_each_time() -> None:
    checker = Checker(OPERATOR.verify_key, "greenhouse")
    for _ in range(2):
        checker.check(TOPIC, order())
        with pytest.raises(DecodeError):
            checker.check(TOPIC, order(operator=STRANGER))


@pytest.mark.parametrize("text", [None, "nothing", "\xff"])
def test_a_key_file_that_holds_none_ends_the_agent_with_one_line(
    board: AgentSettings, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = Path(board.operator_key_file)
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match="operator_key_file"):
        orders(board)
