"""Makes a kept round's model ready for deployment: exported, quantised if that is asked for, and judged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lamina.broker.wire.deployments import Offer
from lamina.coordinator.records.deployments import NAME, DeploymentFiles
from lamina.coordinator.records.evaluate import Evaluator
from lamina.coordinator.records.exporting import export, facts_of
from lamina.coordinator.records.journal import Journal
from lamina.coordinator.records.kept_model import as_trained, kept_spec
from lamina.coordinator.records.quantising import quantised
from lamina.coordinator.records.selecting import chosen_round
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import MANIFEST_NAME, Bundle, digest_of, read_bundle
from lamina.models.errors import ConfigError
from lamina.models.personal import at_places, numbered, personal_tensors
from lamina.models.sources import load_samples
from lamina.models.storage.replace import replace_file

_BATCH = 64


@dataclass(frozen=True)
class Wish:
    """Which model an operator wants deployed.

    Attributes:
        round: after so many rounds; ``None``: the last one, or the best one.
        best: the best one by evaluation, of those that are kept.
        quantise: ``int8``, or empty.
        most_loss: by how much int8 may be worse on the operator's evaluation data.
    """

    round: int | None = None
    best: bool = False
    quantise: str = ""
    most_loss: float = 0.02


@dataclass(frozen=True)
class ReadyModel:
    """A model that is ready.

    Attributes:
        offer: what devices are told of it.
        said: lines for the operator.
    """

    offer: Offer
    said: tuple[str, ...]


def prepare(settings: FederationSettings, files: DeploymentFiles, number: int, wish: Wish) -> ReadyModel:
    """Write a model's files, and judge it where there are evaluation data.

    Raises:
        ConfigError: no such round is kept, or int8 loses too much.
    """
    bundle, journal = as_trained(read_bundle(Path(settings.bundle)), settings), Journal(Path(settings.folder))
    saved, scores, _ = chosen_round(journal, bundle, kept_spec(bundle, settings), round_=wish.round, best=wish.best)
    snapshot, place = saved.snapshot, files.place(number)
    manifest = bundle.manifest
    facts = facts_of(snapshot, settings.federation, manifest.judge, scores)
    _, model = export(bundle, saved.values, place, NAME, facts)
    model.with_suffix(".safetensors").unlink()  # it is in the run's state
    personal = numbered(manifest.spec, personal_tensors(manifest.spec, snapshot.patterns))
    said = [f"the model after round {snapshot.round}, {model.stat().st_size:,} bytes"]
    if wish.quantise:
        said.append(_quantise(settings, bundle, model, personal, wish.most_loss))
    replace_file(place / MANIFEST_NAME, (bundle.folder / MANIFEST_NAME).read_bytes())
    if manifest.metrics:
        replace_file(place / "metrics.onnx", bundle.path(manifest.metrics.graph).read_bytes())
    card = model.with_suffix(".md")
    offer = Offer(
        number=number,
        model=digest_of(model.read_bytes()),
        model_bytes=model.stat().st_size,
        card=digest_of(card.read_bytes()),
        card_bytes=card.stat().st_size,
        bundle=bundle.digest,
        round=snapshot.round,
        run=snapshot.run or snapshot.epoch,
        personal=personal,
        quantised=wish.quantise,
    )
    return ReadyModel(offer, tuple(said))


def _quantise(
    settings: FederationSettings, bundle: Bundle, model: Path, personal: tuple[int, ...], most_loss: float
) -> str:
    """Put int8 in the model's place, unless it loses too much; returns what came of it."""
    source = settings.evaluation.data
    if not source:
        raise ConfigError(
            "--quantise int8 is judged by evaluation.data, and calibrated by it: set it in federation.toml"
        )
    samples, manifest = load_samples(source), bundle.manifest
    evaluator = Evaluator(bundle, samples, _BATCH)
    before, bytes_before = evaluator.figures_of_file(model)[manifest.judge], model.stat().st_size
    way = quantised(model, samples, manifest.spec, at_places(manifest.spec, personal))
    after = evaluator.figures_of_file(model)[manifest.judge]
    loss = after - before if manifest.lower_is_better else before - after
    most = most_loss * abs(before) if manifest.lower_is_better else most_loss
    sizes = f"{model.stat().st_size:,} bytes after {bytes_before:,}"
    told = f"int8 ({way}): {manifest.judge} {after:.4f} after {before:.4f}, {sizes}"
    if loss > most:
        raise ConfigError(f"{told}: it loses more than {most:.4g}, so it is not deployed")
    with model.with_suffix(".md").open("a", encoding="utf-8") as card:
        card.write(f"\n## Quantisation\n\n{told}, on {len(samples)} samples of the operator's.\n")
    return told
