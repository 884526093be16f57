"""Algorithms are found by name: every file of this room that has an ``ALGORITHM`` is listed, and nothing else lists it.

A new algorithm is one file here, and one test. Its ``ALGORITHM`` is an `IntervalRule` (``aggregation.intervals``), a
`ServerOptimiser` (``server.optimiser``) or a `LocalAlgorithm` (``aggregation.algorithm``).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, TypeVar

from lamina.coordinator import algorithms
from lamina.models.errors import ConfigError, did_you_mean


class Algorithm(Protocol):
    """An algorithm has a name, by which settings give it."""

    @property
    def name(self) -> str: ...  # noqa: D102 - see the class


_A = TypeVar("_A", bound=Algorithm)


def found(kind: type[_A]) -> dict[str, _A]:
    """The algorithms of one kind, by name."""
    return {algorithm.name: algorithm for algorithm in _stated() if isinstance(algorithm, kind)}


def named(kind: type[_A], name: str, key: str) -> _A:
    """The algorithm of that name.

    Raises:
        ConfigError: there is none; the message begins with ``key``, the setting that gave the name.
    """
    known = found(kind)
    if name in known:
        return known[name]
    raise ConfigError(f"{key}: there is no {name!r}; {did_you_mean(name, sorted(known))}")


@cache
def _stated() -> list[object]:
    """The ``ALGORITHM`` of every file that has one."""
    modules = (import_module(f"{algorithms.__name__}.{module.name}") for module in iter_modules(algorithms.__path__))
    return [module.ALGORITHM for module in modules if hasattr(module, "ALGORITHM")]
