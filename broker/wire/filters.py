"""Matches topics with MQTT's filters: ``+`` is any one level, a last ``#`` any number of levels."""

from __future__ import annotations

from lamina.models.errors import ConfigError


def split_filter(topic_filter: str) -> tuple[str, ...]:
    """The levels of a filter, checked once so that `matches` need not.

    Raises:
        ConfigError: a wildcard stands where MQTT allows none, or the filter is empty.
    """
    levels = tuple(topic_filter.split("/"))
    if not topic_filter or "#" in levels[:-1] or any(len(level) > 1 and set(level) & {"+", "#"} for level in levels):
        raise ConfigError(f"{topic_filter!r} is no MQTT topic filter")
    return levels


def matches(topic: tuple[str, ...], levels: tuple[str, ...]) -> bool:
    """Whether a topic, split at its slashes, matches a filter's levels. ``a/#`` matches ``a`` too."""
    if levels[-1] == "#":
        levels = levels[:-1]
        topic = topic[: len(levels)]
    return len(topic) == len(levels) and all(level in ("+", part) for part, level in zip(topic, levels, strict=True))
