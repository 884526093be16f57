"""Describes this board, and how much of it training may use.

Where the operator gives no memory budget, it is a share of what is free while the agent is up and idle:

    budget = 0.8 * (free - engine)        (`lamina.edge_agent.training.memory.free_bytes`)

The idle agent is in use already, so it is not subtracted again; the engine, which is loaded for the first task, is. The
fifth that is left is for page cache, for the
buffers of the link, and for what else the board does meanwhile.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import msgspec

from lamina.broker.wire.codecs import CODECS
from lamina.broker.wire.messages import DeviceProfile
from lamina.edge_agent.settings import AgentSettings
from lamina.edge_agent.training import memory
from lamina.models.errors import ConfigError
from lamina.models.machine import usable_cores
from lamina.models.samples import LabelledSamples

BUDGET_SHARE = 0.8
ENGINE_MIB = 30
"""Memory that ONNX Runtime takes before it trains: some 20 MiB of its library, and what its first session allocates."""


def probe(settings: AgentSettings, data: LabelledSamples, engine: str, root: Path = Path("/")) -> DeviceProfile:
    """What the coordinator must know of this board.

    Args:
        settings: a ``budget_mib`` and ``threads`` there go before what is measured.
        data: the board's training samples.
        engine: name and version of the training engine.
        root: where ``proc`` and ``sys`` are.

    Raises:
        ConfigError: no budget is given, and the platform does not say what is free.
    """
    return DeviceProfile(
        device=settings.device,
        budget_mib=settings.budget_mib if settings.budget_mib is not None else budget_mib(root),
        cores=threads(settings),
        architecture=platform.machine(),
        engine=engine,
        codecs=tuple(CODECS),
        num_examples=len(data),
        classes=data.classes,
        sample_shape=data.sample_shape,
        sample_dtype=data.sample_dtype,
        agent_version=_version(),
        savings=settings.savings,
        target_shape=data.target_shape or msgspec.UNSET,
        target_dtype=msgspec.UNSET if data.target_dtype == "int64" else data.target_dtype,
    )


def budget_mib(root: Path = Path("/")) -> float:
    """The budget where the operator gives none, in MiB, rounded down to a tenth.

    Raises:
        ConfigError: the platform does not say what is free.
    """
    free = memory.free_bytes(root)
    if free is None:
        raise ConfigError("this platform does not say how much memory is free: set budget_mib in the configuration")
    return int(BUDGET_SHARE * max(0.0, free / memory.MIB - ENGINE_MIB) * 10) / 10


def threads(settings: AgentSettings) -> int:
    """Processor cores that training uses: as configured, at most those that the process may run on."""
    available = usable_cores()
    return min(settings.threads, available) if settings.threads else available


def _version() -> str:
    try:
        return metadata.version("lamina-fl")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"
