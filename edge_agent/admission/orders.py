"""Whether an order is the last word: a good signature says who spoke, and not that it was said now.

A broker, or whoever has recorded what it delivered, may say again what was good once. So a board marks how far it has
followed, and goes back behind no mark: not to a mandate that another one has replaced, and within a mandate not to an
order of a smaller sequence number. The same order may come again, as it does from a broker's memory.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from lamina.broker.wire.bounds import Digest
from lamina.broker.wire.orders import Mandate
from lamina.models.errors import DecodeError


class Marks(msgspec.Struct, frozen=True):
    """How far a board has followed a federation's orders.

    Attributes:
        issued: when the mandate of the last order was issued, as it says.
        sequences: of the last order of each kind within it.
    """

    issued: int = 0
    sequences: dict[str, int] = {}


def marked(marks: Marks, mandate: Mandate, kind: str, sequence: int, now_s: float) -> Marks:
    """The marks once an order is followed.

    Args:
        marks: before it.
        mandate: by which it was given.
        kind: of the order; orders of different kinds may come in any order.
        sequence: of the order.
        now_s: the board's clock, seconds since 1970.

    Raises:
        DecodeError: it must not be followed.
    """
    if now_s > mandate.until:
        raise DecodeError(f"the operator let the coordinator speak until {_time(mandate.until)}, and that is over")
    if mandate.issued < marks.issued:
        raise DecodeError(f"the operator has replaced its mandate, of {_time(mandate.issued // 10**6)}, since")
    sequences = marks.sequences if mandate.issued == marks.issued else {}
    if sequence < sequences.get(kind, 0):
        raise DecodeError("it was said before the one that is followed")
    return Marks(mandate.issued, {**sequences, kind: sequence})


def check_bundle(mandate: Mandate, manifest: Digest) -> None:
    """Refuse a bundle that the operator has not signed.

    Raises:
        DecodeError: it is none of the mandate's.
    """
    if manifest not in mandate.manifests:
        raise DecodeError(f"the operator has not signed bundle {manifest[:12]}")


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="minutes")
    except (ValueError, OverflowError, OSError):  # whatever an operator signed
        return f"second {seconds}"
