"""Writes the generated parts of the documentation, or says which are out of date.

python -m scripts.documents            write them
python -m scripts.documents --check    exit status 1 where one differs from what the code says
    python -m scripts.documents --vectors  write the test vectors anew, too: their bytes are the protocol's, so they
                                           change with it alone
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from lamina.coordinator.settings import FederationSettings
from lamina.edge_agent.settings import AgentSettings
from lamina.models.readers.settings import DataSettings
from scripts.documents import commands_page, protocol_tables, vectors
from scripts.documents.settings_page import page

DOCS = Path(__file__).parent.parent.parent / "docs"

_FEDERATION = """
The coordinator reads it: `lamina run federation.toml`. `lamina init` writes one with comments. Relative paths start at
the file's own folder. An unknown key is an error that names the nearest known one; keys that are left out have the
default. [Operating a federation](../operating.md) says how the parts work together.
"""
_AGENT = """
A board reads it: `lamina-agent --config agent.toml`. `lamina-agent join` writes one. Relative paths start at the file's
own folder. `data` may be a path, or the table below; [data](../data.md) has an example for each kind.
"""


def pages(*, anew: bool = False) -> Iterator[tuple[Path, str]]:
    """Each page, and what it should say; the test vectors stay as they are, unless they are made anew."""
    reference = DOCS / "reference"
    yield (
        reference / "federation.md",
        page("federation.toml", _FEDERATION, FederationSettings, "federation.example.toml", {}),
    )
    yield (
        reference / "agent.md",
        page("agent.toml", _AGENT, AgentSettings, "agent.example.toml", {"data": DataSettings}),
    )
    yield reference / "commands.md", commands_page.page()
    protocol = DOCS / "protocol.md"
    text = protocol.read_text()
    for name, content in (
        ("topics", protocol_tables.topics()),
        ("messages", protocol_tables.messages()),
        ("codecs", protocol_tables.codecs()),
        *([("vectors", f"```json\n{vectors.as_lines()}\n```")] if anew else []),
    ):
        text = filled(text, name, content)
    yield protocol, text


def filled(text: str, name: str, content: str) -> str:
    """A page whose part between two marks is this.

    Raises:
        LookupError: it has no such marks.
    """
    head = f"<!-- {name}: made by python -m scripts.documents -->"
    part = re.compile(rf"({head}\n).*?(<!-- end of {name} -->)", re.DOTALL)
    if not part.search(text):
        raise LookupError(f"docs/protocol.md has no part {name}")
    return part.sub(lambda found: f"{found[1]}\n{content.rstrip()}\n\n{found[2]}", text)


def _now(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def main() -> int:
    """Write, or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--vectors", action="store_true", help="make the test vectors of the protocol anew")
    options = parser.parse_args()
    stale = [(path, text) for path, text in pages(anew=options.vectors) if _now(path) != text]
    for path, text in stale:
        print(f"{path} {'is out of date' if options.check else 'written'}")
        if not options.check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
