"""The masks of torch's transformer layers, which are looked at while they are used, taken as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn.modules import transformer


@contextmanager
def traceable_masks() -> Iterator[None]:
    """Inside, torch's transformers don't look whether a mask is the causal one: with the mask, it makes no difference.
    """
    before = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = _as_told
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = before


def _as_told(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """What the caller says; a mask that is given counts as any mask."""
    return bool(is_causal)
