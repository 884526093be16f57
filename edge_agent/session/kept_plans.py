"""Tells whether a plan that the broker kept is the coordinator's present one, or from before the broker was killed.

A broker that is killed comes back with what it saved last, and a device may hear that before the coordinator is back.
A plan from before the one that a device follows counts only when the coordinator has said, since there was a link, that
it is at this round: it has gone back itself. Else its present plan is still to come, and what the device has is kept
until then.
"""

from __future__ import annotations

from lamina.broker.wire.messages import RoundPlan


def is_from_before(plan: RoundPlan, followed: RoundPlan | None, at_round: int | None) -> bool:
    """Whether a plan that the broker kept is older than the one that the device followed last.

    Args:
        plan: of the same epoch as ``followed``.
        followed: the plan that was followed last, if there was one.
        at_round: the round at which the coordinator says that it is, where it has said so on this link.
    """
    if followed is None or plan.epoch != followed.epoch:
        return False
    if plan.state == "finished":  # so many rounds were done, and it has been given more since: not just a judgement
        return plan.round <= followed.round and bool(plan.round < followed.round or followed.local_steps)
    return plan.round != at_round and (plan.round < followed.round or goes_back(plan, followed))


def goes_back(plan: RoundPlan, followed: RoundPlan) -> bool:
    """Whether the coordinator has resumed from before the plan that was followed last.

    Then a version is lower, or, where rounds have passed again meanwhile, as high and another value.
    """
    values = zip(plan.versions, plan.checks, followed.versions, followed.checks, strict=True)
    return any(new < old or (new == old and check != before) for new, check, old, before in values)
