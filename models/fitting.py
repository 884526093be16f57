"""Chooses how a device trains within its memory: the largest sub-model that fits, by the fastest memory plan that fits.

The plans are tried in this order; the first whose peak fits the budget is taken:

    for each cut, from the whole network on            a larger sub-model before a faster plan
        a batch at once
        micro-batches, from half of a batch down       more time: one session a step more, smaller products
        the same with recomputation, from a batch down more time still: most of the forward pass twice

Micro-batches end at one sample; where there is a batch norm they end at eight, for it would learn from too few.

A device and its coordinator both ask here, with the same manifest, and so come to the same cut.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from lamina.models.manifest import Cost, GraphsOfEngine, Manifest, SubModel

Saving = Literal["micro_batches", "recomputation"]
SAVINGS: tuple[Saving, ...] = ("micro_batches", "recomputation")
"""What a device may do to train more in less memory, at the price of time."""

_LEAST_WITH_BATCH_NORM = 8
_MARGIN = 1.05  # predictions are this far below what is measured, at times
_WORTH_IT = 0.95  # of the memory without it: recomputation that saves less is not worth its time


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a sub-model is trained in a given memory: at once or in micro-batches, perhaps with checkpointing.

    Attributes:
        cut: first layer that is trained.
        micro_batch: samples in memory at once; 0: a batch at once.
        checkpoints: whether the forward pass is computed again for the backward pass, piece by piece.
        peak_mib: memory that it takes above the idle agent.
    """

    cut: int
    micro_batch: int = 0
    checkpoints: bool = False
    peak_mib: float = 0.0

    @property
    def text(self) -> str:
        """How, for a person."""
        how = f"in micro-batches of {self.micro_batch}" if self.micro_batch else "batches at once"
        return f"{how}, with recomputation" if self.checkpoints else how


@dataclass(frozen=True, slots=True)
class Choice:
    """What a device is to train, and how.

    Attributes:
        plan: ``None``: it can't take part.
        reason: why, for a person.
    """

    plan: MemoryPlan | None
    reason: str


def choose(manifest: Manifest, budget_mib: float, savings: Collection[str] = SAVINGS) -> Choice:
    """The first plan that fits, over all cuts.

    Args:
        manifest: of the bundle.
        budget_mib: what training may take above the idle agent.
        savings: those of ``SAVINGS`` that the device allows.

    Raises:
        ValueError: there is no sub-model at all.
    """
    offered = sorted(manifest.sub_models, key=lambda sub_model: sub_model.cut)
    if not offered:
        raise ValueError("there are no sub-models to choose from")
    too_large: MemoryPlan | None = None
    for sub_model in offered:
        for plan in memory_plans(manifest, sub_model, savings):
            if plan.peak_mib <= budget_mib:
                return Choice(plan, _why(plan, budget_mib, too_large))
            too_large = too_large if too_large and too_large.cut == plan.cut else plan
    smallest = min(
        (plan for each in offered for plan in memory_plans(manifest, each, savings)), key=lambda plan: plan.peak_mib
    )
    return Choice(
        None,
        f"a budget of {budget_mib:.1f} MiB is too small: the smallest sub-model (cut {smallest.cut}, {smallest.text}) "
        f"needs {smallest.peak_mib:.1f} MiB; raise the device's budget_mib, or build the bundle with a smaller batch "
        f"size or a later cut",
    )


def choose_plan(manifest: Manifest, cut: int, budget_mib: float, savings: Collection[str] = SAVINGS) -> Choice:
    """The first plan that fits to train from ``cut`` on; where none does, the one that takes the least, and why."""
    offered = list(memory_plans(manifest, manifest.sub_model(cut), savings))
    for plan in offered:
        if plan.peak_mib <= budget_mib:
            return Choice(plan, _why(plan, budget_mib, None if plan == offered[0] else offered[0]))
    least = min(offered, key=lambda plan: plan.peak_mib)
    return Choice(least, f"no way to train cut {cut} fits {budget_mib:.1f} MiB; {least.text} takes the least")


def with_forms_that_fit(manifest: Manifest, plan: MemoryPlan, budget_mib: float) -> Manifest:
    """The manifest without those forms of the plan's graphs that take more than the budget, as far as can be told.

    Args:
        manifest: of the bundle.
        plan: that was chosen for the budget.
        budget_mib: what training may take above the idle agent.
    """
    sub_model = manifest.sub_model(plan.cut)
    forms = {
        form: graphs
        for form, graphs in sub_model.forms.items()
        if _form_peak_mib(manifest, sub_model, graphs, plan) <= budget_mib
    }
    kept = msgspec.structs.replace(sub_model, forms=forms)
    sub_models = tuple(kept if each is sub_model else each for each in manifest.sub_models)
    return msgspec.structs.replace(manifest, sub_models=sub_models)


def _form_peak_mib(manifest: Manifest, sub_model: SubModel, graphs: GraphsOfEngine, plan: MemoryPlan) -> float:
    standard, other = (
        (sub_model.cost_in_parts, graphs.cost_in_parts) if plan.micro_batch else (sub_model.cost, graphs.cost)
    )
    if standard is None or other is None:
        return math.inf
    samples = plan.micro_batch or manifest.batch_size
    return plan.peak_mib * _MARGIN * max(1.0, other.peak_mib(samples) / standard.peak_mib(samples))


def memory_plans(manifest: Manifest, sub_model: SubModel, savings: Collection[str] = SAVINGS) -> Iterator[MemoryPlan]:
    """The plans to train one sub-model, in the order in which they are tried."""
    batch, predicted = manifest.batch_size, sub_model.cost
    measured = sub_model.peak_mib or (predicted.peak_mib(batch) if predicted else 0.0)
    yield MemoryPlan(sub_model.cut, peak_mib=measured)
    if predicted is None:
        return
    error = max(1.0, measured / predicted.peak_mib(batch)) * _MARGIN
    sizes = [batch >> halvings for halvings in range(batch.bit_length())]
    least = _LEAST_WITH_BATCH_NORM if any(layer.statistics for layer in manifest.spec.layers[sub_model.cut :]) else 1
    for cost, checkpoints, allowed in (
        (sub_model.cost_in_parts, False, "micro_batches" in savings),
        (sub_model.cost_recomputing, True, "recomputation" in savings),
    ):
        for size in sizes if cost and allowed else ():
            smaller = size < batch
            if size < min(least, batch) or (smaller and "micro_batches" not in savings):
                continue
            if _saves(sub_model, size) if checkpoints else smaller:
                yield _plan(sub_model.cut, size, checkpoints, cost, error)


def _saves(sub_model: SubModel, size: int) -> bool:
    """Whether recomputation is worth its time for so many samples at once: what is kept of a few is little."""
    without, with_it = sub_model.cost_in_parts, sub_model.cost_recomputing
    return without is None or with_it is None or with_it.peak_mib(size) <= _WORTH_IT * without.peak_mib(size)


def _plan(cut: int, size: int, checkpoints: bool, cost: Cost | None, error: float) -> MemoryPlan:
    assert cost is not None
    return MemoryPlan(cut, size, checkpoints, round(error * cost.peak_mib(size), 1))


def _why(plan: MemoryPlan, budget_mib: float, too_large: MemoryPlan | None) -> str:
    part = "the whole network" if plan.cut == 0 else f"layers from cut {plan.cut} on"
    how = "" if not (plan.micro_batch or plan.checkpoints) else f" {plan.text}"
    why = f"trains {part}{how}: {plan.peak_mib:.1f} MiB fits the budget of {budget_mib:.1f} MiB"
    if too_large is None:
        return why
    other = f"cut {too_large.cut}" if too_large.cut != plan.cut else "a batch at once"
    return f"{why}, and {other} would need {too_large.peak_mib:.1f} MiB"
