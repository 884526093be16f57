"""The code in the documentation runs as it stands there."""

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

DOCS = Path(__file__).parent.parent / "docs"


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


def test_links_between_pages_lead_somewhere() -> None:
    root = DOCS.parent
    for page in (*root.glob("*.md"), *DOCS.rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(root)} links to {target}"
