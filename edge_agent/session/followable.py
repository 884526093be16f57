"""Tells what a plan asks of a device, and whether one with a given bundle can follow it, or else what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import msgspec

from lamina.broker.wire.bounds import DIGEST_BYTES
from lamina.broker.wire.codecs import CODECS
from lamina.broker.wire.messages import RoundPlan
from lamina.broker.wire.packing import least_chunk_bytes
from lamina.models.manifest import Manifest

_MOST_VISITED = 1 << 23  # samples in a round: their order takes 8 bytes each


def fault_of(plan: RoundPlan, manifest: Manifest) -> str:
    """Why a device with this bundle can not follow the plan, for a person; empty if it can."""
    layers = len(manifest.spec.layers)
    if len(plan.versions) != layers:
        return f"it has {len(plan.versions)} versions, and the model {layers} layers"
    if len(plan.checks) != layers:
        return f"it has {len(plan.checks)} checks, and the model {layers} layers"
    if isinstance(plan.digests, bytes) and len(plan.digests) != DIGEST_BYTES * layers:
        return f"it has {len(plan.digests)} bytes of digests, and the model {layers} layers of {DIGEST_BYTES} each"
    if stray := [layer for layer in plan.due if not 0 <= layer < layers]:
        return f"layer {stray[0]} is due, and the model has {layers}"
    visited = plan.local_steps * plan.batch_size
    if plan.local_steps < _least_steps(plan) or plan.batch_size < 1 or visited > _MOST_VISITED:
        return f"it asks for {plan.local_steps} steps of {plan.batch_size} samples"
    if plan.chunk_bytes < (least := least_chunk_bytes(manifest.spec)):
        return f"it asks for messages of {plan.chunk_bytes} bytes, and this model's take {least} at least"
    others = (*plan.advanced, *chain.from_iterable(plan.unfolded.values()))
    if any(layer >= layers for layer in others):
        return f"it names layer {max(others)}, and the model has {layers}"
    if unknown := sorted(plan.hyperparameters.keys() - manifest.hyperparameters.keys()):
        return f"the training graphs have no hyperparameter {unknown[0]!r}"
    if fault := plan.work.fault:
        return fault
    for codec in (plan.codec, plan.small_codec or plan.codec, *plan.codecs.values()):
        if codec not in CODECS:
            return f"there is no codec {codec!r}"
    return ""


def _least_steps(plan: RoundPlan) -> int:
    """A plan that has devices judge needs no steps."""
    return 0 if plan.judges is True and not plan.due else 1


def work_of(plan: RoundPlan, device: str) -> RoundPlan:
    """What a plan asks of a device: two may differ in what they say of others, in what they offer, and so on."""
    mine = (device,) if device in plan.cohort else ()
    codecs = {name: codec for name, codec in plan.codecs.items() if name == device}
    steps = {device: plan.steps_of(device)} if mine else {}
    return msgspec.structs.replace(
        plan, cohort=mine, codecs=codecs, steps=steps, deadline_s=0.0, unfolded={}, advanced=(), norm_bounds=()
    )


def follows(plan: RoundPlan, done: RoundPlan, held: Sequence[int | None]) -> bool:
    """Whether a plan is the one right after the last that was done, in its cycle, and no layer has moved further.

    Args:
        plan: the present one.
        done: the one that was done last.
        held: the version of each layer's global value that the device holds.
    """
    if (plan.cycle, plan.round) != (done.cycle, done.round + 1):
        return False
    return all(
        version is not None and planned - version in (0, 1)
        for planned, version in zip(plan.versions, held, strict=True)
    )
