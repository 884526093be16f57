"""Decides how a model reaches the devices: canaries first, then the rest, and back where too many refuse it.

    canary      the canaries have the offer, all others the model in force
                ──(all canaries have answered, or had time to, and not too many refused)──► everyone
                ──(too many refused; a canary that stays silent counts as one)────────────► back
    everyone    everybody has the offer
                ──(all who were there have answered, or had time to)──────────────────────► done
                ──(too many refused)──────────────────────────────────────────────────────► back
    done        the offer is in force; the model before it is kept for a way back
    back        the model before is in force again, for everyone

An operator may call a rollout back while it goes on, and afterwards go back to the model before, and to the one before
that. What is said to devices (`order`) follows from the state alone, so a coordinator that was killed says it again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from lamina.broker.wire.deployments import Deployed, Deployment, Offer
from lamina.models.errors import ConfigError

Stage = Literal["canary", "everyone", "done", "back"]

MOST_PAST = 3
"""Models before the one in force that are kept."""


class RolloutRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator chooses of a rollout.

    Attributes:
        margin: by how much a device's score may be worse than with the model before.
        most_refusals: share of the devices that may refuse before all go back, rounded down.
        wait_s: so long devices have to answer, in each of the two stages.
    """

    margin: float = 0.02
    most_refusals: float = 0.34
    wait_s: float = 600.0

    def too_many(self, refusals: int, devices: int) -> bool:
        """Whether so many refusals of so many devices are too many."""
        return refusals > int(self.most_refusals * devices)


class Rollout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model's way to the devices.

    Attributes:
        offer: the model.
        rules: the operator's.
        canaries: devices that get it first, ascending; empty: there are none.
        stage: how far it is.
        since_s: when this stage began, in seconds since 1970.
        awaited: devices of which an answer is awaited in this stage, ascending.
        answers: of devices that have answered, by name.
        reason: why it is at this stage, for a person.
    """

    offer: Offer
    rules: RolloutRules
    canaries: tuple[str, ...]
    stage: Stage
    since_s: float
    awaited: tuple[str, ...]
    answers: dict[str, Deployed] = {}
    reason: str = ""

    @property
    def settled(self) -> bool:
        """Whether it is over."""
        return self.stage in ("done", "back")

    @property
    def refusals(self) -> tuple[str, ...]:
        """Devices that refused it, ascending."""
        return tuple(sorted(name for name, answer in self.answers.items() if answer.verdict == "refused"))

    @property
    def silent(self) -> tuple[str, ...]:
        """Devices of which an answer is awaited."""
        return tuple(name for name in self.awaited if name not in self.answers)


class DeploymentState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is deployed in a federation, and what was.

    Attributes:
        last_number: of any deployment so far.
        in_force: the model that devices have, unless they refused it; ``None``: none.
        past: the models that were in force before, the newest last.
        rollout: the last one, over or not.
        published: files that the broker may keep: their SHA-256, and in how many chunks.
    """

    last_number: int = 0
    in_force: Offer | None = None
    past: tuple[Offer, ...] = ()
    rollout: Rollout | None = None
    published: dict[str, int] = {}

    @property
    def under_way(self) -> Rollout | None:
        """The rollout that is not over."""
        return None if self.rollout is None or self.rollout.settled else self.rollout

    @property
    def kept(self) -> tuple[Offer, ...]:
        """Models whose files must stay: those that devices may still be told to take."""
        rollout = [self.under_way.offer] if self.under_way else []
        return (*self.past, *([self.in_force] if self.in_force else []), *rollout)


def adopted(state: DeploymentState, said: Deployment, last_number: int) -> DeploymentState:
    """The state of a run's folder, with what devices were told by another one: a folder that is new knows nothing.

    Args:
        state: of the folder.
        said: what the broker keeps.
        last_number: the largest that devices have heard of; they would take a smaller one for a way back.
    """
    known = {offer.number for offer in state.kept}
    told = said.offer if said.everyone else said.base
    in_force = state.in_force
    if state.last_number == 0 and told is not None and told.number not in known:
        in_force = told
    last = max(state.last_number, last_number)
    return msgspec.structs.replace(state, in_force=in_force, last_number=last)


def begun(
    state: DeploymentState,
    offer: Offer,
    rules: RolloutRules,
    canaries: Sequence[str],
    here: Collection[str],
    now_s: float,
) -> DeploymentState:
    """The state as a rollout begins.

    Args:
        state: before it.
        offer: the model; its number is the next one.
        rules: the operator's.
        canaries: devices that get it first; empty: everybody gets it at once.
        here: devices that are there.
        now_s: seconds since 1970.

    Raises:
        ConfigError: another rollout is not over.
    """
    if state.under_way is not None:
        raise ConfigError(
            f"deployment {state.under_way.offer.number} is not over: `lamina deploy --resume` goes on with it, and "
            "`lamina deploy --undo` calls it back"
        )
    names = tuple(sorted(set(canaries)))
    stage: Stage = "canary" if names else "everyone"
    rollout = Rollout(offer, rules, names, stage, now_s, names or tuple(sorted(here)))
    return msgspec.structs.replace(state, last_number=offer.number, rollout=rollout)


def heard(state: DeploymentState, device: str, answer: Deployed) -> DeploymentState:
    """The state once a device has answered; what is not about the rollout changes nothing.

    A device that has not been offered the model yet has nothing to answer.
    """
    rollout = state.under_way
    if rollout is None or answer.number != rollout.offer.number:
        return state
    if rollout.stage == "canary" and device not in rollout.canaries:
        return state
    answers = {**rollout.answers, device: answer}
    return msgspec.structs.replace(state, rollout=msgspec.structs.replace(rollout, answers=answers))


def advanced(state: DeploymentState, here: Collection[str], now_s: float) -> DeploymentState:
    """The state as it follows from the answers and the time.

    Args:
        state: so far.
        here: devices that are there now.
        now_s: seconds since 1970.
    """
    rollout = state.under_way
    if rollout is None:
        return state
    late = now_s - rollout.since_s >= rollout.rules.wait_s
    if rollout.stage == "canary":
        return _after_canaries(state, rollout, here, now_s, late=late)
    devices = {*rollout.awaited, *rollout.answers}
    if rollout.rules.too_many(len(rollout.refusals), len(devices)):
        return _back(state, rollout, now_s, _refused(rollout, len(devices)))
    if rollout.silent and not late:
        return state
    silent = f", {len(rollout.silent)} have not answered yet" if rollout.silent else ""
    taken = len(rollout.answers) - len(rollout.refusals)
    return _done(state, rollout, now_s, f"{taken} of {len(devices)} devices took it{silent}")


def undone(state: DeploymentState, now_s: float) -> DeploymentState:
    """The state with the last deployment taken back: the one under way, or else the one in force.

    Raises:
        ConfigError: no model is deployed.
    """
    if state.under_way is not None:
        return _back(state, state.under_way, now_s, "the operator called it back")
    if state.in_force is None:
        raise ConfigError("no model is deployed, so nothing can be undone")
    before = state.past[-1] if state.past else None
    return msgspec.structs.replace(state, in_force=before, past=state.past[:-1])


def order(state: DeploymentState) -> Deployment:
    """What devices are told."""
    rollout = state.under_way
    if rollout is None:
        return Deployment(offer=state.in_force, everyone=True)
    if rollout.stage == "everyone":
        return Deployment(offer=rollout.offer, everyone=True, margin=rollout.rules.margin)
    return Deployment(offer=rollout.offer, base=state.in_force, canaries=rollout.canaries, margin=rollout.rules.margin)


def chosen_canaries(count: int, samples: Mapping[str, int]) -> tuple[str, ...]:
    """The devices that get a model first: those with the most samples judge it best.

    Args:
        count: how many.
        samples: of each device that is there.

    Raises:
        ConfigError: fewer devices are there.
    """
    if len(samples) < count:
        there = f"only {len(samples)} are there" if samples else "no device is there"
        raise ConfigError(f"--canary {count}: {there}; start the agents, or choose fewer")
    return tuple(sorted(sorted(samples, key=lambda name: (-samples[name], name))[:count]))


def _after_canaries(
    state: DeploymentState, rollout: Rollout, here: Collection[str], now_s: float, *, late: bool
) -> DeploymentState:
    refusals = len(rollout.refusals) + (len(rollout.silent) if late else 0)
    if rollout.rules.too_many(refusals, len(rollout.canaries)):
        silent = f"; {', '.join(rollout.silent)} did not answer" if late and rollout.silent else ""
        return _back(state, rollout, now_s, _refused(rollout, len(rollout.canaries)) + silent)
    if rollout.silent and not late:
        return state
    awaited = tuple(sorted({*here, *rollout.canaries}))
    reason = f"{len(rollout.answers) - len(rollout.refusals)} of {len(rollout.canaries)} canaries took it"
    everyone = msgspec.structs.replace(rollout, stage="everyone", since_s=now_s, awaited=awaited, reason=reason)
    return msgspec.structs.replace(state, rollout=everyone)


def _back(state: DeploymentState, rollout: Rollout, now_s: float, reason: str) -> DeploymentState:
    ended = msgspec.structs.replace(rollout, stage="back", since_s=now_s, reason=reason)
    return msgspec.structs.replace(state, rollout=ended)


def _done(state: DeploymentState, rollout: Rollout, now_s: float, reason: str) -> DeploymentState:
    ended = msgspec.structs.replace(rollout, stage="done", since_s=now_s, reason=reason)
    past = (*state.past, *([state.in_force] if state.in_force else []))[-MOST_PAST:]
    return msgspec.structs.replace(state, rollout=ended, in_force=rollout.offer, past=past)


def _refused(rollout: Rollout, devices: int) -> str:
    refusals = rollout.refusals
    said = next((rollout.answers[name].reason for name in refusals), "")
    return f"{len(refusals)} of {devices} devices refused it" + (f" ({refusals[0]}: {said})" if said else "")
