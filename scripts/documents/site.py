"""Fits pages to the site: links to files of the repository that are no pages become their names."""

from __future__ import annotations

import re
from typing import Any

_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs with each page."""
    depth = page.file.src_uri.count("/")

    def fitted(found: re.Match[str]) -> str:
        leaves = found[2].count("../") > depth
        return f"{found[1]} (`{found[2].replace('../', '')}` in the repository)" if leaves else found[0]

    return _LINK.sub(fitted, markdown)
