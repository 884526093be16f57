"""Writes the reference of a settings file: a table a struct, with an example of every key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from scripts.documents.structs import Row, rows, summary, written

HERE = Path(__file__).parent


def page(title: str, intro: str, root: type[msgspec.Struct], example: str, parts: Mapping[str, Any]) -> str:
    """The page of one settings file.

    Args:
        title: its head.
        intro: what stands below.
        root: the struct of the whole file.
        example: name of the file with an example of every key, in this folder; the tests load it.
        parts: tables that a key may hold besides its plain form, by key.
    """
    examples = tomllib.loads((HERE / example).read_text())
    lines = [f"# {title}", "", *intro.strip().split("\n"), ""]
    lines += _table(root, examples, "", dict(parts))
    return "\n".join(lines).rstrip() + "\n"


def _table(
    struct: type[msgspec.Struct], examples: Mapping[str, Any], path: str, parts: dict[str, Any]
) -> Iterator[str]:
    below: list[tuple[str, Row]] = []
    if path:
        yield from (f"## [{path}]", "", summary(struct), "")
    yield "| key | type | default | unit | effect | example |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows(struct):
        if row.table is not None:
            below.append((row.key, row))
            continue
        kind, default = _cell(row.kind.removesuffix(" or nil")), _code(row.default) or "must be given"
        example = f"`{row.key} = {_cell(_example(row, examples, path))}`"
        yield f"| `{row.key}` | {kind} | {default} | {row.unit} | {_cell(row.effect)} | {example} |"
    yield ""
    for key, row in below:
        assert row.table is not None
        yield from _table(row.table, examples.get(key, {}), f"{path}.{key}" if path else key, {})
    for key, part in parts.items():
        yield from _table(part, examples.get(key, {}), key, {})


def _example(row: Row, examples: Mapping[str, Any], path: str) -> str:
    if row.key not in examples:
        if row.default not in ("", "left out"):
            return row.default
        raise LookupError(f"there is no example of {path}.{row.key} in {HERE}")
    value = examples[row.key]
    return "{...}" if isinstance(value, list) and value and isinstance(value[0], dict) else written(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return text if text in ("", "left out") else f"`{_cell(text)}`"
