"""Adds to an overview what lies beside a run: what is deployed, which rounds are kept, when certificates end."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lamina.coordinator.dashboard.overview import DeploymentView, Overview
from lamina.coordinator.deployment.rollout import DeploymentState
from lamina.coordinator.deployment.telling import STAGES, named
from lamina.coordinator.enrolment.expiry import ends
from lamina.coordinator.records.deployments import DeploymentFiles
from lamina.coordinator.records.store import Store
from lamina.models.errors import ConfigError


def with_what_lies_beside(overview: Overview, folder: Path, home: Path | None = None, notice: str = "") -> Overview:
    """The overview with more.

    Args:
        overview: of the run.
        folder: of the run.
        home: that ``lamina init`` made; ``None`` where none did.
        notice: what came of the last order that took its time.
    """
    until = ends(home) if home is not None else {}
    devices = tuple(
        msgspec.structs.replace(device, certificate_until=until.get(device.id)) for device in overview.devices
    )
    return msgspec.structs.replace(
        overview,
        devices=devices,
        deployment=_deployed(folder),
        kept=tuple(Store(folder).named()),
        notice=notice,
    )


def deployment_view(state: DeploymentState) -> DeploymentView:
    """What is deployed, for people."""
    rollout = state.rollout
    return DeploymentView(
        in_force=named(state.in_force) if state.in_force else "",
        rollout="" if rollout is None else f"deployment {rollout.offer.number} is {STAGES[rollout.stage]}",
        reason="" if rollout is None else rollout.reason,
        under_way=state.under_way is not None,
        answers={} if rollout is None else {
            name: f"{answer.verdict}: {answer.reason}" for name, answer in sorted(rollout.answers.items())
        },
        silent=() if rollout is None else rollout.silent,
    )  # fmt: skip


def _deployed(folder: Path) -> DeploymentView | None:
    try:
        state = DeploymentFiles(folder).state()
    except ConfigError:
        return None
    return deployment_view(state) if state.last_number else None
