"""Says for a person what is deployed. Pure."""

from __future__ import annotations

from lamina.broker.wire.deployments import Offer
from lamina.coordinator.deployment.rollout import DeploymentState, Rollout

STAGES = {"canary": "with its canaries", "everyone": "on its way to everyone", "done": "done", "back": "taken back"}


def told(state: DeploymentState) -> list[str]:
    """What is in force, and how the last rollout stands, in a few lines."""
    if state.in_force is None and state.rollout is None:
        return ["no model was ever deployed: lamina deploy federation.toml"]
    lines = [f"in force: {named(state.in_force)}"]
    if state.past:
        lines.append(f"before it: {named(state.past[-1])}; `lamina deploy federation.toml --undo` goes back to it")
    return [*lines, *(_of_rollout(state.rollout) if state.rollout else [])]


def named(offer: Offer | None) -> str:
    """A model by its deployment and its round."""
    if offer is None:
        return "no model"
    kind = f", {offer.quantised}" if offer.quantised else ""
    return f"deployment {offer.number}, the model after round {offer.round}{kind}"


def _of_rollout(rollout: Rollout) -> list[str]:
    reason = f": {rollout.reason}" if rollout.reason else ""
    lines = [f"deployment {rollout.offer.number} is {STAGES[rollout.stage]}{reason}"]
    lines += [f"  {name}: {answer.verdict}: {answer.reason}" for name, answer in sorted(rollout.answers.items())]
    if rollout.silent:
        lines.append(f"  not heard of: {', '.join(rollout.silent)}")
    return lines
