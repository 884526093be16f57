"""Judges a deployed model on a board's own samples, by the metric that its task is judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lamina.edge_agent.admission.graphs import check_graph
from lamina.edge_agent.training.onnx_runtime import whole_forward
from lamina.models.held_out import at_most
from lamina.models.judging import figures_of
from lamina.models.manifest import Manifest
from lamina.models.samples import LabelledSamples

MOST_SAMPLES = 2000
"""So many samples tell a difference of two hundredths; more would keep a round waiting."""

_BATCH = 32


@dataclass(frozen=True)
class Judge:
    """A board's samples, and what it takes to judge by them.

    Attributes:
        samples: the board's.
        metrics_graph: path of the bundle's graph of metrics; ``None`` where it has none.
        threads: processor cores that it may use.
        budget_mib: memory that may be taken; ``None``: any.
    """

    samples: LabelledSamples
    metrics_graph: Path | None
    threads: int
    budget_mib: float | None

    def score(self, model: Path, manifest: Manifest) -> float:
        """The figure by which the model's task judges; NaN where it is none.

        Raises:
            ModelError: the model may not be loaded, or can't be.
            DataError: the samples don't suit it.
        """
        spec, metrics = manifest.spec, manifest.metrics or None
        samples = at_most(self.samples.numbered_for(spec), MOST_SAMPLES)
        samples.check(spec)
        check_graph(model, batch=_BATCH, budget_mib=self.budget_mib)
        graph = None
        if metrics is not None and self.metrics_graph is not None:
            check_graph(self.metrics_graph, batch=_BATCH, budget_mib=self.budget_mib)
            graph = whole_forward(self.metrics_graph)
        figures = figures_of(
            whole_forward(model, threads=self.threads), metrics, graph, samples, spec, _BATCH, exported=True
        )
        return figures.get(manifest.judge, math.nan)

    @property
    def count(self) -> int:
        """How many samples a model is judged on."""
        return min(len(self.samples), MOST_SAMPLES)
