"""Reads a msgspec struct as a table: each field with its type and bounds, default and meaning."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect as kinds

_UNITS = {
    "_s": "seconds",
    "_mib": "MiB",
    "_kib": "KiB",
    "_mb": "MB",
    "_bytes": "bytes",
    "_days": "days",
    "_rounds": "rounds",
    "_elements": "elements",
    "_share": "share",
    "_steps": "steps",
    "_devices": "devices",
}
"""Names carry units."""


@dataclass(frozen=True)
class Row:
    """One field.

    Attributes:
        key: its name.
        kind: its type and bounds, in words.
        default: as TOML or JSON writes it; empty where it must be given.
        unit: empty where it has none.
        effect: the docstring's words.
        table: the struct of a field that is a table of its own; ``None`` otherwise.
    """

    key: str
    kind: str
    default: str
    unit: str
    effect: str
    table: type[msgspec.Struct] | None = None


def rows(struct: type[msgspec.Struct]) -> list[Row]:
    """The fields of a struct, in their order.

    Raises:
        LookupError: the docstring does not say what a field means.
    """
    meanings = documented(struct)
    info = kinds.type_info(struct)
    assert isinstance(info, kinds.StructType)
    found = []
    for field in info.fields:
        table = field.type.cls if isinstance(field.type, kinds.StructType) else None
        if table is None and field.name not in meanings:
            raise LookupError(f"{struct.__name__}.{field.name}: its docstring does not say what it means")
        unit = next((unit for suffix, unit in _UNITS.items() if field.name.endswith(suffix)), "")
        found.append(
            Row(
                field.name,
                in_words(field.type),
                _default(field),
                unit,
                meanings.get(field.name, "").replace("``", "`"),
                table,
            )
        )
    return found


def documented(struct: type) -> dict[str, str]:
    """The meaning of every field, by the ``Attributes`` of the docstrings of the struct and what it derives from."""
    meanings: dict[str, str] = {"v": "the protocol's version"}
    for base in reversed(struct.__mro__):
        meanings |= dict(_attributes(inspect.cleandoc(base.__doc__ or "")))
    return meanings


def _attributes(doc: str) -> Iterator[tuple[str, str]]:
    _, _, section = doc.partition("Attributes:\n")
    section = section.split("\n\n")[0]
    for entry in re.split(r"\n(?=    \w)", "\n" + section):
        name, colon, meaning = entry.strip().partition(":")
        if colon:
            yield name, " ".join(meaning.split())


def summary(struct: type) -> str:
    """The first paragraph of its docstring."""
    return " ".join(inspect.cleandoc(struct.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")


def in_words(kind: kinds.Type) -> str:
    """A type and its bounds."""
    match kind:
        case kinds.BoolType():
            return "boolean"
        case kinds.IntType() | kinds.FloatType():
            name = "integer" if isinstance(kind, kinds.IntType) else "float"
            return name + _between(kind.ge, kind.le)
        case kinds.StrType():
            return "string" + (f" of `{kind.pattern}`" if kind.pattern else _up_to(kind.max_length, "letters"))
        case kinds.BytesType():
            return "bytes" + _up_to(kind.max_length, "of them")
        case kinds.LiteralType():
            return " or ".join(f"`{value}`" for value in sorted(kind.values, key=str))
        case kinds.VarTupleType() | kinds.ListType():
            return f"array of {in_words(kind.item_type)}" + _up_to(kind.max_length, "items")
        case kinds.TupleType():
            return "array of " + ", ".join(map(in_words, kind.item_types))
        case kinds.DictType():
            pairs = f"{in_words(kind.key_type)} to {in_words(kind.value_type)}"
            return f"map of {pairs}" + _up_to(kind.max_length, "entries")
        case kinds.UnionType():
            named = [in_words(each) for each in kind.types if not isinstance(each, kinds.NoneType)]
            return " or ".join(named) + (" or nil" if len(named) < len(kind.types) else "")
        case kinds.StructType():
            return f"table `{kind.cls.__name__}`"
    return type(kind).__name__


def _between(least: float | None, most: float | None) -> str:
    if least is None and most is None:
        return ""
    return f", {_number(least)} to {_number(most)}"


def _number(value: float | None) -> str:
    if value is None:
        return "any"
    for bits in (32, 63):
        if value == 2**bits - 1:
            return f"2^{bits} - 1"
    return f"{value:g}"


def _up_to(most: int | None, what: str) -> str:
    return "" if most is None else f", up to {most} {what}"


def _default(field: kinds.Field) -> str:
    if field.required:
        return ""
    value = field.default
    if value is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        value = typing.cast(Any, field.default_factory)()
    if value in (msgspec.NODEFAULT, msgspec.UNSET, None) or isinstance(value, msgspec.Struct):
        return "left out"
    return written(value)


def written(value: object) -> str:
    """A value as TOML writes it, and JSON, too."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {written(each)}" for name, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, msgspec.Struct):
        return "left out"
    return msgspec.json.encode(value).decode()
