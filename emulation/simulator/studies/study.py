"""A study is one table or figure: several methods, each over several seeds, in one setting.

name = "fedlama"
question = "Does averaging each layer at its own pace keep the accuracy?"
seeds = [0, 1, 2]

[setting]
data = "digits"
training = { rounds = 60, local_steps = 10 }

[[method]]
label = "FedAvg, 10"
set = { training.lr = 0.05 }
paper = { accuracy = 81.66, c_percent = 100 }

[small]
setting = { fleet.strong = 32 }

A method's run has the study's ``setting``, changed by ``set``. At the small scale ``small.setting`` comes between the
two, and the method's own ``small`` last. The tables of a setting are those of `lamina.emulation.simulator.setting`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from lamina.broker.settings import convert, load_toml
from lamina.broker.wire.topics import check_name
from lamina.emulation.datasets import BUILT_IN
from lamina.emulation.simulator.setting import Setting
from lamina.models.errors import ConfigError, did_you_mean

Scale = Literal["full", "small"]
Tree = dict[str, Any]


class PaperFigures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the paper reports for a method, in percent."""

    accuracy: float | None = None
    c_percent: float | None = None


class StudyMethod(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of the table.

    Attributes:
        label: of the row.
        set: what it changes in the study's setting.
        small: what it changes besides at the small scale.
        paper: what is published for it.
        scales: at which it is run.
    """

    label: str
    set: Tree = {}
    small: Tree = {}
    paper: PaperFigures = PaperFigures()
    scales: tuple[Scale, ...] = ("full", "small")


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that the table should show.

    Attributes:
        method: label of the one that the claim is about.
        against: label of the other.
        least: by how many points of accuracy the first is to lie above the second; negative: at most so far below.
        c_percent: the first one's C is to lie below this.
        beyond_spread: the difference is to be larger than the standard deviation over the seeds of either method, and
            than its own.
        strong_percent: of the first one's devices, so many at most are to be strong; absent ones count as weak.
    """

    method: str
    against: str
    least: float = 0.0
    c_percent: float | None = None
    beyond_spread: bool = False
    strong_percent: float | None = None


class Small(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is different at the small scale."""

    seeds: tuple[int, ...] = (0,)
    setting: Tree = {}


class Study(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"methods": "method", "claims": "claim"}):
    """All of a study's file. Relative paths in it start at the file's own folder.

    Attributes:
        name: of the study, and of the folder that it leaves.
        question: that it answers.
        kind: ``accuracy``: runs, and what became of them; ``similarity``: of the layers' activations across devices,
            after the runs (`lamina.emulation.simulator.research.layer_similarity`).
        seeds: of the full scale.
        setting: of every run.
        methods: rows of the table.
        claims: what it should show.
        small: what is different at the small scale.
        source: the table or figure that it reproduces.
    """

    name: str
    question: str
    methods: tuple[StudyMethod, ...]
    kind: Literal["accuracy", "similarity"] = "accuracy"
    seeds: tuple[int, ...] = (0,)
    setting: Tree = {}
    claims: tuple[Claim, ...] = ()
    small: Small = Small()
    source: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "name")
        labels = [method.label for method in self.methods]
        if not labels or len(set(labels)) < len(labels):
            raise ConfigError("method: there must be one at least, and no two with the same label")
        if not self.seeds or not self.small.seeds:
            raise ConfigError("seeds: there must be one at least")
        for label in (label for claim in self.claims for label in (claim.method, claim.against)):
            if label not in labels:
                raise ConfigError(f"claim: there is no method {label!r}; there are {', '.join(map(repr, labels))}")


class Planned(msgspec.Struct, frozen=True):
    """A run to be.

    Attributes:
        label: of its method.
        seed: its seed.
        setting: of the run.
    """

    label: str
    seed: int
    setting: Setting


def read_study(path: Path) -> Study:
    """The study of a file.

    Raises:
        ConfigError: there is no such file, or something in it can't be.
    """
    study = load_toml(path, Study)
    here = path.parent
    small = msgspec.structs.replace(study.small, setting=_placed(study.small.setting, here))
    return msgspec.structs.replace(study, setting=_placed(study.setting, here), small=small)


def with_seeds(study: Study, seeds: tuple[int, ...]) -> Study:
    """The same study over other seeds, at either scale."""
    return msgspec.structs.replace(study, seeds=seeds, small=msgspec.structs.replace(study.small, seeds=seeds))


def with_methods(study: Study, labels: Sequence[str]) -> Study:
    """The study with these methods alone, and the claims that are about them.

    Raises:
        ConfigError: there is no method of that label.
    """
    known = [method.label for method in study.methods]
    for label in labels:
        if label not in known:
            raise ConfigError(f"study {study.name} has no method {label!r}; {did_you_mean(label, known)}")
    methods = tuple(method for method in study.methods if method.label in labels)
    claims = tuple(claim for claim in study.claims if {claim.method, claim.against} <= set(labels))
    return msgspec.structs.replace(study, methods=methods, claims=claims)


def plan(study: Study, scale: Scale, changes: Mapping[str, object] | None = None) -> list[Planned]:
    """Every run of a study, method by method.

    Args:
        study: to be run.
        scale: ``full`` or ``small``.
        changes: to every setting, by dotted key; they come last.

    Raises:
        ConfigError: a setting has a value that can't be.
    """
    planned = []
    for method in study.methods:
        if scale not in method.scales:
            continue
        layers = [study.setting, *([study.small.setting] if scale == "small" else []), method.set]
        layers += [method.small] if scale == "small" else []
        layers += [_nested(key, value) for key, value in (changes or {}).items()]
        tree: Tree = {}
        for layer in layers:
            tree = merged(tree, layer)
        for seed in study.small.seeds if scale == "small" else study.seeds:
            setting = convert({**tree, "seed": seed}, Setting, f"study {study.name}, method {method.label!r}")
            planned.append(Planned(method.label, seed, setting))
    return planned


def merged(tree: Tree, change: Mapping[str, Any]) -> Tree:
    """``tree`` with the values of ``change`` in the place of its own; tables are merged, not replaced."""
    result = dict(tree)
    for key, value in change.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


def _nested(key: str, value: object) -> Tree:
    """``training.lr`` and 0.1 to ``{"training": {"lr": 0.1}}``."""
    *tables, last = key.split(".")
    tree: Tree = {last: value}
    for table in reversed(tables):
        tree = {table: tree}
    return tree


def _placed(tree: Tree, here: Path) -> Tree:
    """Relative paths made to start where the command is run."""
    placed = dict(tree)
    data, model = placed.get("data"), placed.get("model")
    if isinstance(data, str) and data not in BUILT_IN:
        placed["data"] = str(here / data)
    if isinstance(data, dict) and "path" in data:
        placed["data"] = {**data, "path": str(here / str(data["path"]))}
    if isinstance(model, str) and ":" in model:
        placed["model"] = str(here / model)
    return placed
