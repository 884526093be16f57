"""Children start without the current folder on their path; the engine's telemetry is off before it is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lamina.models import machine

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "broker", "coordinator", "edge_agent", "emulation")

SESSION = """
import sys
import lamina.{first}
import numpy as np, onnx, onnxruntime
value = onnx.helper.make_tensor_value_info
graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", 1, [1])],
                               [value("y", 1, [1])])
model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
    None, {{"x": np.zeros(1, np.float32)}})
"""


def without_ci(home: Path) -> dict[str, str]:
    """An environment in which the engine would report: it keeps quiet where ``CI`` is set."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"} | {
        "XDG_CACHE_HOME": str(home / ".cache")
    }


@pytest.mark.parametrize("first", ["edge_agent.training.trainer", "coordinator.records.evaluate", "models.errors"])
def test_no_engine_session_writes_below_the_home(first: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SESSION.format(first=first)], env=without_ci(tmp_path), check=True)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace isn't installed")
def test_an_engine_session_opens_no_socket(tmp_path: Path) -> None:
    program = SESSION.format(first="models.errors") + "import time; time.sleep(3)"
    log = tmp_path / "trace"
    traced = ["strace", "-f", "-e", "trace=connect,sendto", "-o", str(log), sys.executable, "-c", program]
    if subprocess.run(traced, env=without_ci(tmp_path), capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")
    assert "sin_port" not in log.read_text()


def test_a_module_in_the_current_folder_is_not_the_childs(tmp_path: Path) -> None:
    for name in ("json", "models", "broker", "coordinator", "lamina"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the current folder was taken')")
    command = [*machine.module_command("lamina.edge_agent.training.measure"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_child_of_the_packages_is_started_so() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path != ROOT / "models" / "machine.py":
                assert '"-m", "lamina' not in path.read_text(), f"{path.relative_to(ROOT)}: use module_command"


def test_cores_are_told_where_a_process_cannot_be_confined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert machine.usable_cores() == os.cpu_count()
