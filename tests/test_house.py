"""The house rules: imports point one way, boards never load torch, and the package names are ours alone."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("models", "broker", "coordinator", "edge_agent", "emulation", "benchmarks")
MAY_IMPORT = {
    "models": {"models"},
    "broker": {"models", "broker"},
    "coordinator": {"models", "broker", "coordinator"},
    "edge_agent": {"models", "broker", "edge_agent"},
    "emulation": {"models", "broker", "coordinator", "edge_agent", "emulation"},
    "benchmarks": set(PACKAGES),
}
PURE = (
    "broker/wire", "coordinator/rounds", "coordinator/algorithms", "coordinator/folds", "coordinator/deployment",
    "edge_agent/session",
)  # fmt: skip
SHELLS = {"asyncio", "time", "socket", "threading", "subprocess", "random", "aiomqtt", "onnxruntime", "os", "pathlib"}


def named(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported(path: Path) -> set[str]:
    """The same, with the names of this project without the leading `lamina.`."""
    return {name.removeprefix("lamina.") for name in named(path)}


def top_level(path: Path) -> set[str]:
    return {name.split(".")[0] for name in named(path)}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for path in files(package):
        ours = {name.split(".")[0] for name in imported(path)} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


def test_packages_are_imported_below_one_namespace() -> None:
    ours = set(PACKAGES) - {"benchmarks"}
    for folder in (*PACKAGES, "tests", "scripts"):
        for path in files(folder):
            assert not top_level(path) & ours, f"{path.relative_to(ROOT)} imports a package without lamina"


def test_one_file_imports_aiomqtt() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in files(package)
        if any(name.split(".")[0] in ("aiomqtt", "paho") for name in imported(path))
    }
    assert importers == {"broker/link/mqtt.py", "benchmarks/bare.py"}  # the other is what ours is measured beside


def test_one_file_of_the_agent_imports_onnxruntime() -> None:
    importers = {
        path.name for path in files("edge_agent") if any(name.split(".")[0] == "onnxruntime" for name in imported(path))
    }
    assert importers == {"trainer.py"}


@pytest.mark.parametrize("module", ["learner", "input_side"])
def test_the_learner_knows_its_engine_by_the_seam_alone(module: str) -> None:
    names = imported(ROOT / "edge_agent" / "training" / f"{module}.py")
    assert "edge_agent.training.engine" in names
    assert "edge_agent.training.trainer" not in names


@pytest.mark.parametrize(
    "path", [path for room in PURE for path in files(room)], ids=lambda p: str(p.relative_to(ROOT))
)
def test_pure_rooms_touch_no_clock_disk_or_network(path: Path) -> None:
    allowed = {"threading"} if "codecs" in path.parts else set()  # each thread has a compressor of its own
    assert not {name.split(".")[0] for name in imported(path)} & SHELLS - allowed


@pytest.mark.parametrize(
    "module", ["edge_agent.service.agent", "edge_agent.cli", "edge_agent.training.measure",
               "coordinator.service.coordinator", "broker.link.mqtt", "coordinator.commands.run", "emulation.fleet"],
)  # fmt: skip
def test_torch_stays_out(module: str) -> None:
    script = f"import sys, lamina.{module}; sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", ["edge_agent.service.agent", "edge_agent.cli"])
def test_a_board_needs_nothing_but_its_extra(module: str) -> None:
    heavy = {"onnx", "matplotlib", "sklearn", "rich", "amqtt", "scipy"}
    script = f"import sys, lamina.{module}; print({{name.split('.')[0] for name in sys.modules}} & {heavy})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_no_other_distribution_owns_our_name() -> None:
    assert set(packages_distributions().get("lamina", [])) <= {"lamina-fl"}
