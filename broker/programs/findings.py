"""What is looked at on any machine before something goes wrong: what each finding is, and what to do about it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.programs.ending import said_of
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.wire import messages
from lamina.broker.wire.messages import CoordinatorStatus
from lamina.broker.wire.topics import Topics
from lamina.models.errors import LaminaError

Verdict = Literal["good", "doubtful", "bad"]

_MIB, _GIB = 1 << 20, 1 << 30
_LEAST_DISK = 500 * _MIB
_LEAST_YEAR = 2025
"""A board without a battery wakes up in 1970, and then takes no certificate for valid."""

_ANSWER_S = 3.0
_SOON_S = 30 * 86400


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        subject: what.
        verdict: whether it is as it should be.
        text: how it is.
        remedy: what to do; empty where nothing is to be done.
    """

    subject: str
    verdict: Verdict
    text: str
    remedy: str = ""


def looked_at(subject: str, look: Callable[[], Finding]) -> Finding:
    """What a look finds, or the error in which it ends."""
    try:
        return look()
    except LaminaError as error:
        return Finding(subject, "bad", str(error))
    except OSError as error:
        return Finding(subject, "bad", said_of(error))


def versions(packages: Sequence[str]) -> Finding:
    """Find the versions of Python and of these packages."""
    found = {name: _version(name) for name in packages}
    missing = [name for name, version in found.items() if version is None]
    text = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
    text = f"Python {platform.python_version()} on {platform.machine()}; {text}"
    if missing:
        return Finding("versions", "bad", text, f"install {' and '.join(missing)}")
    return Finding("versions", "good", text)


def clock(now: float | None = None) -> Finding:
    """Find whether the clock can be right, and whether it is kept so."""
    at = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    text = f"{at:%Y-%m-%d %H:%M} UTC"
    if at.year < _LEAST_YEAR:
        return Finding("clock", "bad", text, "set it, for instance by NTP: no certificate is valid before it was made")
    if _synchronised() is False:
        return Finding("clock", "doubtful", f"{text}, and no time server keeps it right", "timedatectl set-ntp true")
    return Finding("clock", "good", text)


def disk(folder: Path) -> Finding:
    """Find whether a folder can be written to, and how much room it has. The folder is made, as the program would."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
    free = shutil.disk_usage(folder).free
    text = f"{folder} can be written to; {free / _GIB:.1f} GiB are free"
    if free < _LEAST_DISK:
        return Finding("disk", "doubtful", text, "free some space: bundle, activations and state are kept there")
    return Finding("disk", "good", text)


def secret(path: Path) -> Finding:
    """Find whether a file with a key is its owner's alone."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("key", "doubtful", f"{path} can be read by others (mode {mode:o})", f"chmod 600 {path}")
    return Finding("key", "good", f"{path} is its owner's alone")


def certificate(path: Path, now: float | None = None) -> Finding:
    """Find how long a certificate is good for."""
    parsed = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined] # what the standard library has for it
    left_s = ssl.cert_time_to_seconds(parsed["notAfter"]) - (time.time() if now is None else now)
    if left_s <= 0:
        return Finding("certificate", "bad", f"{path} has ended", "lamina renew, where the authority is kept")
    text = f"{path} is good for {left_s / 86400:.0f} days"
    if left_s < _SOON_S:
        return Finding("certificate", "doubtful", text, "lamina renew, where the authority is kept")
    return Finding("certificate", "good", text)


def keys_and_certificates(keys: Iterable[str], certificates: Iterable[str]) -> list[Finding]:
    """Find how the files of keys and of certificates are; an empty path is a setting that was left out."""
    found = [looked_at("key", partial(secret, Path(path))) for path in keys if path]
    return found + [looked_at("certificate", partial(certificate, Path(path))) for path in certificates if path]


def broker_and_federation(address: BrokerAddress, federation: str) -> list[Finding]:
    """Find whether the broker lets this program in, and whether the federation's coordinator is there."""
    try:
        return asyncio.run(_ask(address, federation))
    except LaminaError as error:
        return [Finding("broker", "bad", str(error))]


def report(findings: Iterable[Finding]) -> list[str]:
    """A line a finding, and one more for what to do."""
    lines = []
    for finding in findings:
        mark = {"good": "ok", "doubtful": "!", "bad": "FAIL"}[finding.verdict]
        lines.append(f"{mark:<5} {finding.subject:<12} {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<19}-> {finding.remedy}")
    return lines


def print_report(findings: Sequence[Finding], *, as_json: bool) -> int:
    """Print the findings; the exit status is 1 where one is bad."""
    text = msgspec.json.format(msgspec.json.encode(findings)).decode() if as_json else "\n".join(report(findings))
    print(text)
    bad = any(finding.verdict == "bad" for finding in findings)
    return ExitStatus.INCOMPLETE if bad else ExitStatus.DONE


async def _ask(address: BrokerAddress, federation: str) -> list[Finding]:
    topics, began = Topics(federation), time.monotonic()
    async with mqtt_dial(address)(topics.client("doctor", secrets.token_hex(4)), None) as link:
        took_ms = 1000 * (time.monotonic() - began)
        broker = Finding("broker", "good", f"{address} lets this program in, after {took_ms:.0f} ms")
        await link.subscribe(topics.coordinator_status)
        try:
            async with asyncio.timeout(_ANSWER_S):
                delivery = await anext(link.deliveries())
        except TimeoutError:
            text = f"nobody has coordinated {federation!r} at this broker"
            return [broker, Finding("federation", "doubtful", text, "`lamina run`, or look at the name")]
        status = messages.decode(delivery.payload, CoordinatorStatus)
    text = f"{federation!r} is {status.state}, round {status.round} of {status.rounds}, {status.devices} devices"
    if status.state in ("lost", "stopped"):
        return [broker, Finding("federation", "doubtful", f"{text}: its coordinator is gone", "`lamina run` goes on")]
    return [broker, Finding("federation", "good", text)]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _synchronised() -> bool | None:
    """Whether a time server keeps the clock right; ``None`` where systemd can't tell."""
    if not shutil.which("timedatectl") or not os.path.isdir("/run/systemd/system"):
        return None
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(said)
