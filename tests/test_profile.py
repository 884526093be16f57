"""What an agent tells of its board."""

import os
from pathlib import Path

import numpy as np
import pytest

from lamina.broker.wire.codecs import CODECS
from lamina.edge_agent.service.profile import budget_mib, probe, threads
from lamina.edge_agent.settings import AgentSettings
from lamina.models.errors import ConfigError
from lamina.models.samples import LabelledSamples

DATA = LabelledSamples(np.zeros((5, 1, 8, 8), np.float32), np.array([0, 3, 1, 3, 2]))


def settings(**more: object) -> AgentSettings:
    return AgentSettings("lab", "pi-1", "train.npz", **more)  # type: ignore[arg-type]  # each test gives what fits


def test_a_profile_says_what_the_coordinator_needs() -> None:
    profile = probe(settings(budget_mib=12.5, threads=1), DATA, "onnxruntime 1.32.0")
    assert (profile.device, profile.budget_mib, profile.cores) == ("pi-1", 12.5, 1)
    assert (profile.num_examples, profile.classes, profile.sample_shape) == (5, 4, (1, 8, 8))
    assert (profile.codecs, profile.engine) == (CODECS, "onnxruntime 1.32.0")
    assert profile.architecture == os.uname().machine


def test_four_fifths_of_what_the_engine_leaves_free_are_offered(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable:  133120 kB\n")  # 130 MiB, of which the engine takes 30
    assert budget_mib(tmp_path) == 80.0
    assert probe(settings(), DATA, "engine", tmp_path).budget_mib == 80.0


def test_a_budget_is_rounded_down(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable:  31720 kB\n")  # 30 and 0.9766 MiB, four fifths 0.78
    assert budget_mib(tmp_path) == 0.7


def test_a_platform_that_can_not_tell_needs_a_budget(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="set budget_mib in the configuration"):
        probe(settings(), DATA, "engine", tmp_path)
    assert probe(settings(budget_mib=3), DATA, "engine", tmp_path).budget_mib == 3


def test_no_more_threads_than_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads(settings()) == cores
    assert threads(settings(threads=1)) == 1
    assert threads(settings(threads=10_000)) == cores
