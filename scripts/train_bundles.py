"""Train every bundle in a folder with what a board has: train_bundles.py FOLDER. Fails where torch or onnx is there.

Each sub-model does a few steps, behind its frozen input side, as the agent's own learner does them; the loss on the
same samples must fall, whatever the network.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.learner import Learner
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.samples import LabelledSamples
from lamina.models.spec import ModelSpec
from lamina.models.values import flatten, layer_vector

BATCH, STEPS, ROUNDS = 16, 5, 3


def main(folder: Path) -> int:
    """Train them all; returns the exit status."""
    for heavy in ("torch", "onnx"):
        if importlib.util.find_spec(heavy) is not None:
            print(f"{heavy} can be imported: this is no board's environment", file=sys.stderr)
            return 1
    failed = 0
    for path in sorted(folder.iterdir()):
        bundle = read_bundle(path)
        for cut in bundle.manifest.spec.cuts:
            began = time.perf_counter()
            losses = trained(bundle, cut)
            fell = losses[-1] < losses[0]
            failed += not fell
            shown = " -> ".join(f"{loss:.3f}" for loss in losses)
            took = time.perf_counter() - began
            print(f"{path.name:<18} cut {cut:>2}: loss {shown}, {took:.1f} s{'' if fell else ': IT ROSE'}", flush=True)
    return 1 if failed else 0


def trained(bundle: Bundle, cut: int) -> list[float]:
    """The mean loss of each round."""
    spec = bundle.manifest.spec
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(Assignment(bundle.manifest, cut, bundle.path, samples(spec), Path(folder), OnnxRuntime()))
        values = flatten(spec, bundle.initial_values())
        for layer in range(len(spec.layers)):
            learner.take(layer, layer_vector(spec, layer, *values))
        losses = []
        for round_ in range(ROUNDS):
            given = bundle.manifest.hyperparameters | {"lr": 0.02}
            plan = RoundPlan(epoch=0, round=round_, local_steps=STEPS, batch_size=BATCH, hyperparameters=given)
            layers = tuple(range(len(spec.layers))) if round_ == 0 else ()
            outcome = learner.train(plan, "board", reset=layers, afresh=round_ == 0)
            assert outcome is not None
            losses.append(outcome.loss)
        learner.close()
    return losses


def samples(spec: ModelSpec) -> LabelledSamples:
    """One batch, so that every step sees the same samples."""
    rng = np.random.default_rng(0)
    shape = (BATCH, *spec.input_shape)
    x = rng.integers(0, 1000, shape) if spec.input_dtype == "int64" else rng.standard_normal(shape, np.float32)
    return LabelledSamples(x, rng.integers(0, spec.classes, BATCH))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
