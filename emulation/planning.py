"""Derives the devices of an experiment, and the memory of each, from its groups and the peaks of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.emulation.experiment import Experiment, Group, Tier
from lamina.models.fitting import SAVINGS, Saving, choose
from lamina.models.manifest import Manifest


@dataclass(frozen=True)
class PlannedDevice:
    """A device to be.

    Attributes:
        name: of the device.
        budget_mib: its memory for training.
        savings: what it may do to train more in it; nothing where a tier is to have its sub-model.
    """

    name: str
    budget_mib: float
    savings: tuple[Saving, ...] = SAVINGS


def plan_devices(experiment: Experiment, manifest: Manifest) -> list[PlannedDevice]:
    """Every device of the experiment's fleet, in order: ``strong-1``, ``strong-2``, ..."""
    digits = max(len(str(group.devices)) for group in experiment.fleet)
    return [
        PlannedDevice(
            f"{group.name}-{number:0{digits}}",
            _budget_mib(group, manifest),
            () if group.budget_mib is None else SAVINGS,
        )
        for group in experiment.fleet
        for number in range(1, group.devices + 1)
    ]


def admitted(devices: Sequence[PlannedDevice], manifest: Manifest) -> int:
    """How many of them the coordinator will not refuse for their memory."""
    return sum(choose(manifest, device.budget_mib, device.savings).plan is not None for device in devices)


def tier_budget_mib(tier: Tier, manifest: Manifest) -> float:
    """A budget that holds the sub-model of a tier and none above: halfway to the next larger measured peak.

    The largest sub-model has no next one: its budget is a quarter more than its peak. ``moderate`` is the middle of the
    cuts on offer, the smaller one where there is no middle.
    """
    offered = sorted(manifest.sub_models, key=lambda sub_model: sub_model.cut)
    place = {"strong": 0, "moderate": len(offered) // 2, "weak": len(offered) - 1}[tier]
    peak = offered[place].peak_mib
    larger = [sub_model.peak_mib for sub_model in offered[:place] if sub_model.peak_mib > peak]
    return (peak + min(larger)) / 2 if larger else max(1.25 * peak, 1.0)


def _budget_mib(group: Group, manifest: Manifest) -> float:
    return tier_budget_mib(group.tier, manifest) if group.budget_mib is None else group.budget_mib
