"""Chooses one of the rounds that a run has kept: one by its number, the best by evaluation, or the last."""

from __future__ import annotations

from lamina.coordinator.records.commits import Saved
from lamina.coordinator.records.evaluations import Evaluations
from lamina.coordinator.records.journal import Journal
from lamina.models.bundle import Bundle
from lamina.models.errors import ConfigError
from lamina.models.spec import ModelSpec

_ATTEMPTS = 5
"""A run that goes on may remove the newest generation that was just seen, if it is read so slowly."""


def chosen_round(
    journal: Journal, bundle: Bundle, spec: ModelSpec, *, round_: int | None = None, best: bool = False
) -> tuple[Saved, dict[int, float], str]:
    """A kept round, the evaluations so far by rounds done, and what its files are called.

    Args:
        journal: of the run.
        bundle: that it trains, as trained.
        spec: of its commits.
        round_: after so many rounds; ``None``: the last one.
        best: the best one by evaluation, of those that are kept.

    Raises:
        ConfigError: there is no such round, or the run is of another bundle.
    """
    manifest = bundle.manifest
    scores = journal.history.past().scores(manifest.judge)
    if best:
        saved, name = journal.store.at(_best(journal, scores, lower_is_better=manifest.lower_is_better), spec), "best"
    elif round_ is not None:
        saved, name = journal.store.at(round_, spec), f"round-{round_}"
    else:
        saved, name = _last(journal, spec), "model"
    if saved.snapshot.manifest != bundle.digest:
        raise ConfigError(f"the state that is kept is of another bundle than {bundle.folder}")
    return saved, scores, name


def _best(journal: Journal, scores: dict[int, float], *, lower_is_better: bool) -> int:
    kept = {rounds: scores[rounds] for rounds in journal.store.generations() if rounds in scores}
    best = Evaluations(kept, lower_is_better=lower_is_better).best
    if best is None:
        raise ConfigError("no kept round was evaluated: set evaluation.data, or export another one with --round")
    return best[0]


def _last(journal: Journal, spec: ModelSpec) -> Saved:
    for attempt in range(_ATTEMPTS):
        kept = journal.store.generations()
        if not kept:
            raise ConfigError("no round is committed yet: `lamina run` trains")
        try:
            return journal.store.at(kept[0], spec)
        except ConfigError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError
