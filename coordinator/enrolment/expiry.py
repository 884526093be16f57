"""When certificates end, and what to do where that is soon."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from lamina.coordinator.enrolment.register import Certificate, read_register
from lamina.models.errors import ConfigError

SOON_S = 30 * 86400


def listed(certificates: Iterable[Certificate], now_s: float) -> list[str]:
    """A line a certificate: whose, what for, until when, and what to do where that is soon."""
    lines = []
    for one in certificates:
        left_s = one.until - now_s
        ends = "has ended" if left_s <= 0 else f"ends in {left_s / 86400:.0f} days"
        soon = f"   {ends}: lamina renew {one.name}" if left_s < SOON_S else ""
        until = datetime.fromtimestamp(one.until, UTC).date().isoformat()
        lines.append(f"{one.name:<20} {one.role:<12} until {until}{soon}")
    return lines


def ending_soon(folder: Path, now_s: float) -> list[str]:
    """A line for each certificate that ends soon; none where the folder is not one of ``lamina init``."""
    return listed((one for one in _present(folder) if one.until < now_s + SOON_S), now_s)


def ends(folder: Path) -> dict[str, int]:
    """When each device's certificate ends, in seconds since 1970; empty where the authority is kept elsewhere."""
    return {one.name: one.until for one in _present(folder) if one.role == "device"}


def _present(folder: Path) -> list[Certificate]:
    try:
        register = read_register(folder / "authority" / "register.json")
    except ConfigError:  # the authority is kept elsewhere
        return []
    return register.present("device", "site", "coordinator", "broker")
