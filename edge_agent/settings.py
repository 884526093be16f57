"""What the operator of a board decides: ``agent.toml``, as frozen values.

federation = "greenhouse"
device = "pi-07"
data = "train.npz"

[broker]
host = "192.168.1.10"
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

import msgspec

from lamina.broker.link.address import BrokerAddress
from lamina.broker.wire.topics import check_name
from lamina.edge_agent.training.activation_cache import Element
from lamina.models.errors import ConfigError, brief, require
from lamina.models.fitting import SAVINGS, Saving
from lamina.models.held_out import LARGEST_SHARE
from lamina.models.readers.settings import Source
from lamina.models.sources import resolved_source

FOLDER = "lamina-agent"
SYSTEM_CONFIGURATION, SYSTEM_FOLDER = Path("/etc/lamina"), "/var/lib/lamina-agent"
"""Where the service of a whole machine has its settings, and what it writes (``packaging/lamina-agent.service``)."""


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of ``agent.toml``. Relative paths start at the file's own folder.

    Attributes:
        federation: name of the federation to take part in.
        device: this board's name, unique in the federation.
        data: its training samples: ``samples.npz`` with ``x`` and ``y``, a pair ``x.npy,y.npy``, ``module:function``,
            which returns ``(x, y)``, a file or a folder, or a table of `DataSettings` that says what to take of one.
        broker: where the broker is.
        budget_mib: memory that training may take above the idle agent; left out, it is measured at start.
        savings: what the device may do to train a larger sub-model in its memory, though it takes longer:
            ``micro_batches``, ``recomputation`` of activations, both (as if left out), or nothing.
        spill: how activations of the frozen layers are kept on the disk: ``float32`` exactly, ``float16`` in half the
            room.
        threads: processor cores that training may use; 0 takes all that the process may run on.
        engine: ``onnxruntime``; ``onnxruntime-training``, whose gradients are faster where it exists (x86-64 Linux and
            macOS), and for which the bundle must have been built; or ``auto``: the second where both are there.
        tuning: whether to measure, for some seconds at first and by training's own steps later on, which of a bundle's
            graphs this board runs fastest, on how many threads, and whether these had better wait actively. Without it
            standard graphs are run on all threads, which sleep.
        folder: where the bundle's files, cached activations and the state of the last round are kept. Left out, it is
            ``lamina-agent`` beside the file, and ``/var/lib/lamina-agent`` of ``/etc/lamina/agent.toml``.
        keep_state: whether to write the state after each round, so that a restarted agent goes on where it was.
        broker_s: how long to try for a broker that does not answer; 0 tries for ever.
        held_out: samples that the board does not train on, and judges deployed models by: a share of its ``data`` that
            is set aside (0.1: about every tenth sample), or a source of their own, given as ``data`` is. 0: none, so
            that models are judged by the samples that it trains on.
        once: whether to end with the federation's training; as a service, the agent waits for the next one.
        operator_key_file: the operator's public key, where the board was enrolled: it then follows no orders but those
            behind which the operator's signature stands. Empty: it follows whoever the broker lets speak.
        bundles: digests of the bundles that may be trained here; others wait until a person allows them (``lamina-agent
            allow``). Left out: all that the coordinator names; ``[]``: none, unless it is allowed.
        shared_process: the agent is one of several in its process, so its memory can't be told.
    """

    federation: str
    device: str
    data: Source
    broker: BrokerAddress = msgspec.field(default_factory=BrokerAddress)
    budget_mib: float | None = None
    savings: tuple[Saving, ...] = SAVINGS
    spill: Element = "float32"
    threads: int = 0
    engine: Literal["auto", "onnxruntime", "onnxruntime-training"] = "auto"
    tuning: bool = True
    folder: str = FOLDER
    keep_state: bool = True
    broker_s: float = 0.0
    held_out: Source | float = 0.0
    once: bool = False
    operator_key_file: str = ""
    bundles: tuple[str, ...] | None = None
    shared_process: bool = False

    def __post_init__(self) -> None:
        check_name(self.federation, "federation")
        check_name(self.device, "device")
        if self.budget_mib is not None and not 0 < self.budget_mib < math.inf:
            raise ConfigError(f"budget_mib must be positive, and is {self.budget_mib}")
        if self.threads < 0:
            raise ConfigError(f"threads can't be negative, and is {self.threads}; 0 takes all cores")
        if not 0 <= self.broker_s < math.inf:
            raise ConfigError(f"broker_s must be 0 (try for ever) or more, and is {self.broker_s}")
        if isinstance(self.held_out, float | int):
            require(
                0 <= self.held_out <= LARGEST_SHARE,
                f"held_out must be a share up to {LARGEST_SHARE}, or name samples, and is {self.held_out}",
            )
        for digest in self.bundles or ():
            check_digest(digest, "bundles")

    @property
    def share_held_out(self) -> float:
        """The share of the samples that is set aside; 0 where samples of their own are named."""
        return float(self.held_out) if isinstance(self.held_out, float | int) else 0.0


def check_digest(digest: str, what: str) -> str:
    """Return the digest of a bundle, if it is one.

    Raises:
        ConfigError: it is none; ``what`` says where it stands.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ConfigError(f"{what}: {brief(digest, 80)!r} is no bundle's digest, which is 64 hexadecimal digits")
    return digest


def anchored(settings: AgentSettings, folder: Path) -> AgentSettings:
    """The settings with every relative path taken to start at ``folder``."""
    beside = settings.folder != FOLDER or folder.absolute() != SYSTEM_CONFIGURATION
    return msgspec.structs.replace(
        settings,
        folder=str(folder / settings.folder) if beside else SYSTEM_FOLDER,
        data=resolved_source(settings.data, folder),
        held_out=_anchored_source(settings.held_out, folder),
        operator_key_file=str(folder / settings.operator_key_file) if settings.operator_key_file else "",
        broker=settings.broker.anchored(folder),
    )


def _anchored_source(held_out: Source | float, folder: Path) -> Source | float:
    return held_out if isinstance(held_out, float | int) else resolved_source(held_out, folder)
