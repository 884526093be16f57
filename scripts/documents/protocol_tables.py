"""Writes the tables of docs/protocol.md that follow from the code: the messages, the codecs, the topics."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lamina.broker.wire.codecs import CODECS, codec
from lamina.broker.wire.deployments import Deployed, Deployment, Offer
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
)
from lamina.broker.wire.orders import Mandate, Signed
from lamina.broker.wire.topics import Topics
from scripts.documents.structs import rows, summary

MESSAGES: tuple[type[Message], ...] = (
    CoordinatorStatus,
    Lease,
    Question,
    Kept,
    RoundPlan,
    DeviceStatus,
    DeviceProfile,
    Task,
    Request,
    Report,
    Signed,
    Mandate,
    Deployment,
    Deployed,
)
PARTS: tuple[type[msgspec.Struct], ...] = (Offer,)
"""What stands within a message."""


def kind_of(message: type[Message]) -> str:
    """What its field ``kind`` says."""
    return str(message.__struct_config__.tag)


def messages() -> str:
    """A table a message."""
    lines: list[str] = []
    for message in MESSAGES:
        lines += (f"### `{kind_of(message)}`", "", summary(message), "", *_table(message))
    for part in PARTS:
        lines += (f"### Table `{part.__name__}`", "", summary(part), "", *_table(part))
    return "\n".join(lines)


def _table(struct: type[msgspec.Struct]) -> Iterator[str]:
    yield "| field | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for row in rows(struct):
        if row.key != "v":
            default = row.default if row.default in ("", "left out") else f"`{row.default}`"
            kind, effect = row.kind.replace("|", "\\|"), row.effect.replace("|", "\\|")
            yield f"| `{row.key}` | {kind} | {default or 'must be there'} | {effect} |"
    yield ""


def codecs() -> str:
    """The names and ids of the codecs."""
    lines = ["| name | id | biased |", "| --- | --- | --- |"]
    for name in CODECS:
        subject = codec(name)
        lines.append(f"| `{name}` | {subject.wire_id} | {'yes' if subject.biased else 'no'} |")
    return "\n".join(lines)


def topics() -> str:
    """The topics, with what is said on each."""
    there = Topics("F")
    kinds = [
        (there.coordinator_status, "`coordinator`", "coordinator, as its will, too", "yes"),
        (there.lease, "`lease`", "coordinator", "yes"),
        (there.lease_question, "`question`", "coordinator", "no"),
        (there.kept, "`kept`", "coordinator, to itself", "yes"),
        (there.round, "`plan`, or in `signed`", "coordinator", "yes"),
        (there.deployment, "`deployment`, or in `signed`", "coordinator", "yes"),
        (there.advance(0).replace("/0", "/N"), "batch N of the last round's advance", "coordinator", "yes"),
        (there.layer_global("L", 0).replace("/0", "/N"), "chunk N of a layer's value", "coordinator", "yes"),
        (there.layer_update("L", "D"), "chunks of an update", "device", "no"),
        (there.layer_partial("L", "S"), "chunks of a partial", "aggregator", "no"),
        (there.bundle("SHA", 0).replace("/0", "/N"), "chunk N of a file", "coordinator", "yes"),
        (there.aggregator_status("S"), "`status`", "aggregator, as its will, too", "yes"),
        (there.device("D", "status"), "`status`", "device, as its will, too", "yes"),
        (there.device("D", "profile"), "`profile`", "device", "yes"),
        (there.device("D", "task"), "`task`, or in `signed`", "coordinator", "yes"),
        (there.device("D", "request"), "`request`", "device", "no"),
        (there.device("D", "report"), "`report`", "device", "no"),
        (there.device("D", "updates"), "batch of chunks of updates", "device", "no"),
        (there.device("D", "deployed"), "`deployed`", "device", "yes"),
    ]
    lines = ["| topic | payload | who publishes | retained |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| `{topic}` | {what} | {who} | {kept} |" for topic, what, who, kept in kinds)])
