"""Reads a TOML file into a frozen value, checked key by key, with errors that an operator can act upon."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from lamina.models.errors import ConfigError, brief

_T = TypeVar("_T")
_MOST_LETTERS = 400  # of what is wrong: a value may be quoted in it
_AT = re.compile(r" - at `(key in )?\$\.?(?P<path>.*)`$")


def load_toml(path: Path, kind: type[_T]) -> _T:
    """The settings of ``kind`` that the file holds.

    Raises:
        ConfigError: the file is missing or isn't TOML, or a key is unknown, missing or of the wrong type.
    """
    return convert(read_toml(path), kind, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables, unchecked.

    Raises:
        ConfigError: the file is missing, or isn't TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def convert(data: dict[str, Any], kind: type[_T], source: str) -> _T:
    """The settings of ``kind`` in a parsed table; ``source`` says in errors where it came from.

    Raises:
        ConfigError: a key is unknown, missing or of the wrong type, or the settings refuse its value.
    """
    expected = inspect.type_info(kind)
    known = tuple(_known(expected))
    for path in _unknown(data, expected):
        raise ConfigError(f"{source}: unknown key {path!r}{_suggestion(path, known)}")
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        said = str(error)
        raise ConfigError(f"{source}: {brief(_readable(said), _MOST_LETTERS)}{_choices(said, expected)}") from None
    except ConfigError as error:  # from a struct's own checks
        raise ConfigError(f"{source}: {brief(str(error), _MOST_LETTERS)}") from None


def _tables(kind: inspect.Type) -> Iterator[inspect.StructType]:
    """The struct itself, or those inside an optional or a sequence."""
    if isinstance(kind, inspect.StructType):
        yield kind
    elif isinstance(kind, inspect.UnionType):
        for option in kind.types:
            yield from _tables(option)
    elif isinstance(kind, (inspect.ListType, inspect.VarTupleType)):
        yield from _tables(kind.item_type)


def _known(kind: inspect.Type, prefix: str = "") -> Iterator[str]:
    """Every key path that the type has, dotted."""
    for table in _tables(kind):
        for field in table.fields:
            yield prefix + field.encode_name
            yield from _known(field.type, f"{prefix}{field.encode_name}.")


def _unknown(data: object, kind: inspect.Type, prefix: str = "") -> Iterator[str]:
    """Key paths in the data that the type does not have."""
    if isinstance(data, list):
        for index, item in enumerate(data):
            yield from _unknown(item, kind, f"{prefix[:-1]}[{index}].")
        return
    fields = {field.encode_name: field for table in _tables(kind) for field in table.fields}
    if not isinstance(data, dict) or not fields:
        return
    for key, value in data.items():
        if key not in fields:
            yield prefix + key
        else:
            yield from _unknown(value, fields[key].type, f"{prefix}{key}.")


def _suggestion(path: str, known: tuple[str, ...]) -> str:
    """The nearest key of the same table, else the nearest anywhere."""
    table, _, key = path.rpartition(".")
    bare = re.sub(r"\[\d+\]", "", table)
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == bare}
    elsewhere = {other.rpartition(".")[2]: other for other in reversed(known)}
    for candidates in (siblings, elsewhere):
        if near := difflib.get_close_matches(key, candidates, n=1):
            return f"; did you mean {candidates[near[0]]!r}?"
    return f"; known here: {', '.join(siblings)}" if siblings else ""


def _choices(message: str, kind: inspect.Type) -> str:
    """What may stand where a value is none of a few words, to be appended to the message."""
    where = _AT.search(message)
    if "enum" not in message or not where or not where["path"]:
        return ""
    at = kind
    for name in where["path"].split("."):
        types = [field.type for table in _tables(at) for field in table.fields if field.encode_name == name]
        if not types:
            return ""
        at = types[0]
    branches = at.types if isinstance(at, inspect.UnionType) else (at,)
    words = [str(value) for branch in branches if isinstance(branch, inspect.LiteralType) for value in branch.values]
    return f"; give one of {', '.join(words)}" if words else ""


def _readable(message: str) -> str:
    """``Expected ... - at `$.a.b``` as ``a.b: expected ...``."""
    where = _AT.search(message)
    text = message[: where.start()] if where else message
    text = text.replace("`", "").replace("object", "table")
    if missing := re.search(r"missing required field (\S+)", text):
        path = f"{where['path']}." if where and where["path"] else ""
        return f"missing key '{path}{missing[1]}'"
    text = text[:1].lower() + text[1:]
    return f"{where['path']}: {text}" if where and where["path"] else text
