"""Reads what processes take, from /proc: proportional memory of a process and its children, and files on a disk."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)
_ROLLUP_KIB = 1024


def pss_mib(pid: int) -> float:
    """Proportional set size of a process and of all below it, in MiB.

    A page that n processes share counts as an n-th in each. For a process that runs alone on a board, that is its
    resident size.
    """
    total_kib = 0
    for each in (pid, *descendants(pid)):
        try:
            found = _PSS.search(Path(f"/proc/{each}/smaps_rollup").read_text())
        except OSError:  # it has ended meanwhile
            continue
        total_kib += int(found[1]) if found else 0
    return total_kib / _ROLLUP_KIB


def descendants(pid: int) -> Iterator[int]:
    """The processes below one."""
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def settled_mib(pid: int, *, samples: int = 10, apart_s: float = 0.3) -> float:
    """The median of some looks at a process that does nothing."""
    looks = []
    for _ in range(samples):
        time.sleep(apart_s)
        looks.append(pss_mib(pid))
    return median(looks)


class Peak:
    """The largest figure that was seen."""

    mib = 0.0


@contextmanager
def peak_of(pid: int, apart_s: float = 0.05) -> Iterator[Peak]:
    """Look at a process again and again, and keep the largest figure."""
    peak, over = Peak(), threading.Event()

    def look() -> None:
        while not over.wait(apart_s):
            peak.mib = max(peak.mib, pss_mib(pid))

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield peak
    finally:
        over.set()
        watching.join()


def disk_mb(folder: Path) -> float:
    """What a folder takes on its disk, in MB (a million bytes): whole blocks, each file once."""
    seen: dict[tuple[int, int], int] = {}
    for path in (folder, *folder.rglob("*")):
        status = path.lstat()
        seen[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(seen.values()) / 1e6
