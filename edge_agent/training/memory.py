"""Tells how much memory this process takes, may take, and took at most: from ``/proc`` and ``/sys``, on Linux.

What is free for training is the least of MemAvailable and, for every control group that the process is in, its limit
less its use. A group's use counts without its inactive page cache, which the kernel gives up before it kills.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

KIB = 1024
MIB = 1024 * 1024
_RESET_PEAK = "5"  # proc(5): set VmHWM to the current resident size
_UNLIMITED = 2**60  # version 1 writes "no limit" as the largest whole number of pages


class PeakMeter:
    """The peak of resident memory above what it was when the meter was made.

    Args:
        process: the process's folder in ``/proc``.

    Attributes:
        idle_bytes: the resident size when the meter was made; ``None`` where the platform can't tell.
    """

    def __init__(self, process: Path = Path("/proc/self")) -> None:
        self._process = process
        self.idle_bytes = self._reset()

    def peak_mib(self) -> float | None:
        """MiB above idle, at most, since the meter was made; ``None`` where the platform can't tell."""
        highest = self._field("VmHWM")
        if self.idle_bytes is None or highest is None:
            return None
        return max(0.0, (highest - self.idle_bytes) / MIB)

    def _reset(self) -> int | None:
        """Forget earlier peaks; the resident size now, in bytes."""
        try:
            (self._process / "clear_refs").write_text(_RESET_PEAK)
        except OSError:  # another platform, or a kernel without it: an older peak would be taken for ours
            return None
        return self._field("VmRSS")

    def _field(self, name: str) -> int | None:
        text = _read(self._process / "status")
        return None if text is None else kib_field(text, name)


def free_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process may still take, in bytes; ``None`` where the platform can't tell.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    found = [_group_free_bytes(folder) for folder in _group_folders(root)]
    meminfo = _read(root / "proc/meminfo")
    found.append(None if meminfo is None else kib_field(meminfo, "MemAvailable"))
    return min((max(0, number) for number in found if number is not None), default=None)


def kib_field(text: str, name: str) -> int | None:
    """A field of ``/proc/meminfo`` or ``/proc/self/status``, in bytes; ``None`` where the text lacks it."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * KIB if found else None


def limit_bytes(text: str) -> int | None:
    """What ``memory.max`` (version 2) or ``memory.limit_in_bytes`` (version 1) says; ``None`` for no limit."""
    text = text.strip()
    if not text.isdecimal() or int(text) >= _UNLIMITED:  # "max" is version 2's word for none
        return None
    return int(text)


def inactive_cache_bytes(text: str) -> int:
    """What ``memory.stat`` says of page cache that can be given up; a group of version 1 has children to add."""
    fields = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    return int(fields.get("total_inactive_file", fields.get("inactive_file", "0")))


def group_paths(text: str) -> tuple[PurePosixPath, ...]:
    """The folders below ``/sys/fs/cgroup`` that may hold memory limits, from the text of ``/proc/self/cgroup``.

    A limit may stand on any group above the process's own. Inside a container the path may be the host's, whose lower
    parts are not there; its root is then the container's group.
    """
    found: list[PurePosixPath] = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2: one hierarchy for everything
            mount = PurePosixPath()
        elif "memory" in controllers.split(","):
            mount = PurePosixPath("memory")
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        found += [mount / part for part in (group, *group.parents)]
    return tuple(found)


def _group_folders(root: Path) -> Iterator[Path]:
    text = _read(root / "proc/self/cgroup")
    for path in group_paths(text or ""):
        yield root / "sys/fs/cgroup" / path


def _group_free_bytes(folder: Path) -> int | None:
    """Limit less use of one control group; ``None`` where it has no limit, or isn't there."""
    for limit_name, use_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, use = _read(folder / limit_name), _read(folder / use_name)
        if limit is None or use is None or (most := limit_bytes(limit)) is None:
            continue
        return most - int(use) + inactive_cache_bytes(_read(folder / "memory.stat") or "")
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
