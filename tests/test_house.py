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
PURE = {
    "broker": ["partials", "foldable", "batches", "packing", "deltas", "codecs/side_by_side"],
    "coordinator": ["round", "site", "federation", "aggregate", "fold", "mean", "exact", "passes", "cohort_pass",
                    "fedavg", "fedlama", "embracing", "selection", "accounting", "server", "server_optimiser"],
    "edge_agent": ["session", "error_feedback"],
}  # fmt: skip
SHELLS = {"asyncio", "time", "socket", "threading", "subprocess", "random", "aiomqtt", "onnxruntime", "os", "pathlib"}


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        ours = {name.split(".")[0] for name in imported(path)} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package], f"{path.relative_to(ROOT)} imports {ours - MAY_IMPORT[package]}"


def test_one_file_imports_aiomqtt() -> None:
    importers = {path.name for path in (ROOT / "broker").rglob("*.py") if "aiomqtt" in imported(path)}
    everywhere = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if any(name.split(".")[0] in ("aiomqtt", "paho") for name in imported(path))
    }
    assert importers == {"link.py"}
    assert everywhere == {"broker/link.py", "benchmarks/bare.py"}  # the other is what ours is measured beside


def test_one_file_of_the_agent_imports_onnxruntime() -> None:
    files = (ROOT / "edge_agent").rglob("*.py")
    importers = {path.name for path in files if any(name.split(".")[0] == "onnxruntime" for name in imported(path))}
    assert importers == {"trainer.py"}


@pytest.mark.parametrize("module", ["learner", "input_side"])
def test_the_learner_knows_its_engine_by_the_seam_alone(module: str) -> None:
    names = imported(ROOT / "edge_agent" / f"{module}.py")
    assert "edge_agent.engine" in names
    assert "edge_agent.trainer" not in names


@pytest.mark.parametrize(("package", "module"), [(package, name) for package, names in PURE.items() for name in names])
def test_pure_files_touch_no_clock_disk_or_network(package: str, module: str) -> None:
    names = {name.split(".")[0] for name in imported(ROOT / package / f"{module}.py")}
    assert not names & SHELLS


@pytest.mark.parametrize(
    "module", ["edge_agent.service", "edge_agent.cli", "edge_agent.measure", "coordinator.service", "broker.link",
               "coordinator.commands.run", "emulation.fleet"],
)  # fmt: skip
def test_torch_stays_out(module: str) -> None:
    script = f"import sys, {module}; sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("module", ["edge_agent.service", "edge_agent.cli"])
def test_a_board_needs_nothing_but_its_extra(module: str) -> None:
    heavy = {"onnx", "matplotlib", "sklearn", "rich", "amqtt", "scipy"}
    script = f"import sys, {module}; print({{name.split('.')[0] for name in sys.modules}} & {heavy})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("package", PACKAGES[:-1])
def test_no_other_distribution_owns_our_package_names(package: str) -> None:
    assert set(packages_distributions().get(package, [])) <= {"lamina-fl"}
