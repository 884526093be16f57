"""Deployment: which model devices predict with, said by the coordinator, and what each device makes of it.

A model crosses as any file does (`lamina.broker.wire.files`), retained, by its SHA-256. What is said of it is one
retained message, an order: whom the model is for, and what all others predict with. A device answers with one retained
message of its own. So a device that comes late, and a coordinator that was killed, need nothing else.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from lamina.broker.wire.bounds import Bytes, Count, Devices, Digest, Epoch, Finite, Name, Numbers, Share, Text
from lamina.broker.wire.messages import Message


class Offer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that is deployed.

    Attributes:
        number: of the deployment, from 1 on; a later one has a larger number.
        model: SHA-256 of its ONNX file.
        model_bytes: length of that file.
        card: SHA-256 of its model card.
        card_bytes: length of that file.
        bundle: SHA-256 of the manifest of the bundle that it was trained from.
        round: rounds done when it was taken.
        run: the epoch in which its run began: a device's personal layers of the same run are joined in.
        personal: places of the personal tensors (`models.personal.numbered`).
        quantised: the element type of its weights, where that is not float32.
    """

    number: Count
    model: Digest
    model_bytes: Bytes
    card: Digest
    card_bytes: Bytes
    bundle: Digest
    round: Count
    run: Epoch = 0
    personal: Numbers = ()
    quantised: Name = ""


class Deployment(Message, frozen=True, kw_only=True, tag="deployment"):
    """Retained, an order: which model each device predicts with.

    Attributes:
        offer: for the canaries, or for everyone; ``None``: no model is deployed any more.
        base: for all others, while only the canaries have the offer; ``None``: they have no model.
        everyone: whether the offer is for everyone.
        canaries: devices that it is for, if it isn't.
        margin: by how much a device's score may be worse than with the model before (`models.judging.is_worse`).
    """

    offer: Offer | None = None
    base: Offer | None = None
    everyone: bool = False
    canaries: Devices = ()
    margin: Share = 0.0

    def offer_to(self, device: str) -> Offer | None:
        """The model that a device is to predict with."""
        return self.offer if self.everyone or device in self.canaries else self.base


class Deployed(Message, frozen=True, kw_only=True, tag="deployed"):
    """Retained, device to coordinator: what it made of an offer.

    Attributes:
        number: of the offer; 0: of none.
        verdict: ``taken``, or ``refused``: it predicts with the model before.
        reason: why, for a person.
        active: number of the model that it predicts with; 0: none.
        metric: by which the models were judged; empty: none was.
        score: of the offer on the device's own samples.
        before: score of the model before, where there was one.
        samples: how many samples they were judged on.
    """

    number: Count
    verdict: Literal["taken", "refused"]
    reason: Text = ""
    active: Count = 0
    metric: Name = ""
    score: Finite | None = None
    before: Finite | None = None
    samples: Count = 0
