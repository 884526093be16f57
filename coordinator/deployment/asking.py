"""Reads which devices an operator wants a model to go to first. Pure."""

from __future__ import annotations

from lamina.models.errors import ConfigError


def canaries_of(text: str | None) -> int | tuple[str, ...] | None:
    """How many canaries a flag asks for, or which ones; ``None``: it leaves it open.

    Raises:
        ConfigError: it names nobody.
    """
    if text is None:
        return None
    if text.isdecimal() and len(text) < 7:
        return int(text)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ConfigError("--canary: say how many, or name devices")
    return names
