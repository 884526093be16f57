"""How much memory a process takes and may take, from what the kernel writes."""

from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from lamina.edge_agent.training.memory import (
    MIB,
    PeakMeter,
    free_bytes,
    group_paths,
    inactive_cache_bytes,
    kib_field,
    limit_bytes,
)

MEMINFO = """MemTotal:        3882824 kB
MemFree:         2112456 kB
MemAvailable:    3145728 kB
Buffers:           52244 kB
"""

STATUS = """Name:	python
VmPeak:	  190000 kB
VmHWM:	   40960 kB
VmRSS:	   30720 kB
Threads:	3
"""

STAT_2 = "anon 1000\nfile 5000\ninactive_anon 10\nactive_anon 20\ninactive_file 4096\nactive_file 904\n"
STAT_1 = "cache 5000\ninactive_file 1\ntotal_cache 9000\ntotal_inactive_file 8192\n"

# A Raspberry Pi (version 2 only), a container of an older host (version 1), and a host with both.
SELF_2 = "0::/system.slice/lamina-agent.service\n"
SELF_1 = "12:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n1:name=systemd:/docker/abc\n"
SELF_BOTH = "5:memory:/a\n0::/\n"


def test_fields_are_read_in_bytes() -> None:
    assert kib_field(MEMINFO, "MemAvailable") == 3 * 1024 * MIB
    assert kib_field(STATUS, "VmRSS") == 30 * MIB
    assert kib_field(STATUS, "VmSwap") is None
    assert kib_field("NotVmRSS:  3 kB", "VmRSS") is None


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("268435456\n", 256 * MIB), ("9223372036854771712\n", None), ("0\n", 0), ("", None)],
)
def test_no_limit_has_a_word_in_version_2_and_a_number_in_version_1(text: str, limit: int | None) -> None:
    assert limit_bytes(text) == limit


def test_inactive_page_cache_counts_the_children_in_version_1() -> None:
    assert inactive_cache_bytes(STAT_2) == 4096
    assert inactive_cache_bytes(STAT_1) == 8192
    assert inactive_cache_bytes("") == 0


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (SELF_2, ["system.slice/lamina-agent.service", "system.slice", "."]),
        (SELF_1, ["memory/docker/abc", "memory/docker", "memory"]),
        (SELF_BOTH, ["memory/a", "memory", "."]),
        ("", []),
    ],
)
def test_limits_may_stand_on_every_group_above(text: str, paths: list[str]) -> None:
    assert group_paths(text) == tuple(map(PurePosixPath, paths))


def board(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_without_limits_what_is_available_is_free(tmp_path: Path) -> None:
    board(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": SELF_2})
    assert free_bytes(tmp_path) == 3 * 1024 * MIB


def test_a_limit_of_version_2_leaves_what_is_below_it(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/system.slice/lamina-agent.service"
    board(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": SELF_2,
            f"{group}/memory.max": "10000\n",
            f"{group}/memory.current": "6000\n",
            f"{group}/memory.stat": STAT_2,
        },
    )
    assert free_bytes(tmp_path) == 10000 - 6000 + 4096


def test_the_tightest_group_counts(tmp_path: Path) -> None:
    board(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": SELF_2,
            "sys/fs/cgroup/system.slice/lamina-agent.service/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/lamina-agent.service/memory.current": "6000\n",
            "sys/fs/cgroup/system.slice/memory.max": "7000\n",
            "sys/fs/cgroup/system.slice/memory.current": "6500\n",
        },
    )
    assert free_bytes(tmp_path) == 500


def test_a_containers_own_group_is_the_root_of_its_hierarchy(tmp_path: Path) -> None:
    board(
        tmp_path,
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": SELF_1,  # the host's path, which the container does not see
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "20000\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "15000\n",
            "sys/fs/cgroup/memory/memory.stat": STAT_1,
        },
    )
    assert free_bytes(tmp_path) == 20000 - 15000 + 8192


def test_a_group_above_its_limit_leaves_nothing(tmp_path: Path) -> None:
    board(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/memory.max": "100\n",
            "sys/fs/cgroup/memory.current": "300\n",
        },
    )
    assert free_bytes(tmp_path) == 0


def test_another_platform_can_not_tell(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None
    assert PeakMeter(tmp_path).peak_mib() is None


def test_the_peak_counts_above_the_resident_size_at_the_beginning(tmp_path: Path) -> None:
    board(tmp_path, {"status": STATUS, "clear_refs": ""})
    meter = PeakMeter(tmp_path)
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert meter.idle_bytes == 30 * MIB
    assert meter.peak_mib() == 10.0  # 40 MiB at most, 30 at the beginning


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells a process its peak")
def test_a_peak_that_is_past_is_still_seen() -> None:
    meter = PeakMeter()
    before = meter.peak_mib()
    block = np.ones(96 * MIB // 8)
    del block
    assert before is not None
    assert before < 16
    assert 80 < (meter.peak_mib() or 0) < 160  # some of it may lie in pages that were resident already
