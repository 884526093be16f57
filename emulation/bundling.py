"""Finds the bundle of an experiment, or builds it in a process of its own.

Building needs torch and takes seconds; the emulation itself needs neither. So the bundle is kept in a folder named by
a digest of all that it depends on, and the next run of the same experiment finds it there.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from lamina import edge_agent, models
from lamina.emulation.experiment import Experiment
from lamina.emulation.report import versions
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.errors import BundleError, ModelError
from lamina.models.machine import module_command

_DIGITS = 16  # of the digest, in the folder's name


def bundle_for(experiment: Experiment, folder: Path, say: Callable[[str], None]) -> Bundle:
    """The experiment's bundle, from below ``folder``, built if it isn't there.

    Args:
        experiment: its model, batch size, optimiser and seed are what counts.
        folder: of the bundles.
        say: told of a build, which takes a while.

    Raises:
        ModelError: the model can't be built; the message is the builder's.
    """
    place = folder / bundle_key(experiment)
    try:
        return read_bundle(place)
    except BundleError:  # none there, or a damaged one
        say(f"building the bundle of {experiment.model} and measuring its sub-models (kept for the next run)")
        shutil.rmtree(place, ignore_errors=True)
    _build(experiment, place)
    return read_bundle(place)


def bundle_key(experiment: Experiment) -> str:
    """A digest of all that a bundle depends on: what is asked for, the code that builds it, and what that stands on."""
    digest = hashlib.sha256()
    asked = (experiment.model, experiment.batch_size, experiment.optimiser, experiment.seed)
    digest.update(msgspec.json.encode((asked, _flags(experiment), sorted(versions().items()))))
    for source in _sources(experiment.model):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def _flags(experiment: Experiment) -> list[str]:
    """What the training graphs must have besides the optimiser."""
    return [term.flag for term in experiment.local.terms]


def _sources(model: str) -> list[Path]:
    """Code that shapes a bundle or its measured peaks: two packages, and the operator's own file."""
    packages = [path for package in (models, edge_agent) for path in Path(package.__path__[0]).rglob("*.py")]
    own = Path(model.partition(",")[0].rpartition(":")[0])
    return [*sorted(packages), *([own] if own.is_file() else [])]


def _build(experiment: Experiment, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [*module_command("lamina.coordinator.cli"), "bundle", experiment.model, str(folder)]
    command += ["--batch-size", str(experiment.batch_size), "--optimiser", experiment.optimiser]
    command += ["--seed", str(experiment.seed), *_flags(experiment)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it left no message"]
        raise ModelError(words[-1].removeprefix("lamina: "))
