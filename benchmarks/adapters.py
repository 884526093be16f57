"""What training a part of a frozen network costs, against training all of it: adapters (LoRA), a head on a backbone.

    python -m benchmarks.adapters [--quick] [--json FILE]

The networks are those of `examples/`, with the values that they are drawn with. For each:

- ``bundle``: bytes of its files; the frozen tensors lie there once.
- ``round``: bytes of one device's updates of all layers, by the codecs that `lamina run` has by default.
- ``predicted``, ``measured``: peak memory of training a batch at once, above the idle agent.
- ``step``: processor time of a step, after the first round: then a backbone's activations are on the disk. The two take
  turns, so that the ratio says something on a busy machine; it is the median.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.peaks import measured_mib
from benchmarks.reporting import Figures, Row, main
from lamina.broker.wire.chunks import pack_all, split
from lamina.broker.wire.messages import RoundPlan
from lamina.coordinator.settings import Wire
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.learner import Learner
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition, load_definition
from lamina.models.fitting import MemoryPlan
from lamina.models.manifest import Manifest
from lamina.models.samples import LabelledSamples
from lamina.models.values import flatten, layer_vector

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("lora", "backbone")
BATCH, SAMPLES, STEPS = 32, 256, 8


class Costs(NamedTuple):
    """Of one network: bytes, MiB, and processor seconds of a step, a round each."""

    bundle_bytes: int
    round_bytes: int
    predicted_mib: float
    measured_mib: float
    step_s: list[float]


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """The figures and their table."""
    table: list[Row] = [("", "bundle, KiB", "round, KiB", "predicted, MiB", "measured, MiB", "step, ms")]
    figures: Figures = {}
    for name in NAMES:
        part, whole = compared(name, rounds=3 if quick else 15)
        for text, costs in ((name, part), (f"{name}, all trained", whole)):
            table.append(
                (
                    text,
                    f"{costs.bundle_bytes / 1024:.0f}",
                    f"{costs.round_bytes / 1024:.1f}",
                    f"{costs.predicted_mib:.1f}",
                    f"{costs.measured_mib:.1f}",
                    f"{1e3 * statistics.median(costs.step_s):.2f}",
                )
            )
        pairs = zip(part.step_s, whole.step_s, strict=True)
        figures |= {
            f"{name}_step_ratio": statistics.median(one / other for one, other in pairs),
            f"{name}_round_ratio": part.round_bytes / whole.round_bytes,
            f"{name}_bundle_ratio": part.bundle_bytes / whole.bundle_bytes,
            f"{name}_predicted_vs_measured": part.predicted_mib / part.measured_mib,
        }
    return figures, table


def compared(name: str, rounds: int) -> tuple[Costs, Costs]:
    """An example as it is, and with all of it trained."""
    with tempfile.TemporaryDirectory() as folder:
        bundles = [built(name, Path(folder) / str(trained), all_trained=trained) for trained in (False, True)]
        with learning(bundles[0]) as part, learning(bundles[1]) as whole:
            spent = [
                [
                    step_s(learner, bundle.manifest, round_)
                    for learner, bundle in zip((part, whole), bundles, strict=True)
                ]
                for round_ in range(rounds + 1)
            ][1:]
        one, other = (costs_of(bundle, [times[at] for times in spent]) for at, bundle in enumerate(bundles))
        return one, other


def built(name: str, folder: Path, *, all_trained: bool) -> Bundle:
    """The example's bundle."""
    definition: Definition = load_definition(f"{EXAMPLES / name / 'model.py'}:build")
    if all_trained:
        definition.module.requires_grad_(True)
    build_bundle(replace(definition, cuts=()), folder, batch_size=BATCH)
    return read_bundle(folder)


@contextmanager
def learning(bundle: Bundle) -> Iterator[Learner]:
    """A learner on drawn samples, which holds the initial values."""
    spec, rng = bundle.manifest.spec, np.random.default_rng(0)
    x = rng.random((SAMPLES, *spec.input_shape), np.float32)
    data = LabelledSamples(x, rng.integers(0, spec.classes, SAMPLES))
    learner = Learner(Assignment(bundle.manifest, 0, bundle.path, data, bundle.folder / "spill", OnnxRuntime()))
    flat = flatten(spec, bundle.initial_values())
    for layer in range(len(spec.layers)):
        learner.take(layer, layer_vector(spec, layer, *flat))
    yield learner
    learner.close()


def step_s(learner: Learner, manifest: Manifest, round_: int) -> float:
    """Processor seconds of a step in one round, which visits each sample."""
    plan = RoundPlan(
        epoch=0,
        round=round_,
        local_steps=STEPS,
        batch_size=BATCH,
        hyperparameters={**manifest.hyperparameters, "lr": 0.01},
    )
    layers = tuple(range(len(manifest.spec.layers))) if round_ == 0 else ()
    began = time.process_time()
    learner.train(plan, "board", reset=layers, afresh=round_ == 0)
    return (time.process_time() - began) / STEPS


def costs_of(bundle: Bundle, spent: list[float]) -> Costs:
    """All of a network's costs, the measured step given."""
    cost = bundle.manifest.sub_model(0).cost
    assert cost is not None
    predicted = cost.peak_mib(BATCH)
    files = [path for path in bundle.folder.iterdir() if path.is_file()]
    measured = measured_mib(bundle, MemoryPlan(0, peak_mib=predicted))
    return Costs(sum(path.stat().st_size for path in files), round_bytes(bundle), predicted, measured, spent)


def round_bytes(bundle: Bundle) -> int:
    """What a device sends in a round in which every layer is due."""
    specs, wire, rng = bundle.manifest.spec.layers, Wire(), np.random.default_rng(0)
    values = pack_all(
        "update",
        epoch=0,
        round=0,
        layers=range(len(specs)),
        versions=[0] * len(specs),
        layer_specs=specs,
        vectors=[rng.normal(scale=1e-3, size=layer.vector_size).astype(np.float32) for layer in specs],
        codecs=[wire.update_codec_of(layer.vector_size) for layer in specs],
        weight=1.0,
    )
    return sum(len(chunk) for value in values if not isinstance(value, ValueError) for chunk in split(value, 1 << 18))


if __name__ == "__main__":
    main("What does training a part of a frozen network cost, against all of it?", measure)
