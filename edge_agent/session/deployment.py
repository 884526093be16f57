"""Decides what a device makes of a deployment: judge the offer, go back, or keep what it has. Pure.

A later model is judged, and taken if the device's own samples don't speak against it. An earlier one is a way back,
which the operator has chosen: it is taken as it is. What was refused once is refused again without another judgement.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from lamina.broker.wire.deployments import Deployed, Deployment, Offer

_MOST_REFUSED = 8


class ShelfState(msgspec.Struct, frozen=True):
    """The models that a device has.

    Attributes:
        active: the one that it predicts with; ``None``: none.
        before: the one that it predicted with before, kept for a way back.
        refused: its answers to offers that it refused, the newest last.
        answer: its last answer.
    """

    active: Offer | None = None
    before: Offer | None = None
    refused: tuple[Deployed, ...] = ()
    answer: Deployed | None = None

    @property
    def number(self) -> int:
        """Of the active model; 0: none."""
        return self.active.number if self.active else 0

    def taking(self, offer: Offer | None, answer: Deployed) -> ShelfState:
        """The state with another active model."""
        return msgspec.structs.replace(self, active=offer, before=self.active or self.before, answer=answer)

    def refusing(self, answer: Deployed) -> ShelfState:
        """The state with one more refusal."""
        refused = (*(one for one in self.refused if one.number != answer.number), answer)
        return msgspec.structs.replace(self, refused=refused[-_MOST_REFUSED:], answer=answer)


class Answer(msgspec.Struct, frozen=True):
    """Nothing is to be done but to say how things stand."""

    answer: Deployed


class Fetch(msgspec.Struct, frozen=True):
    """A model is to be taken: ``judge`` says whether it must prove itself against the active one."""

    offer: Offer
    judge: bool


class PutAway(msgspec.Struct, frozen=True):
    """No model is deployed any more."""


Step = Answer | Fetch | PutAway


def step_of(order: Deployment, device: str, shelf: ShelfState) -> Step:
    """What a device does about an order."""
    offer = order.offer_to(device)
    if offer is None:
        return PutAway() if shelf.active else Answer(Deployed(number=0, verdict="taken"))
    if shelf.active is not None and _same(offer, shelf.active):
        known = shelf.answer
        if known is not None and known.number == known.active == offer.number:
            return Answer(known)
        return Answer(Deployed(number=offer.number, verdict="taken", active=offer.number))
    for refusal in shelf.refused:
        if refusal.number == offer.number:
            return Answer(msgspec.structs.replace(refusal, active=shelf.number))
    return Fetch(offer, judge=offer.number > shelf.number)


def is_worse(score: float, before: float, margin: float, *, lower_is_better: bool) -> bool:
    """Whether a model's score is worse than that of the model before by more than a margin.

    Where higher is better, scores are shares, and the margin is a difference. Where lower is better, they are losses
    and errors of any unit, and the margin is relative to the score before. NaN is worse than anything.
    """
    if not math.isfinite(score):
        return True
    if not math.isfinite(before):
        return False
    if lower_is_better:
        return score > before + margin * abs(before)
    return score < before - margin


def verdict_on(
    offer: Offer, shelf: ShelfState, *, metric: str, score: float, before: float | None, samples: int, margin: float,
    lower_is_better: bool, judge: bool,
) -> Deployed:  # fmt: skip
    """The answer to an offer that was judged.

    Args:
        offer: it.
        shelf: before it.
        metric: by which it was judged.
        score: of the offer.
        before: score of the active model on the same samples; ``None`` without one.
        samples: how many.
        margin: the order's.
        lower_is_better: of the metric.
        judge: whether a worse one is refused; one that gives no numbers is refused in any case.
    """
    verdict: Literal["taken", "refused"] = "taken"
    reason = f"{metric} {score:.4g}"
    if before is not None:
        reason += f", before {before:.4g}"
    if not math.isfinite(score):
        verdict, reason = "refused", f"its {metric} on this board's samples is no number"
    elif judge and before is not None and is_worse(score, before, margin, lower_is_better=lower_is_better):
        verdict, reason = "refused", f"{reason}: worse by more than {margin:g}"
    return Deployed(
        number=offer.number,
        verdict=verdict,
        reason=f"{reason}, on {samples} samples",
        active=offer.number if verdict == "taken" else shelf.number,
        metric=metric,
        score=score if math.isfinite(score) else None,
        before=before if before is not None and math.isfinite(before) else None,
        samples=samples,
    )


def _same(offer: Offer, active: Offer) -> bool:
    return (offer.number, offer.model) == (active.number, active.model)
