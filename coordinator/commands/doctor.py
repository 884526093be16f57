"""``lamina doctor federation.toml``: look at what a coordinator needs, and say what to do where something is amiss."""

from __future__ import annotations

import argparse
import time
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
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.client import NobodyRuns
from lamina.coordinator.enrolment.expiry import ending_soon
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import read_bundle
from lamina.models.errors import LaminaError
from lamina.models.sources import load_samples

HELP = "look at everything that a federation needs, and say what to do"

_PACKAGES = ("lamina-fl", "numpy", "onnxruntime", "aiomqtt", "torch")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", type=Path, help="federation.toml")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.epilog = "example: lamina doctor federation.toml"


def run(options: argparse.Namespace) -> int:
    """Look, and print; the exit status is 1 where training can't begin as it is."""
    return print_report(list(_findings(options.config)), as_json=options.json)


def _findings(config: Path) -> Iterator[Finding]:
    yield looked_at("versions", lambda: versions(_PACKAGES))
    yield looked_at("clock", clock)
    try:
        settings = load_federation(config)
    except LaminaError as error:
        yield Finding("settings", "bad", str(error))
        return
    yield Finding("settings", "good", f"{config}: federation {settings.federation}")
    yield looked_at("bundle", lambda: _bundle(settings))
    if settings.evaluation.data:
        yield looked_at("data", lambda: _evaluation(settings))
    else:
        yield Finding("data", "doubtful", "nothing judges the model", "set evaluation.data to held-out samples")
    yield looked_at("disk", lambda: disk(Path(settings.folder)))
    broker = settings.broker
    yield from keys_and_certificates(
        [broker.key_file, settings.signing.key_file], [broker.cert_file, broker.ca_file, settings.dashboard.cert_file]
    )
    for line in ending_soon(config.parent, time.time()):
        yield Finding("certificate", "doubtful", line)
    yield looked_at("coordinator", lambda: _coordinator(settings))
    yield from broker_and_federation(broker, settings.federation)


def _bundle(settings: FederationSettings) -> Finding:
    bundle = read_bundle(Path(settings.bundle))
    spec = bundle.manifest.spec
    cuts = len(bundle.manifest.sub_models)
    return Finding("bundle", "good", f"{settings.bundle}: {len(spec.layers)} layers, {cuts} sizes of sub-model")


def _evaluation(settings: FederationSettings) -> Finding:
    return Finding("data", "good", f"{len(load_samples(settings.evaluation.data))} held-out samples")


def _coordinator(settings: FederationSettings) -> Finding:
    try:
        overview = client.overview(Path(settings.folder))
    except NobodyRuns:
        return Finding("coordinator", "good", "none runs here; `lamina run` starts one, or goes on")
    return Finding("coordinator", "good", f"one runs here: {overview.state}, round {overview.round}")
