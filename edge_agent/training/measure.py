"""Measures the memory that training a sub-model takes: the agent's own learner, on random samples, in a fresh process.

    python -m lamina.edge_agent.training.measure BUNDLE --cut 3

prints one JSON line, ``{"peak_mib": 12.3}``: the peak of resident memory above the idle agent, session and resident
vectors included, over two rounds in which the global values change in between, as they do in a federation.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import lamina.edge_agent.service.agent  # noqa: F401 - what an idle agent has loaded is not to be counted
from lamina.broker.wire.chunks import Joiner, pack, split
from lamina.broker.wire.messages import RoundPlan, Task
from lamina.edge_agent.service.learning import Decoded, Learning
from lamina.edge_agent.session.events import Progress, Train
from lamina.edge_agent.settings import AgentSettings
from lamina.edge_agent.training.random_inputs import random_inputs
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.errors import ConfigError, LaminaError
from lamina.models.fitting import MemoryPlan
from lamina.models.samples import LabelledSamples, inputs_of_rows
from lamina.models.spec import ModelSpec
from lamina.models.targets import drawn
from lamina.models.values import flatten, layer_vector

STEPS = 3  # a round; the arena has grown to its full size after one
CHUNK_BYTES = 256 * 1024
LINK_MIB = 4.0  # what a linked agent was seen to take beside: the link's buffers, messages on their way


def main(arguments: list[str] | None = None) -> int:
    """Print the measurement; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lamina.edge_agent.training.measure", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--cut", type=int, default=0, help="first layer that is trained (default: 0)")
    parser.add_argument("--batch-size", type=int, default=0, help="samples a step (default: the bundle's)")
    parser.add_argument("--micro-batch", type=int, default=0, help="samples at once (default: 0, a batch at once)")
    parser.add_argument("--recompute", action="store_true", help="with recomputation, in micro-batches")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        bundle = read_bundle(options.bundle)
        if options.cut not in bundle.manifest.spec.cuts:
            cuts = bundle.manifest.spec.cuts
            raise ConfigError(f"bundle {options.bundle}: its cuts are {cuts}, and {options.cut} is none of them")
        plan = MemoryPlan(options.cut, options.micro_batch, options.recompute)
        peak_mib = measure(bundle, plan, options.batch_size or bundle.manifest.batch_size, options.threads)
    except LaminaError as error:
        print(f"measure: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"peak_mib": round(peak_mib, 2)}))
    return 0


def measure(bundle: Bundle, plan: MemoryPlan, batch_size: int, threads: int = 1) -> float:
    """Peak in MiB of two rounds of training by one memory plan.

    Raises:
        ConfigError: this platform can't tell.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = AgentSettings(
            federation="measure", device="measured", data="random", folder=folder, threads=threads, tuning=False
        )
        data = _random_samples(bundle.manifest.spec, STEPS * batch_size)
        learning = Learning(settings, data)
        learning.fixed_plan = plan
        peak_mib = asyncio.run(_two_rounds(bundle, learning, plan.cut, batch_size))
    if peak_mib is None:
        raise ConfigError("the peak of a process's memory can't be told on this platform; build bundles on Linux")
    return peak_mib + LINK_MIB


async def _two_rounds(bundle: Bundle, learning: Learning, cut: int, batch_size: int) -> float | None:
    """Everything that an agent does in a round but to talk to the broker."""
    manifest = bundle.manifest
    published = _published(bundle)
    task = Task(epoch=0, accepted=True, reason="", cut=cut, manifest=bundle.digest)
    await learning.build(task, manifest, bundle.path)
    layers = range(len(manifest.spec.layers))
    for round_ in range(2):
        received = [bytearray(chunk) for chunk in published]  # all at once, as they come through the link
        joiner = Joiner(manifest.spec)
        for chunk in received:
            if (value := joiner.add(bytes(chunk), "coordinator")) is not None:
                [decoded] = await learning.decoded([value])
                assert isinstance(decoded, Decoded)
                learning.take(value.layer, decoded.vector)
        plan = RoundPlan(
            epoch=0,
            round=round_,
            local_steps=STEPS,
            batch_size=batch_size,
            hyperparameters=manifest.hyperparameters,
            versions=(round_,) * len(layers),
            codec="float16+zstd",
        )
        outcome = await learning.train(Train(plan, tuple(layers), afresh=round_ == 0))
        updates = [messages async for _, messages in learning.encoded_updates(plan, range(cut, len(layers)))]
        del received, updates
        if outcome is not None:
            await learning.save(Progress(0, bundle.digest, cut, plan, plan.versions, outcome))
    peak_mib = learning.peak_mib()
    await learning.close()
    return peak_mib


def _published(bundle: Bundle) -> list[bytes]:
    """The messages of every layer's initial value, as a coordinator publishes them."""
    spec = bundle.manifest.spec
    flat = flatten(spec, bundle.initial_values())
    chunks: list[bytes] = []
    for layer, layer_spec in enumerate(spec.layers):
        value = pack(
            "global",
            epoch=0,
            round=0,
            layer=layer,
            version=0,
            layer_spec=layer_spec,
            vector=layer_vector(spec, layer, *flat),
            codec="float32+zstd",
        )
        chunks += split(value, CHUNK_BYTES)
    return chunks


def _random_samples(spec: ModelSpec, count: int) -> LabelledSamples:
    rng = np.random.default_rng(0)
    return LabelledSamples(inputs_of_rows(random_inputs(spec, count, rng), spec), drawn(spec.wanted, count, rng))


if __name__ == "__main__":
    sys.exit(main())
