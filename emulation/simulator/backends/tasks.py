"""Tasks and their results are small frozen values; the arrays stay where they are.

A task names all that its result depends on, so it does not matter who carries it out, when, or beside what.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lamina.emulation.simulator.rows import Row, Runs
from lamina.models.arrays import Indices
from lamina.models.metrics import ACCURACY, MetricSpec
from lamina.models.spec import ModelSpec


@dataclass(frozen=True)
class Variant:
    """What a device holds and trains of the network.

    Attributes:
        cut: index of the first layer that it trains.
        ratio: of its channels that it holds (see `lamina.emulation.simulator.research.width`); 1 for all.
    """

    cut: int = 0
    ratio: float = 1.0


@dataclass(frozen=True, eq=False)
class TaskSettings:
    """What all tasks of a run have in common.

    Attributes:
        model: where the network's definition comes from.
        spec: of the network.
        seed: of the run.
        batch_size: samples a step.
        momentum: of SGD.
        weight_decay: on kernels.
        mu: of FedProx's pull; 0 for none.
        augment: random crops and flips.
        variants: all that there are in the run.
        held: indices of the samples that each device holds, by its name.
        device: torch's name of where to compute.
        metrics: that the model is judged by; empty: accuracy alone.
        judge: name of that one by which the best model is chosen.
        lower_is_better: whether a lower one of these is the better one.
        personal: elements of a row that are a device's own.
    """

    model: str
    spec: ModelSpec
    seed: int
    batch_size: int
    momentum: float
    weight_decay: float
    mu: float
    augment: bool
    variants: tuple[Variant, ...]
    held: dict[str, Indices]
    device: str = "cpu"
    metrics: tuple[MetricSpec, ...] = ()
    judge: str = ACCURACY
    lower_is_better: bool = False
    personal: Runs = ()


@dataclass(frozen=True)
class TrainingTask:
    """Local steps of one device in one round, on its slot of the arrays.

    Attributes:
        slot: of the device.
        device: its name.
        variant: index into the common variants.
        round: 0-based.
        steps: tau'.
        lr: learning rate.
        takes: what it takes of the global state before it trains; the rest of its row is what its last round left.
        forgets: its momentum begins at 0.
        shift: what is added to each gradient, (row_size,); ``None``: nothing.
    """

    slot: int
    device: str
    variant: int
    round: int
    steps: int
    lr: float
    takes: Runs = ()
    forgets: bool = False
    shift: Row | None = field(default=None, compare=False)


@dataclass(frozen=True)
class EvaluationTask:
    """Evaluation of the global state on some of the held-out samples.

    Attributes:
        start: first sample.
        stop: after the last one.
        own: personal elements, (n,), in place of the global state's; ``None``: those of the global state.
    """

    start: int
    stop: int
    own: Row | None = field(default=None, compare=False)


RunTask = TrainingTask | EvaluationTask


@dataclass(frozen=True)
class TaskResult:
    """What a task came to.

    Attributes:
        loss: sum over the samples seen.
        right: samples that were classified rightly.
        samples: that were seen.
        sums: of the metrics, where there are others than accuracy.
        counts: theirs.
    """

    loss: float
    right: int
    samples: int
    sums: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    def __add__(self, other: TaskResult) -> TaskResult:
        sums, counts = (
            tuple(a + b for a, b in zip(mine, others, strict=True))
            for mine, others in ((self.sums, other.sums), (self.counts, other.counts))
        )
        return TaskResult(self.loss + other.loss, self.right + other.right, self.samples + other.samples, sums, counts)
