"""What a page or a command asks for with an order."""

from __future__ import annotations

import msgspec


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an order is about; each has a few of these.

    Attributes:
        device: its name.
        round: rounds done: of the model to be exported or deployed, or to be gone back to; ``None``: the last one.
        best: the best round by evaluation, of those that are kept.
        canary: how many devices get a model first, or their names, comma-separated; ``None``: two.
        quantise: ``int8``, or empty.
    """

    device: str = ""
    round: int | None = None
    best: bool = False
    canary: str | None = None
    quantise: str = ""
