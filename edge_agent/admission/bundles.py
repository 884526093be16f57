"""Whether a board may prepare what a task asks for: a cut that the bundle has, within the board's memory."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from lamina.edge_agent.admission.graphs import MIB, check_graph
from lamina.edge_agent.training.input_side import MICRO_BATCH
from lamina.models.errors import ModelError
from lamina.models.manifest import FileEntry, Manifest

_LEAST_MIB = 16.0  # whatever the budget


def check_task(
    manifest: Manifest, cut: int, graphs: Callable[[Manifest, int], Collection[FileEntry]], budget_mib: float | None
) -> None:
    """Refuse a task before anything is fetched for it.

    Args:
        manifest: of the bundle.
        cut: that the device is to train from.
        graphs: which files it would have to fetch.
        budget_mib: what training may take; ``None`` for no limit.

    Raises:
        ModelError: the bundle has no such cut, or its values or its files alone take more than the budget.
    """
    cuts = manifest.spec.cuts
    if cut not in cuts:
        raise ModelError(f"the coordinator asks to train from layer {cut}, and the bundle has the cuts {cuts[:20]}")
    if budget_mib is None:
        return
    most = max(budget_mib, _LEAST_MIB)
    largest = max(entry.size_bytes for entry in graphs(manifest, cut)) / MIB
    values = sum(4 * layer.vector_size for layer in manifest.spec.layers) / MIB
    for what, takes in (("a graph's file", largest), ("the model's values", values)):
        if takes > most:
            raise ModelError(
                f"{what} takes {takes:.0f} MiB, and the budget for all of training is {budget_mib:.1f} MiB"
            )


def check_graphs(
    manifest: Manifest,
    graphs: Collection[FileEntry],
    path: Callable[[FileEntry], Path],
    *,
    batch: int,
    budget_mib: float | None,
) -> None:
    """Refuse graphs that must not be loaded.

    Args:
        manifest: of the bundle.
        graphs: those that are to be loaded, and the file of frozen tensors that they read.
        path: where each lies.
        batch: samples that are trained at once.
        budget_mib: what training may take; ``None`` for no limit.

    Raises:
        ModelError: why one may not be loaded (`admission.graphs`).
    """
    forward = {piece.graph for piece in manifest.pieces} | {manifest.inference}
    forward |= {manifest.metrics.graph} if manifest.metrics else set()
    tensors = {
        tensor.name: tensor.shape for layer in manifest.spec.layers for tensor in (*layer.parameters, *layer.statistics)
    }
    for entry in dict.fromkeys(graphs):
        if entry == manifest.constants:
            continue  # it is no graph
        is_forward = entry in forward
        check_graph(
            path(entry),
            batch=MICRO_BATCH if is_forward else batch,
            budget_mib=budget_mib,
            given=tensors if is_forward else None,
            constants=manifest.constants,
        )
