"""Whether a board's checks pass a bundle: every graph of every memory plan, at the budget that it needs."""

from __future__ import annotations

from lamina.edge_agent.admission.bundles import check_graphs, check_task
from lamina.models.bundle import Bundle
from lamina.models.fitting import MemoryPlan, memory_plans
from lamina.models.manifest import FileEntry, SubModel


def admitted(bundle: Bundle) -> int:
    """How many memory plans were checked.

    Raises:
        ModelError: a board would refuse one.
    """
    manifest, count = bundle.manifest, 0
    for sub_model in manifest.sub_models:
        for engine in ("onnxruntime", *sub_model.of_engines):
            for plan in memory_plans(manifest, sub_model.on(engine)):
                constants = [] if manifest.constants is None else [manifest.constants]
                pieces = [piece.graph for piece in manifest.pieces_before(sub_model.cut)]
                graphs = [*constants, *step(sub_model.on(engine), plan), *pieces]
                for budget_mib in (None, plan.peak_mib):
                    check_task(manifest, plan.cut, lambda *_, graphs=graphs: graphs, budget_mib)  # type: ignore[misc]
                    samples = plan.micro_batch or manifest.batch_size
                    check_graphs(manifest, graphs, bundle.path, batch=samples, budget_mib=budget_mib)
                count += 1
    return count


def step(sub_model: SubModel, plan: MemoryPlan) -> list[FileEntry]:
    """The graphs of a step, in all forms."""
    forms = [sub_model, *map(sub_model.written, sub_model.forms)]
    if not plan.micro_batch:
        return [form.graph for form in forms]
    parts = [sub_model.recomputing] if plan.checkpoints else [form.accumulating for form in forms]
    return [graph for graph in (*parts, sub_model.updating) if graph is not None]
