"""One engine in a comparison: a process of its own, which steps when it is told to.

A process each keeps memory apart, allows an engine an environment of its own, and lets all of them take turns. The
process is told its part on its command line, and then reads commands, one a line, and answers each with a JSON line:

    threads N   be ready for steps on N threads: the loss of the first step
    step        take a step: its seconds on the processor, and on the clock
    peak        MiB of resident memory: before there was a model, and the most so far above that
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lamina.edge_agent.training.engine import Engine
from lamina.edge_agent.training.memory import MIB, PeakMeter
from lamina.edge_agent.training.tuning import Tuned
from lamina.models.arrays import Vector
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.manifest import Piece
from lamina.models.values import flatten

Step = Callable[[], float]
WARM_UP_STEPS = 3
MICRO_BATCH = 8  # of the frozen input side, as in the agent


@dataclass(frozen=True)
class Part:
    """What a process is to run.

    Attributes:
        engine: ``ours``, ``onnxruntime-training``, ``torch``, ``torch-uncached`` (its frozen layers run at every step)
            or ``torch.compile``.
        source: the network.
        bundle: folder of its bundle.
        batch: file with its samples and their classes.
        cut: first layer that is trained.
    """

    engine: str
    source: str
    bundle: str
    batch: str
    cut: int


@dataclass(frozen=True)
class Seconds:
    """How long a step took.

    Attributes:
        cpu: on the processor, all threads together.
        clock: on the clock.
    """

    cpu: float
    clock: float


class Contender:
    """A process that takes steps when told to; leave the ``with`` block to end it.

    Args:
        part: what it runs.
        python: the interpreter, of the environment that has the engine.
        limit_s: time for an answer; after that, the process is ended.

    Raises:
        RuntimeError: from any call, when the process has ended.
    """

    def __init__(self, part: Part, python: str = sys.executable, limit_s: float = 300.0) -> None:
        self.part = part
        self._limit_s = limit_s
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
        environment.pop("OMP_NUM_THREADS", None)
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.contender", json.dumps(asdict(part))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Contender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def threads(self, number: int) -> float:
        """Get ready for so many threads: the loss of the first step."""
        return float(self._ask(f"threads {number}"))

    def step(self) -> Seconds:
        """Take one step."""
        return Seconds(**self._ask("step"))

    def peak_mib(self) -> tuple[float, float]:
        """Resident memory before there was a model, and the most above that."""
        idle, above = self._ask("peak")
        return idle, above

    def _ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watch = threading.Timer(self._limit_s, self._process.kill)
        watch.start()
        with suppress(BrokenPipeError):
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        late = watch.finished.is_set()
        watch.cancel()
        if not answer:
            why = f"did not answer {command!r} within {self._limit_s:.0f} s" if late else f"ended at {command!r}"
            raise RuntimeError(f"{self.part.engine} on {self.part.source} {why}")
        return json.loads(answer)


def _engine(part: Part) -> Engine:
    """The engine as the agent has it: it takes the way that it once found to be the fastest."""
    from lamina.edge_agent.training.onnx_runtime import OnnxRuntime

    engine = OnnxRuntime()
    folder = Path(part.batch).parent / "tuning"
    return Tuned(engine, folder, comparing=False) if part.engine == "ours" else engine


def _our_step(engine: Engine, bundle: Bundle, cut: int, x: Any, y: Any, threads: int) -> Step:
    """A step of the agent's own trainer, on the activations that the frozen pieces made before."""
    manifest = bundle.manifest
    for piece in manifest.pieces_before(cut):
        forward = engine.forward(bundle.path(piece.graph), _asked_for(bundle, piece), threads=threads)
        x = np.concatenate([forward(x[at : at + MICRO_BATCH]) for at in range(0, len(x), MICRO_BATCH)])
    trainer = engine.trainer(manifest, cut, bundle.path, threads=threads)
    parameters, statistics = flatten(manifest.spec, bundle.initial_values())
    trainer.parameters[:] = parameters[manifest.spec.parameter_offsets[cut] :]
    trainer.statistics[:] = statistics[manifest.spec.statistics_offsets[cut] :]
    hyperparameters = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
    return lambda: trainer.step(x, y, hyperparameters).loss


def _asked_for(bundle: Bundle, piece: Piece) -> dict[str, Vector]:
    """The values of a piece's graph."""
    values = bundle.initial_values()
    blocks = bundle.manifest.spec.blocks[piece.first_block : piece.stop_block]
    layers = bundle.manifest.spec.layers[blocks[0].first : blocks[-1].stop]
    return {tensor.name: values[tensor.name] for layer in layers for tensor in (*layer.parameters, *layer.statistics)}


def _made(part: Part) -> Callable[[int], Step]:
    """What makes a step for a number of threads; the engine is loaded when this returns."""
    with np.load(part.batch) as file:
        x, y = file["x"], file["y"]
    if part.engine in ("ours", "onnxruntime-training"):
        engine, bundle = _engine(part), read_bundle(Path(part.bundle))
        engine.warm_up()
        return lambda threads: _our_step(engine, bundle, part.cut, x, y, threads)
    import torch

    from benchmarks.torch_step import torch_step
    from lamina.models.definition import load_definition

    torch.ones(8, 8, requires_grad=True).matmul(torch.ones(8, 8)).sum().backward()  # type: ignore[no-untyped-call]
    definition, spec = load_definition(part.source), read_bundle(Path(part.bundle)).manifest.spec
    cached, compiled = part.engine != "torch-uncached", part.engine == "torch.compile"

    def make(threads: int) -> Step:
        torch.set_num_threads(threads)
        return torch_step(definition, spec, part.cut, x, y, cached=cached, compiled=compiled)

    return make


def _serve(part: Part) -> None:
    make = _made(part)
    meter = PeakMeter()
    step: Step = lambda: 0.0  # noqa: E731 - until there are threads
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        answer: object
        if command == "threads":
            step = make(int(argument))
            answer = step()
            for _ in range(WARM_UP_STEPS - 1):
                step()
        elif command == "step":
            cpu, clock = time.process_time(), time.perf_counter()
            step()
            answer = asdict(Seconds(time.process_time() - cpu, time.perf_counter() - clock))
        else:
            answer = [(meter.idle_bytes or 0) / MIB, meter.peak_mib()]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve(Part(**json.loads(sys.argv[1])))
