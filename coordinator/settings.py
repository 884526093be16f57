"""What an operator decides: ``federation.toml``, as frozen values.

federation = "greenhouse"
bundle = "bundles/digits"

[broker]
host = "127.0.0.1"

[training]
rounds = 40
local_steps = 5

[aggregation]
phi = 2
"""

from __future__ import annotations

import math
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from lamina.broker.link.address import BrokerAddress
from lamina.broker.wire.codecs import LOSSLESS, codec
from lamina.coordinator.algorithms.catalogue import found, named
from lamina.coordinator.algorithms.interval_rule import IntervalRule
from lamina.coordinator.algorithms.local_algorithm import LocalAlgorithm
from lamina.coordinator.algorithms.server_optimiser import ServerOptimiser
from lamina.coordinator.folds.aggregate import rule
from lamina.coordinator.rounds.learning_rate import LearningRate, Schedule
from lamina.models.errors import ConfigError, require
from lamina.models.gradient_terms import TERMS, GradientTerm
from lamina.models.held_out import LARGEST_SHARE
from lamina.models.readers.settings import Source


class Training(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every device of the cohort does in a round.

    Attributes:
        rounds: how many; rounded up to whole cycles.
        local_steps: SGD steps a round (tau').
        lr: learning rate; left out, the bundle's own, which goes with its optimiser.
        lr_schedule: ``steps``: the rate is divided by ``lr_decay`` at each of ``lr_decay_at``, or stays; ``cosine``: it
            falls along a cosine, to ``lr_final_share`` of it in the last round.
        lr_warmup_rounds: in the first rounds the rate rises to its full height; 0: it begins there.
        lr_decay_at: shares of the rounds after which the rate is divided by ``lr_decay``.
        lr_decay: the divisor.
        lr_final_share: where a cosine ends, as a share of the rate.
        hyperparameters: other 0-d inputs of the training graphs, by name (``momentum``, ``weight_decay``).
        seed: of the cohort draws and of every device's sample order.
    """

    rounds: int = 40
    local_steps: int = 10
    lr: float | None = None
    lr_schedule: Schedule = "steps"
    lr_warmup_rounds: int = 0
    lr_decay_at: tuple[float, ...] = ()
    lr_decay: float = 10.0
    lr_final_share: float = 0.0
    hyperparameters: dict[str, float] = {}
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.rounds > 0, "training.rounds must be at least 1")
        require(self.local_steps > 0, "training.local_steps must be at least 1")
        require(self.lr is None or self.lr > 0, "training.lr must be positive")
        require(all(0 < at < 1 for at in self.lr_decay_at), "training.lr_decay_at holds shares between 0 and 1")
        require(self.lr_decay > 0, "training.lr_decay must be positive")
        require(
            0 <= self.lr_warmup_rounds < self.rounds,
            "training.lr_warmup_rounds must be at least 0 and below the rounds",
        )
        require(0 <= self.lr_final_share <= 1, "training.lr_final_share must lie between 0 and 1")
        cosine = self.lr_schedule == "cosine"
        require(not (cosine and self.lr_decay_at), "training.lr_decay_at: a cosine has no steps; leave it out")
        require(cosine or not self.lr_final_share, "training.lr_final_share needs lr_schedule = 'cosine'")
        require(0 <= self.seed < 2**63, "training.seed must lie between 0 and 2^63")
        require("lr" not in self.hyperparameters, "training.hyperparameters: give the rate as training.lr")


class Local(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device does besides its optimiser; the bundle must have been built for it.

    Attributes:
        proximal: mu of FedProx, the pull towards the values that a round began from; 0 for none.
        clip_norm: gradients are scaled down to this norm at most; 0 for no clipping.
    """

    proximal: float = 0.0
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for term in TERMS:
            require(getattr(self, term.setting) >= 0, f"local.{term.setting} can't be negative")

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The training graph's 0-d inputs for it."""
        asked = {term.hyperparameter: getattr(self, term.setting) for term in TERMS}
        return {name: value for name, value in asked.items() if value}

    @property
    def terms(self) -> tuple[GradientTerm, ...]:
        """What a bundle must have been built with."""
        return tuple(term for term in TERMS if term.hyperparameter in self.hyperparameters)


class Cohorts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who trains.

    Attributes:
        min_devices: accepted devices to wait for before the first round; later rounds need one, and wait for a device
            that vanished for ``deadlines.lost_s``.
        active: how many train in a cycle: a share of the accepted ones (at most 1), or a number (above 1).
        max_devices: how many may register, those of earlier runs of the federation included; one more is turned
            away. ``min_devices`` may always register.
        wait_s: give up when ``min_devices`` have not come before the first round by then; 0 waits for ever.
    """

    min_devices: int = 2
    active: float = 1.0
    max_devices: int = 1000
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        require(self.min_devices > 0, "cohorts.min_devices must be at least 1")
        require(self.max_devices > 0, "cohorts.max_devices must be at least 1")
        require(self.active > 0, "cohorts.active must be positive: a share up to 1, or a number of devices")


class Aggregation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a layer is averaged, and how.

    Attributes:
        phi: a relaxed layer's interval is ``phi * local_steps``; 1 is FedAvg.
        warmup_rounds: no adjustment before this many rounds are done.
        accelerate: shorten the intervals of the layers that drift most, in place of relaxing those that drift least.
        weighting: ``uniform`` (1/m, the default: a device counts the same whatever it holds), or ``num_examples``.
        algorithm: what devices do beside their local steps: ``fedavg`` nothing; ``fednova``, ``scaffold``.
        intervals: name of the rule that adjusts the intervals at a cycle's end; ``random`` and ``round_robin`` are
            controls, which relax as many parameters as the default and other layers.
        fold: name of the aggregation rule, ``mean`` by default; others bear devices that lie (docs/robustness.md).
        personal: names of layers, modules or tensors, or patterns such as ``*.bn*``, that every device trains for
            itself and that are never averaged nor sent (`lamina.models.personal`).
        norm_bound: an update is refused whose norm is more than so many times that of its layer's recent updates; 0
            takes all.
        aggregators: how many ``lamina aggregator --share`` fold the updates, each some of the layers; 0: the
            coordinator does it itself.
    """

    phi: int = 2
    warmup_rounds: int = 0
    accelerate: bool = False
    weighting: Literal["uniform", "num_examples"] = "uniform"
    algorithm: str = "fedavg"
    intervals: str = "fedlama"
    fold: str = "mean"
    personal: tuple[str, ...] = ()
    norm_bound: float = 100.0
    aggregators: int = 0

    def __post_init__(self) -> None:
        rule(self.fold)
        require(
            self.norm_bound == 0 or 1 < self.norm_bound < math.inf,
            "aggregation.norm_bound must be above 1, or 0 to take updates of any norm",
        )
        require(self.aggregators >= 0, "aggregation.aggregators can't be negative")
        require(
            self.fold == "mean" or not self.aggregators,
            f"aggregation.fold = {self.fold!r} needs every update by itself, and aggregators send sums: "
            "set aggregation.aggregators to 0",
        )
        named(LocalAlgorithm, self.algorithm, "aggregation.algorithm")
        require(
            self.algorithm == "fedavg" or self.fold == "mean",
            f"aggregation.algorithm = {self.algorithm!r} needs aggregation.fold = 'mean'",
        )
        named(IntervalRule, self.intervals, "aggregation.intervals")
        require(
            not isinstance(self.personal, str) and all(self.personal),
            "aggregation.personal is a list of names or patterns, and none of them is empty",
        )
        require(self.phi > 0, "aggregation.phi must be at least 1")
        require(self.warmup_rounds >= 0, "aggregation.warmup_rounds can't be negative")


class Devices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which devices are trusted, and how far.

    Attributes:
        allow: names of those that may come, or patterns such as ``greenhouse-*``; empty: any may.
        put_aside_after: refused updates after which a device takes no further part; 0: never. What is merely late, of
            another round, or can't be decoded doesn't count.
    """

    allow: tuple[str, ...] = ()
    put_aside_after: int = 20

    def __post_init__(self) -> None:
        require(self.put_aside_after >= 0, "devices.put_aside_after can't be negative; 0 puts nobody aside")

    def allows(self, device: str) -> bool:
        """Whether a device of that name may come."""
        return not self.allow or any(fnmatchcase(device, pattern) for pattern in self.allow)


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the coordinator does with an average (see `lamina.coordinator.algorithms.server_optimiser`).

    Attributes:
        optimiser: ``none``: the average is the next value; the name of an optimiser: a step towards it.
        lr: the server's learning rate; left out, the optimiser's own: 1 of ``fedavgm``; 0.01 of ``fedadam`` and
            ``fedyogi``, which move a parameter by about the rate, however small the average's change is.
        beta: share of the momentum that stays.
        beta2: share of the second moment that stays, of ``fedadam`` and ``fedyogi``.
        tau: their floor of the second moment's root.
    """

    optimiser: str = "none"
    lr: float | None = None
    beta: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3

    def __post_init__(self) -> None:
        if self.optimiser != "none":
            named(ServerOptimiser, self.optimiser, "server.optimiser")
        require(self.lr is None or self.lr > 0, "server.lr must be positive")
        require(0 <= self.beta < 1 and 0 <= self.beta2 < 1, "server.beta and server.beta2 must lie in [0, 1)")
        require(self.tau > 0, "server.tau must be positive")

    @property
    def rate(self) -> float:
        """The learning rate, the optimiser's own where none is given."""
        if self.lr is not None:
            return self.lr
        known = found(ServerOptimiser).get(self.optimiser)
        return known.lr if known else 1.0


class Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How values cross the network.

    Attributes:
        update_codec: for what devices send.
        global_codec: for what the coordinator sends to a device that has no version of a layer, or an old one.
        delta_codec: for what it sends to the others, the change since the version that they have; empty: they get
            the whole value, too. It needs a ``global_codec`` that loses nothing.
        small_codec: for updates and deltas of layers of fewer than ``small_elements`` elements.
        small_elements: where a few bytes less do not pay; 0: all layers go by the codecs above.
        fallback_codec: for all updates of a device that can't encode the others; one that lacks it too is refused.
        chunk_kib: payload of one message, at most.
        batched: updates of several layers share a message where they fit; false: a message a layer at least.
    """

    update_codec: str = "int8"
    global_codec: str = "float32+zstd"
    delta_codec: str = "int8"
    small_codec: str = "float32"
    small_elements: int = 128
    fallback_codec: str = "float32"
    chunk_kib: int = 256
    batched: bool = True

    def __post_init__(self) -> None:
        require(1 <= self.chunk_kib <= 64 * 1024, "wire.chunk_kib must lie between 1 and 65536")
        require(self.small_elements >= 0, "wire.small_elements can't be negative")
        for key in ("update_codec", "global_codec", "small_codec", "fallback_codec"):
            _check_codec(f"wire.{key}", getattr(self, key))
        if self.delta_codec:
            _check_codec("wire.delta_codec", self.delta_codec)
            require(
                self.global_codec in LOSSLESS,
                f"wire.delta_codec needs a wire.global_codec that loses nothing: {' or '.join(sorted(LOSSLESS))}",
            )

    @property
    def chunk_bytes(self) -> int:
        """Payload of one message, at most."""
        return self.chunk_kib * 1024

    def update_codec_of(self, elements: int) -> str:
        """Name of the codec for the update of a layer of so many elements, from a device that can encode both."""
        return self.small_codec if elements < self.small_elements else self.update_codec

    def delta_codec_of(self, elements: int) -> str:
        """Name of the codec for the delta of a layer of so many elements; empty where deltas are not sent."""
        return self.small_codec if self.delta_codec and elements < self.small_elements else self.delta_codec

    def codec_for(self, codecs: Collection[str]) -> str | None:
        """Codec for all updates of a device that knows these; empty: the usual ones, ``None``: there is none."""
        if {self.update_codec, self.small_codec} <= set(codecs):
            return ""
        return self.fallback_codec if self.fallback_codec in codecs else None


class Deadlines(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long to wait.

    Attributes:
        round_s: for the updates of a round; what has come by then is aggregated, and where nothing has, the round is
            planned again. A device that still owes something sits cycles out.
        lost_s: for a device that vanished, before its round goes on, or the next one begins, without it; the same for
            those that were there when a coordinator ended that is started again.
        broker_s: for a broker that does not answer, before giving up; 0 waits for ever.
    """

    round_s: float = 600.0
    lost_s: float = 10.0
    broker_s: float = 60.0

    def __post_init__(self) -> None:
        require(self.round_s > 0, "deadlines.round_s must be positive")
        require(self.lost_s >= 0, "deadlines.lost_s can't be negative")
        require(self.broker_s >= 0, "deadlines.broker_s can't be negative")


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the averaged model is judged.

    Attributes:
        data: held-out samples, given and scaled as an agent's ``data`` is; empty: no evaluation.
        devices: the share of its samples that each device keeps and never trains on. By these it judges the model,
            at the start of a cycle that it takes part in, and at the end; sums and counts cross the wire. 0: none.
        every: rounds between two evaluations; the last round is always evaluated.
        batch_size: samples at once.
        keep_best: whether the best round by evaluation is kept, and at the end exported beside the last one.
        stop_after: evaluations in a row without a better one, after which training ends with its cycle; 0: never. No
            cycle begins, then, before the last one's rounds are evaluated.
    """

    data: Source = ""
    devices: float = 0.0
    every: int = 1
    batch_size: int = 256
    keep_best: bool = True
    stop_after: int = 0

    def __post_init__(self) -> None:
        require(
            0 <= self.devices <= LARGEST_SHARE, f"evaluation.devices is a share of the samples, up to {LARGEST_SHARE}"
        )
        require(self.stop_after >= 0, "evaluation.stop_after can't be negative")
        require(self.every > 0, "evaluation.every must be at least 1")
        require(self.batch_size > 0, "evaluation.batch_size must be at least 1")


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a run on disk, so that it can go on, go back or be exported.

    Attributes:
        generations: how many of the last rounds, and how many of the last cycles' ends.
    """

    generations: int = 3

    def __post_init__(self) -> None:
        require(self.generations > 0, "state.generations must be at least 1")


class DashboardSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The place at which the coordinator serves its dashboard.

    Attributes:
        port: 0: on no port; commands on this machine reach the coordinator through its folder all the same.
        host: the address to listen at; any but loopback needs TLS, and who opens the page a token.
        names: by which people reach the machine, such as ``greenhouse.local``; addresses always go.
        token_file: its first line is the token; left out, one is drawn where it is needed, and kept beside the state.
        cert_file: the certificate of the page.
        key_file: its key.
    """

    port: int = 0
    host: str = "127.0.0.1"
    names: tuple[str, ...] = ()
    token_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        require(0 <= self.port < 65536, "dashboard.port must lie between 0 and 65535")
        require(bool(self.cert_file) == bool(self.key_file), "dashboard.cert_file and dashboard.key_file go together")


class Signing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys by which tasks and plans are signed (docs/operating.md, SECURITY.md); ``lamina init`` fills it in.

    Attributes:
        key_file: the coordinator's own secret key, by which it signs tasks and plans; empty: nothing is signed.
        mandate_file: the operator's word for that key, as ``lamina mandate`` writes it.
        operator_key_file: the operator's secret key. Where that file is at hand, ``lamina run`` renews the mandate
            itself when it has to; keep the file elsewhere, and only a person with it can.
        mandate_days: for how long a mandate is good.
    """

    key_file: str = ""
    mandate_file: str = ""
    operator_key_file: str = ""
    mandate_days: int = 30

    def __post_init__(self) -> None:
        require(bool(self.key_file) == bool(self.mandate_file), "signing.key_file and signing.mandate_file go together")
        require(self.mandate_days > 0, "signing.mandate_days must be at least 1")


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The tables that say how a model is trained, whatever carries it out: a federation, an emulation or a simulation.

    Attributes:
        training: what every device of the cohort does in a round.
        local: what a device does besides its optimiser.
        cohorts: who trains.
        aggregation: when a layer is averaged, and how.
        server: what becomes of an average.
        evaluation: how the averaged model is judged.
    """

    training: Training = msgspec.field(default_factory=Training)
    local: Local = msgspec.field(default_factory=Local)
    cohorts: Cohorts = msgspec.field(default_factory=Cohorts)
    aggregation: Aggregation = msgspec.field(default_factory=Aggregation)
    server: Server = msgspec.field(default_factory=Server)
    evaluation: Evaluation = msgspec.field(default_factory=Evaluation)

    @property
    def algorithm(self) -> LocalAlgorithm:
        """What devices do beside their local steps."""
        return named(LocalAlgorithm, self.aggregation.algorithm, "aggregation.algorithm")

    @property
    def rounds(self) -> int:
        """Rounds to do: those asked for, up to whole cycles."""
        phi = self.aggregation.phi
        return math.ceil(self.training.rounds / phi) * phi

    def rate(self, round_: int, default: float) -> float:
        """The learning rate in a round; it starts at ``default`` where ``training.lr`` is left out."""
        training = self.training
        course = LearningRate(
            training.lr_schedule,
            training.lr_warmup_rounds,
            training.lr_decay_at,
            training.lr_decay,
            training.lr_final_share,
        )
        return course.at(round_, self.rounds, default if training.lr is None else training.lr)


class FederationSettings(Method, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of ``federation.toml``. Relative paths start at the file's own folder.

    Attributes:
        federation: its name, as it stands in topics.
        bundle: folder of the bundle that ``lamina bundle`` built.
        folder: where state, records and the final model go.
    """

    federation: str
    bundle: str
    folder: str = "runs/federation"
    broker: BrokerAddress = msgspec.field(default_factory=BrokerAddress)
    devices: Devices = msgspec.field(default_factory=Devices)
    wire: Wire = msgspec.field(default_factory=Wire)
    deadlines: Deadlines = msgspec.field(default_factory=Deadlines)
    state: State = msgspec.field(default_factory=State)
    dashboard: DashboardSettings = msgspec.field(default_factory=DashboardSettings)
    signing: Signing = msgspec.field(default_factory=Signing)

    def __post_init__(self) -> None:
        require(
            self.evaluation.data != "" or not self.evaluation.stop_after,
            "evaluation.stop_after needs evaluation.data to judge by",
        )
        require(
            not (self.aggregation.personal and self.evaluation.stop_after),
            "evaluation.stop_after judges the shared layers with personal layers that were never trained: leave it out "
            "where aggregation.personal is set",
        )


def _check_codec(key: str, name: str) -> None:
    try:
        codec(name)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error}") from error
