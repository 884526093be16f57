"""Tells whether a device with a given bundle can follow a plan, and what is wrong with the plan where it can not."""

from __future__ import annotations

from itertools import chain

from lamina.broker.wire.bounds import DIGEST_BYTES
from lamina.broker.wire.codecs import CODECS
from lamina.broker.wire.messages import RoundPlan
from lamina.models.manifest import Manifest

_MOST_VISITED = 1 << 23  # samples in a round: their order takes 8 bytes each
_ROOM_BYTES = 68 + 8 + 32  # the header of a chunk, that of a batch, and something to send


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
    if plan.chunk_bytes < (least := _least_chunk_bytes(manifest)):
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


def _least_chunk_bytes(manifest: Manifest) -> int:
    """Bytes of a message in which every layer's value has room for something beside its header."""
    return _ROOM_BYTES + max(sum(1 + 4 * len(shape) for shape in layer.shapes) for layer in manifest.spec.layers)
