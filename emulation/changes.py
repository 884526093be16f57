"""Changes that the command line makes in an experiment: values at dotted keys, and the size of the fleet."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from lamina.broker.settings import convert
from lamina.emulation.experiment import Experiment, Group
from lamina.models.errors import ConfigError


def changed(experiment: Experiment, changes: Mapping[str, object], source: str = "the command line") -> Experiment:
    """The experiment with other values at dotted keys, such as ``training.lr``.

    Raises:
        ConfigError: a key or a value that an experiment can't have; the message names ``source``.
    """
    tree: dict[str, Any] = msgspec.to_builtins(experiment)
    for key, value in changes.items():
        *tables, last = key.split(".")
        table = tree
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{source}: {key}: {name} is no table of an experiment")
        table[last] = value
    return convert(tree, Experiment, source)


def parse_change(text: str) -> tuple[str, object]:
    """``"training.lr=0.1"`` to ``("training.lr", 0.1)``; what is no TOML value is taken as a string.

    Raises:
        ConfigError: there is no ``=`` in it.
    """
    key, equals, value = text.partition("=")
    if not (key.strip() and equals):
        raise ConfigError(f"--set takes key=value, such as training.lr=0.1, and not {text!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def with_devices(fleet: Sequence[Group], devices: int) -> tuple[Group, ...]:
    """The fleet with ``devices`` in all, its groups in proportion: what is over goes to the largest remainders.

    Raises:
        ConfigError: fewer than one.
    """
    if devices < 1:
        raise ConfigError(f"--devices must be at least 1, and is {devices}")
    total = sum(group.devices for group in fleet)
    exact = [devices * group.devices / total for group in fleet]
    sizes = [int(share) for share in exact]
    by_remainder = sorted(range(len(fleet)), key=lambda index: sizes[index] - exact[index])  # stable: the first wins
    for index in by_remainder[: devices - sum(sizes)]:
        sizes[index] += 1
    return tuple(msgspec.structs.replace(group, devices=size) for group, size in zip(fleet, sizes, strict=True))
