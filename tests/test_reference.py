"""docs/reference and docs/exit-codes.md say what the code says, and the example of every --help can be parsed."""

import ast
import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("torch")

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.settings import convert, read_toml
from lamina.coordinator.settings import FederationSettings
from lamina.edge_agent.settings import AgentSettings
from scripts.documents.__main__ import pages
from scripts.documents.commands_page import agent_parsers, example_of, lamina_parsers

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "scripts" / "documents"
PARSERS = {f"lamina {name}": parser for name, parser in lamina_parsers().items()} | agent_parsers()


def test_the_generated_pages_are_current() -> None:
    stale = [path.name for path, text in pages() if path.read_text() != text]
    assert not stale, "run python -m scripts.documents"


def test_the_examples_of_every_key_are_valid_together() -> None:
    for name, struct in (("federation", FederationSettings), ("agent", AgentSettings)):
        table = read_toml(EXAMPLES / f"{name}.example.toml")
        assert table["broker"].pop("password")  # the one key that no file with the others may hold
        convert(table, struct, name)


@pytest.mark.parametrize("name", PARSERS)
def test_help_ends_with_an_example_that_can_be_parsed(name: str) -> None:
    words = shlex.split(example_of(PARSERS[name]))
    program = name.split()
    assert words[: len(program)] == program
    PARSERS[name].parse_args(words[len(program) :])


def test_every_exit_status_has_a_row_and_a_remedy() -> None:
    rows = re.findall(
        r"^\| (\d+) \| `(\w+)` \| (.+) \| (.+) \|$", (ROOT / "docs" / "exit-codes.md").read_text(), re.MULTILINE
    )
    assert [(int(number), name) for number, name, _, _ in rows] == [(one.value, one.name) for one in ExitStatus]
    assert all(remedy.strip() for *_, remedy in rows)


def commands() -> list[Path]:
    folders = ("coordinator", "edge_agent", "emulation")
    return [ROOT / "coordinator" / "cli.py", ROOT / "edge_agent" / "cli.py"] + [
        path for folder in folders for path in sorted((ROOT / folder / "commands").glob("*.py"))
    ]


@pytest.mark.parametrize("path", commands(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_returns_a_status_that_has_a_name(path: Path) -> None:
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef) and function.name in ("main", "run", "_take_part"):
            numbers = [
                constant.value
                for statement in ast.walk(function)
                if isinstance(statement, ast.Return) and statement.value is not None
                for constant in ast.walk(statement.value)
                if isinstance(constant, ast.Constant) and type(constant.value) is int
            ]
            assert not numbers, f"{function.name} returns {numbers}: use ExitStatus"
