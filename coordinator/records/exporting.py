"""A model leaves the federation as ``.safetensors``, as ``.onnx``, which any ONNX runtime loads, and with a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.kept_model import as_trained, kept_spec
from lamina.coordinator.records.selecting import chosen_round
from lamina.coordinator.records.snapshot import Snapshot
from lamina.coordinator.settings import FederationSettings
from lamina.models.arrays import Vector
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.export import export_model
from lamina.models.model_card import ModelFacts
from lamina.models.storage.disk import DISK
from lamina.models.values import layer_tensors, write_values

_RESULTS = (
    "summary.json",
    *(f"{name}{suffix}" for name in ("model", "best") for suffix in (".safetensors", ".onnx", ".md")),
)
_ASIDE = ".aside"


def set_results_aside(folder: Path) -> None:
    """Give what a run wrote at its end other names: it has gone back since, and they would pass for its result."""
    found = [folder / name for name in _RESULTS if (folder / name).exists()]
    for path in found:
        DISK.rename(path, path.with_name(path.name + _ASIDE))
    if found:
        DISK.sync_folder(folder)


def export(
    bundle: Bundle, values: Sequence[Vector], folder: Path, name: str, facts: ModelFacts | None = None
) -> tuple[Path, Path]:
    """Write a model's files, each at once or not at all.

    Args:
        bundle: of the model.
        values: every layer's, (vector_size,).
        folder: for the files; it is made if need be.
        name: of the files, without the suffix.
        facts: of the federation; without them there is no model card.

    Returns:
        the paths of the values and of the graph.
    """
    spec = bundle.manifest.spec
    tensors = {  # without an algorithm's vectors
        tensor: value
        for layer, vector in enumerate(values)
        for tensor, value in layer_tensors(spec, layer, vector[: spec.layers[layer].vector_size]).items()
    }
    paths = folder / f"{name}.safetensors", folder / f"{name}.onnx"
    write_values(paths[0], bundle.state(tensors))
    export_model(bundle, tensors, paths[1], facts)
    return paths


def facts_of(snapshot: Snapshot, federation: str, metric: str, scores: Mapping[int, float]) -> ModelFacts:
    """What a model card says of a federation.

    Args:
        snapshot: of the model's round.
        federation: its name.
        metric: by which models are judged.
        scores: evaluations so far, by rounds done.
    """
    score = scores.get(snapshot.round)
    return ModelFacts(
        federation,
        snapshot.round,
        snapshot.manifest,
        {} if score is None else {metric: score},
        snapshot.intervals,
        snapshot.versions,
    )


def export_round(
    settings: FederationSettings, *, round_: int | None = None, best: bool = False, folder: Path | None = None
) -> tuple[tuple[Path, Path], str]:
    """Write a kept round's files; returns their paths, and which model it is.

    Raises:
        ConfigError: no such round is kept.
    """
    bundle, journal = as_trained(read_bundle(Path(settings.bundle)), settings), Journal(Path(settings.folder))
    spec, judge = kept_spec(bundle, settings), bundle.manifest.judge
    saved, scores, name = chosen_round(journal, bundle, spec, round_=round_, best=best)
    facts = facts_of(saved.snapshot, settings.federation, judge, scores)
    paths = export(bundle, saved.values, folder or Path(settings.folder), name, facts)
    score = scores.get(saved.snapshot.round)
    judged = "not evaluated" if score is None else f"{judge} {score:.4f}"
    return paths, f"after round {saved.snapshot.round}, {judged}"
