"""The norm of a network of the zoo: batch norm, or group norm for fleets with skewed labels."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lamina.models.errors import ModelError

GROUPS = 8

MakeNorm = Callable[[int], nn.Module]
"""Makes a norm for a number of channels."""

NORMS: dict[str, MakeNorm] = {
    "batch": nn.BatchNorm2d,
    # Without running statistics, so devices with few classes can't disagree on them (Hsieh et al. 2020).
    "group": lambda channels: nn.GroupNorm(GROUPS, channels),
}


def norm_named(norm: str, model: str) -> MakeNorm:
    """The norm of that name, for images (N, C, H, W).

    Args:
        norm: ``batch`` or ``group``; groups ask for channels in multiples of `GROUPS`.
        model: whose norm it is, for the error.

    Raises:
        ModelError: there is no such norm.
    """
    if norm not in NORMS:
        raise ModelError(f"model {model}: norm must be one of {', '.join(NORMS)}, and is {norm!r}")
    return NORMS[norm]
