"""What an agent takes of a board: what it loads before it has something to train, and how the benchmark measures it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import descendants, disk_mb, peak_of, pss_mib
from lamina.edge_agent.training import installed
from lamina.models.errors import ConfigError

WITHOUT = ("onnxruntime", "onnx", "torch", "aiohttp", "cryptography", "matplotlib", "rich", "sklearn", "PIL", "pyarrow")


def test_an_idle_agent_has_loaded_neither_the_engine_nor_anything_else_that_it_may_never_need(tmp_path: Path) -> None:
    program = f"""
import sys
import numpy as np
np.savez("samples.npz", x=np.zeros((4, 2), np.float32), y=np.zeros(4, np.int64))
from lamina.broker.link.memory import MemoryBroker
from lamina.edge_agent.cli import options_of, settings_of
from lamina.edge_agent.service.agent import Agent
from lamina.models.sources import load_samples
options = options_of(["--federation", "f", "--device", "d", "--data", "samples.npz", "--host", "localhost"])
settings = settings_of(options)
agent = Agent(settings, load_samples(settings.data), MemoryBroker().dial)
assert agent.profile.engine.startswith("onnxruntime"), agent.profile.engine
print(sorted(set(sys.modules) & set({WITHOUT!r})))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_engine_is_named_without_being_loaded() -> None:
    import onnxruntime

    assert installed.engine_name().split()[1] == onnxruntime.__version__


def test_an_engine_that_is_missing_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda _: None)
    installed._build.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"pip install 'lamina-fl\[edge\]'"):
            installed.engine_name()
    finally:
        installed._build.cache_clear()


def test_a_build_without_the_file_is_asked_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = installed.engine_name()
    monkeypatch.setattr(installed, "_FACT", re.compile("(nothing)(like this)"))
    installed._build.cache_clear()
    try:
        assert installed.engine_name() == known
    finally:
        installed._build.cache_clear()


linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the figures are Linux's")


@linux
def test_memory_of_children_counts() -> None:
    hold = "import sys; block = bytearray(b'x' * (32 << 20)); print('ready', flush=True); sys.stdin.read()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert len(list(descendants(process.pid))) == 1
        assert pss_mib(process.pid) > 32
    finally:
        process.communicate()
    assert pss_mib(process.pid) == 0


@linux
def test_a_peak_is_kept_when_it_is_over() -> None:
    with peak_of(os.getpid(), apart_s=0.001) as peak:
        before = peak.mib
        block = bytearray(b"x" * (64 << 20))
        while peak.mib < before + 64:
            time.sleep(0.001)
        del block
    assert peak.mib >= 64


def test_a_file_with_two_names_takes_its_place_once(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(os.urandom(3_000_000))
    alone = disk_mb(tmp_path)
    os.link(tmp_path / "one", tmp_path / "two")
    assert disk_mb(tmp_path) == pytest.approx(alone, abs=0.1)
    assert alone >= 3
