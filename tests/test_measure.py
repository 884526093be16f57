"""``python -m lamina.edge_agent.training.measure``: the peak of a sub-model in a fresh process, as one JSON line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny_training import write_trainable_bundle

ROOT = Path(__file__).parent.parent
LINUX = Path("/proc/self/clear_refs").exists()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_trainable_bundle(folder)
    return folder


def measured(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lamina.edge_agent.training.measure", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not LINUX, reason="only Linux tells a process its peak")
@pytest.mark.parametrize("cut", [0, 1])
def test_a_larger_batch_takes_more(bundle: Path, cut: int) -> None:
    """Each of 150,000 samples keeps at least h (2), logits, log p, p and target (3 each): 56 bytes, 8 MiB in all."""
    small = measured(bundle, "--cut", cut)
    large = measured(bundle, "--cut", cut, "--batch-size", 150_000)
    assert (small.returncode, small.stdout.count("\n")) == (0, 1)
    assert json.loads(large.stdout)["peak_mib"] > json.loads(small.stdout)["peak_mib"] + 8


def test_a_cut_that_is_not_there_is_one_line(bundle: Path) -> None:
    refused = measured(bundle, "--cut", 7)
    assert refused.returncode == 2
    assert refused.stderr == f"measure: bundle {bundle}: its cuts are (0, 1), and 7 is none of them\n"


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path) -> None:
    refused = measured(tmp_path)
    assert refused.returncode == 2
    assert "it has no manifest.json, so it is no bundle" in refused.stderr
    assert refused.stderr.count("\n") == 1
