"""``lamina export federation.toml``: write the model of a kept round, at any time, also while ``lamina run`` trains."""

from __future__ import annotations

import argparse
from pathlib import Path

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.records.commits import Saved
from lamina.coordinator.records.evaluations import Evaluations
from lamina.coordinator.records.exporting import export, facts_of
from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.kept_model import as_trained, kept_spec
from lamina.models.bundle import read_bundle
from lamina.models.errors import ConfigError
from lamina.models.spec import ModelSpec

HELP = "write the model of a round that is kept, also while training goes on"

_ATTEMPTS = 5
"""A run that goes on may remove the newest generation that was just seen, if it is read so slowly."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", type=Path, help="federation.toml")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--round", type=int, metavar="N", help="after so many rounds; without it, the last one")
    which.add_argument("--best", action="store_true", help="the best one by evaluation, of those that are kept")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for the files; without it, the federation's folder")


def run(options: argparse.Namespace) -> int:
    """Write ``model``, ``best`` or ``round-N``, as safetensors and ONNX, with a model card."""
    settings = load_federation(options.config)
    bundle, journal = as_trained(read_bundle(Path(settings.bundle)), settings), Journal(Path(settings.folder))
    spec = kept_spec(bundle, settings)
    accuracies = journal.history.past().accuracies
    if options.best:
        best = _best(journal, accuracies)
        saved, name = journal.store.at(best, spec), "best"
    elif options.round is not None:
        saved, name = journal.store.at(options.round, spec), f"round-{options.round}"
    else:
        saved, name = _last(journal, spec), "model"
    if saved.snapshot.manifest != bundle.digest:
        raise ConfigError(f"the state in {settings.folder} is of another bundle than {settings.bundle}")
    facts = facts_of(saved.snapshot, settings.federation, "accuracy", accuracies)
    paths = export(bundle, saved.values, options.out or Path(settings.folder), name, facts)
    accuracy = accuracies.get(saved.snapshot.round)
    judged = "not evaluated" if accuracy is None else f"accuracy {accuracy:.4f}"
    print(f"after round {saved.snapshot.round}, {judged}: {' and '.join(map(str, paths))}")
    return 0


def _best(journal: Journal, accuracies: dict[int, float]) -> int:
    kept = {rounds: accuracies[rounds] for rounds in journal.store.generations() if rounds in accuracies}
    best = Evaluations(kept).best
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
