"""One simulated run: everything that its result depends on, as frozen values.

The tables ``training``, ``cohorts``, ``aggregation`` and ``evaluation`` are those of ``federation.toml``
(`lamina.coordinator.settings`), ``partition`` is that of an emulation.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from lamina.coordinator.settings import Aggregation, Cohorts, Evaluation, Local, Method, Training
from lamina.emulation.experiment import Partition, Tier
from lamina.emulation.simulator.holdout import Holdout
from lamina.models.errors import ConfigError, require
from lamina.models.readers.settings import Source

_LR = 0.1  # where the setting has none
TIERS: tuple[Tier, ...] = ("strong", "moderate", "weak")


class TierCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many devices there are of each size. The first in order are the strong ones.

    Attributes:
        strong: train the whole network.
        moderate: train the middle one of the sub-models on offer.
        weak: train the smallest.
        absent: hold data, and do not take part: too small for what is asked of them.
    """

    strong: int = 32
    moderate: int = 0
    weak: int = 0
    absent: int = 0

    def __post_init__(self) -> None:
        require(min(self.strong, self.moderate, self.weak, self.absent) >= 0, "fleet: numbers can't be negative")
        require(self.present > 0, "fleet: there must be at least one device")

    @property
    def present(self) -> int:
        """Devices that take part."""
        return self.strong + self.moderate + self.weak

    @property
    def holders(self) -> int:
        """Devices that the training set is divided over."""
        return self.present + self.absent

    @property
    def tiers(self) -> tuple[Tier, ...]:
        """The tier of every present device."""
        counts = (self.strong, self.moderate, self.weak)
        return tuple(tier for tier, count in zip(TIERS, counts, strict=True) for _ in range(count))


class SimulatedLocal(Local, frozen=True, forbid_unknown_fields=True):
    """What a device does besides plain SGD. Momentum and weight decay are ``training.hyperparameters``.

    Attributes:
        momentum_of: whose the momentum is: a ``device``'s, which begins each cycle without, or a ``slot``'s of the
            cohort, which the next cycle's device in it inherits, as in the runs of arXiv 2110.10302.
        augment: random crops and flips, for images.
    """

    momentum_of: Literal["device", "slot"] = "device"
    augment: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.clip_norm, "local.clip_norm: the simulator does not clip; leave it at 0")


class Codistillation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How devices that exchange logits learn from each other (see `research.codistillation`).

    Attributes:
        weight: of the distillation loss, beside that of a device's own samples; 0: every device learns alone, and
            nothing is sent.
        temperature: T, by which logits are divided: the higher, the more the unlikely classes count.
    """

    weight: float = 1.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        require(self.weight >= 0, "codistillation.weight can't be negative")
        require(self.temperature > 0, "codistillation.temperature must be positive")


class Setting(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run.

    Attributes:
        data: a built-in data set, a path, or a table (see `lamina.emulation.datasets`).
        model: a network of the zoo, or ``path/to/file.py:function``.
        batch_size: samples a training step.
        seed: of everything that is drawn: initial values, partition, cohorts, sample orders.
        reduction: how a device too small for the whole network takes part: it trains the layers from a ``cut`` on
            (EmbracingFL), or a network of the same capacity that is less wide (``width``).
        exchange: what devices tell each other: ``parameters``, or ``logits`` on the public samples of
            ``holdout.public`` (co-distillation).
        granularity: what is averaged as one (see `lamina.emulation.simulator.granularity`).
        holdout: shares of the data that nobody trains on, and what for (see `lamina.emulation.simulator.holdout`).
    """

    data: Source = "digits"
    model: str = "digits_cnn"
    batch_size: int = 32
    seed: int = 0
    reduction: Literal["cut", "width"] = "cut"
    exchange: Literal["parameters", "logits"] = "parameters"
    granularity: Literal["layer", "kernel"] = "layer"
    fleet: TierCounts = msgspec.field(default_factory=TierCounts)
    partition: Partition = msgspec.field(default_factory=Partition)
    holdout: Holdout = msgspec.field(default_factory=Holdout)
    local: SimulatedLocal = msgspec.field(default_factory=SimulatedLocal)
    codistillation: Codistillation = msgspec.field(default_factory=Codistillation)
    evaluation: Evaluation = msgspec.field(default_factory=lambda: Evaluation(every=10))

    def __post_init__(self) -> None:
        require(self.batch_size > 0, f"batch_size must be at least 1, and is {self.batch_size}")
        require(self.training.seed == Training().seed, "training.seed: give it once, as seed at the top")
        require(self.evaluation.data == "", "evaluation.data: a simulation judges by the test set of its data")
        require(
            not (self.evaluation.devices and self.holdout.own),
            "holdout.own and evaluation.devices both keep samples to judge by: give one of them",
        )
        require(
            not self.evaluation.devices or (self.exchange == "parameters" and self.reduction == "cut"),
            "evaluation.devices judges one averaged model: for reduction = 'width' or exchange = 'logits' give "
            "holdout.own",
        )
        require(self.cohorts.min_devices == Cohorts().min_devices, "cohorts.min_devices: nobody is waited for here")
        require(
            self.reduction == "cut" or self.aggregation.phi == 1,
            "reduction = 'width' has no intervals a layer: aggregation.phi must be 1",
        )
        require(
            self.reduction == "cut" or self.aggregation.fold == "mean",
            "reduction = 'width' averages element by element: aggregation.fold must be 'mean'",
        )
        require(
            not self.algorithm.sgd_only or (self.reduction == "cut" and self.local.momentum_of == "device"),
            f"aggregation.algorithm = {self.aggregation.algorithm!r} needs reduction = 'cut' and "
            "local.momentum_of = 'device'",
        )
        require(
            self.reduction == "cut" or not self.aggregation.personal,
            "reduction = 'width' averages element by element: leave aggregation.personal out",
        )
        if self.exchange == "logits":
            self._check_exchange()
        if unknown := self.training.hyperparameters.keys() - {"momentum", "weight_decay"}:
            raise ConfigError(f"training.hyperparameters.{min(unknown)}: SGD has momentum and weight_decay")

    def _check_exchange(self) -> None:
        """Check a setting in which logits are exchanged and nothing is averaged."""
        require(self.holdout.public > 0, "exchange = 'logits' needs public samples: set holdout.public, such as 0.2")
        require(
            self.reduction == "width" or self.fleet.tiers.count("strong") == self.fleet.present,
            "exchange = 'logits': a device trains all of its own network; set reduction = 'width' for smaller ones",
        )
        require(
            self.aggregation == Aggregation(phi=1) and self.server.optimiser == "none",
            "exchange = 'logits' averages no parameters: aggregation.phi must be 1, all else there its default, and "
            "server.optimiser 'none'",
        )
        require(self.local.momentum_of == "device", "exchange = 'logits': there are no slots to inherit momentum from")

    @property
    def holders(self) -> tuple[str, ...]:
        """All devices that hold data, ascending; absent ones come last."""
        digits = len(str(self.fleet.holders))
        return tuple(f"device-{index:0{digits}}" for index in range(self.fleet.holders))

    @property
    def names(self) -> tuple[str, ...]:
        """The present devices, ascending."""
        return self.holders[: self.fleet.present]

    def lr(self, round_: int) -> float:
        """The learning rate in a round."""
        return self.rate(round_, _LR)

    @property
    def digest(self) -> str:
        """A name for the run: the same for equal settings, on any machine."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:16]
