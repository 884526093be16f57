"""``lamina-agent doctor``: look at what a board needs to take part, and say what to do where something is amiss."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lamina.broker.programs.findings import (
    Finding,
    broker_and_federation,
    clock,
    disk,
    keys_and_certificates,
    looked_at,
    print_report,
    versions,
)
from lamina.broker.settings import load_toml
from lamina.edge_agent.service.profile import budget_mib
from lamina.edge_agent.settings import AgentSettings, anchored
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.errors import ConfigError, LaminaError
from lamina.models.readers.settings import path_of
from lamina.models.sources import load_samples

_LEAST_MIB = 32.0
_PACKAGES = ("lamina-fl", "numpy", "aiomqtt")


def main(arguments: list[str]) -> int:
    """Look, and print; the exit status is 1 where the board can't take part as it is."""
    parser = argparse.ArgumentParser(
        prog="lamina-agent doctor",
        description="Look at everything that this board needs to take part: configuration, data, memory, disk, clock, "
        "keys, the broker and the federation on it.",
        epilog="example: lamina-agent doctor --config /etc/lamina/agent.toml",
    )
    parser.add_argument("--config", type=Path, default=Path("agent.toml"), help="the board's (agent.toml, here)")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    return print_report(list(_findings(options.config)), as_json=options.json)


def _findings(config: Path) -> Iterator[Finding]:
    yield looked_at("versions", lambda: versions(_PACKAGES))
    yield looked_at("engine", _engine)
    yield looked_at("clock", clock)
    try:
        settings = anchored(load_toml(config, AgentSettings), config.parent)
    except LaminaError as error:
        yield Finding("settings", "bad", str(error))
        return
    yield Finding("settings", "good", f"{config}: device {settings.device} of {settings.federation}")
    yield looked_at("data", lambda: _data(settings))
    yield looked_at("memory", lambda: _memory(settings))
    yield looked_at("disk", lambda: disk(Path(settings.folder)))
    broker = settings.broker
    yield from keys_and_certificates([broker.key_file], [broker.cert_file, broker.ca_file])
    yield from broker_and_federation(broker, settings.federation)


def _engine() -> Finding:
    engine = OnnxRuntime()
    try:
        engine.warm_up()  # an agent loads it late
        return Finding("engine", "good", engine.name)
    except ConfigError as error:
        return Finding("engine", "bad", str(error), "pip install 'lamina-fl[edge]'")


def _data(settings: AgentSettings) -> Finding:
    samples = load_samples(settings.data)
    text = f"{len(samples)} samples in {path_of(settings.data)}"
    return Finding("data", "good" if len(samples) else "doubtful", text)


def _memory(settings: AgentSettings) -> Finding:
    measured = budget_mib()
    budget = settings.budget_mib if settings.budget_mib is not None else measured
    text = f"{budget:.0f} MiB for training; {measured:.0f} MiB could be spared now"
    if budget > measured:
        return Finding("memory", "doubtful", text, "lower budget_mib, or end what else runs here")
    if budget < _LEAST_MIB:
        return Finding("memory", "doubtful", text, "only the smallest sub-models fit")
    return Finding("memory", "good", text)
