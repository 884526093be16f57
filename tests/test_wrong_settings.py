"""Every key of both configuration files, given what it can't be: one line says in which file, at which key, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.settings import FederationSettings
from lamina.edge_agent.cli import options_of, settings_of
from lamina.edge_agent.settings import AgentSettings
from lamina.models.errors import ConfigError

WRONG = ["", "x", "a/b\0", "x" * 3000, -1, 10**18, float("nan"), [1], {"x": 1}]
FEDERATION = {"federation": "f", "bundle": "b", "folder": "r"}
AGENT = {"federation": "f", "device": "d", "data": "digits"}


def load_agent(file: Path) -> object:
    return settings_of(options_of(["--config", str(file)]))


def table_of(kind: Any) -> type[msgspec.Struct] | None:
    """The table that a key may hold, if it may hold one."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if get_origin(kind) in (tuple, list, dict):
        return None
    return next(filter(None, map(table_of, get_args(kind))), None)


def keys(kind: type[msgspec.Struct], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    hints = get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        path = (*above, field.encode_name)
        yield path
        if table := table_of(hints[field.name]):
            yield from keys(table, path)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value) if isinstance(value, str) else str(value)


def given(base: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    tables = json.loads(json.dumps(base))
    at = tables
    for name in path[:-1]:
        inner = at.get(name)
        # What else a source of samples needs.
        at[name] = inner if isinstance(inner, dict) else {"path": "x"} if name in ("data", "held_out") else {}
        at = at[name]
    at[path[-1]] = value
    return tables


@pytest.mark.parametrize(
    ("load", "kind", "base"),
    [(load_federation, FederationSettings, FEDERATION), (load_agent, AgentSettings, AGENT)],
    ids=["federation.toml", "agent.toml"],
)
def test_each_key_in_turn(
    load: Callable[[Path], object], kind: type[msgspec.Struct], base: dict[str, Any], tmp_path: Path
) -> None:
    file, refused = tmp_path / "settings.toml", 0
    for path in keys(kind):
        for value in WRONG:
            file.write_text("\n".join(f"{name} = {toml(part)}" for name, part in given(base, path, value).items()))
            try:
                load(file)
            except ConfigError as error:
                said = str(error)
                refused += 1
                assert str(file) in said, said
                assert path[-1] in said, (path, value, said)
                assert said.isprintable(), said
                assert len(said) < 700, said
    assert refused > 300


def test_where_only_some_words_may_stand_they_are_named(tmp_path: Path) -> None:
    file = tmp_path / "federation.toml"
    file.write_text('federation = "f"\nbundle = "b"\nfolder = "r"\n[aggregation]\nweighting = "exmples"\n')
    with pytest.raises(ConfigError, match=r"aggregation\.weighting.*num_examples, uniform"):
        load_federation(file)
