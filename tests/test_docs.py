"""The documentation: its code runs as it stands there, its links lead somewhere, its commands can be parsed."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch")

from lamina.broker.settings import convert
from lamina.coordinator.algorithms.catalogue import found
from lamina.coordinator.algorithms.interval_rule import IntervalRule
from lamina.coordinator.algorithms.local_algorithm import LocalAlgorithm
from lamina.coordinator.algorithms.server_optimiser import ServerOptimiser
from lamina.coordinator.folds.aggregate import FOLDS
from scripts.documents.commands_page import agent_parsers, lamina_parsers

DOCS = Path(__file__).parent.parent / "docs"
ROOT = DOCS.parent
PAGES = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md")})
PARSERS = {f"lamina {name}": parser for name, parser in lamina_parsers().items()} | agent_parsers()


def blocks(page: str) -> str:
    """The Python of a page, with empty lines in place of its text, so that an error names the page's line."""
    lines = (DOCS / page).read_text().splitlines()
    inside, code = False, []
    for line in lines:
        if line.startswith("```"):
            inside = line == "```python"
            code.append("")
        else:
            code.append(line if inside else "")
    return "\n".join(code)


@pytest.mark.parametrize("page", ["graph.md"])
def test_the_code_of_a_page_runs(page: str) -> None:
    exec(compile(blocks(page), str(DOCS / page), "exec"), {"__name__": "page"})


def test_the_tutorials_code_makes_samples_that_fit_its_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    page: dict = {"__name__": "page"}
    exec(compile(blocks("tutorial.md"), "tutorial.md", "exec"), page)
    module = page["build"]()
    samples = np.load("samples.npz")
    assert samples["x"].shape[1:] == module.input_shape
    assert samples["y"].max() < module.classes


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def heads(page: Path) -> set[str]:
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in found}


def test_links_to_a_heading_meet_one() -> None:
    for page in PAGES:
        for target, head in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            there = page.parent / target if target else page
            assert head in heads(there), f"{page.relative_to(ROOT)} links to {target}#{head}"


def commands(page: Path) -> list[str]:
    """Command lines of the project's programs in a page's blocks of code, one a line."""
    fenced = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    .*$", page.read_text(), re.MULTILINE)
    lines = [line.strip() for block in fenced for line in block.splitlines()] + [line.strip() for line in indented]
    return [line for line in lines if re.match(r"(sudo |\$ )?lamina(-agent)? ", line)]


COMMANDS = sorted({(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in commands(page)})


def test_there_are_many_commands_on_the_pages() -> None:
    assert len(COMMANDS) > 60


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page}: {line[:60]}" for page, line in COMMANDS])
def test_a_command_on_a_page_can_be_parsed(page: str, line: str) -> None:
    words = shlex.split(line.removeprefix("$ "), comments=True)
    words = [word for word in words if word not in ("sudo", "&")]
    two = " ".join(words[:2])
    name = two if two in PARSERS else words[0]
    assert name in PARSERS, f"there is no command {two}"
    PARSERS[name].parse_args(words[len(name.split()) :])


def test_every_page_stands_in_the_sites_navigation() -> None:
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())

    def pages(entry: object) -> list[str]:
        match entry:
            case str():
                return [entry]
            case dict():
                return [page for value in entry.values() for page in pages(value)]
            case list():
                return [page for value in entry for page in pages(value)]
        return []

    shown = pages(yaml.safe_load(text)["nav"])
    assert sorted(shown) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("kind", [LocalAlgorithm, IntervalRule, ServerOptimiser])
def test_every_algorithm_is_described_where_one_looks_for_it(kind: type) -> None:
    page = (DOCS / "algorithms.md").read_text()
    assert [name for name in found(kind) if f"`{name}`" not in page] == []


def test_every_fold_is_described_where_one_looks_for_it() -> None:
    for page in ("algorithms.md", "robustness.md"):
        assert [name for name in FOLDS if f"`{name}" not in (DOCS / page).read_text()] == []


@pytest.mark.parametrize("page", ["tutorial.md", "how-to/small-links.md"])
def test_settings_on_a_page_are_valid(page: str) -> None:
    from lamina.coordinator.settings import FederationSettings

    for block in re.findall(r"^```toml\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        convert({"federation": "f", "bundle": "b"} | tomllib.loads(block), FederationSettings, page)
