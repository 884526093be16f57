"""The rules that a layer can be aggregated by: ``mean``, and robust ones; `FOLDS` names them all.

A rule is begun for one layer and one round, is given updates in any order, and ends in an `Aggregate`:

    fold = rule("mean")(layer.vector_size, layer.size)
    fold.add("greenhouse-7", delta, weight=1.0)     # RejectedUpdate: log it, count it, carry on
    aggregate = fold.finish(base)

``mean`` folds in place: its memory does not grow with the number of devices. The robust rules collect.

A new rule is a class with the methods of `Fold`, and its line in `FOLDS`.
"""

from __future__ import annotations

from lamina.coordinator.folds.fold import Aggregate, Fold, FoldRule
from lamina.coordinator.folds.mean import LayerFold
from lamina.coordinator.folds.robust import ClippedMean, median, trimmed_mean
from lamina.models.errors import ConfigError, did_you_mean

__all__ = ["FOLDS", "Aggregate", "Fold", "FoldRule", "LayerFold", "rule"]

FOLDS: dict[str, FoldRule] = {
    "mean": LayerFold,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "clipped_mean": ClippedMean,
}
"""Rules by the name that ``aggregation.fold`` gives."""


def rule(name: str) -> FoldRule:
    """The rule of that name.

    Raises:
        ConfigError: there is none.
    """
    if name in FOLDS:
        return FOLDS[name]
    raise ConfigError(f"aggregation.fold: no rule {name!r}; {did_you_mean(name, sorted(FOLDS))}")
