"""Lets torch draw the random numbers that a graph has drawn, so that the results of the two can be compared.

A training graph draws by a hash, and torch by its generator. The check makes what a graph draws an output of it, and
torch, in place of drawing, takes these tensors one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lamina.models.errors import ModelError


def draws(func: Any) -> bool:
    """Whether an operator draws from torch's generator.

    The fused attentions are marked as such, and draw nothing on a processor: attention with dropout isn't fused there.
    """
    if not isinstance(func, torch._ops.OpOverload) or "attention" in func._schema.name:
        return False
    return torch.Tag.nondeterministic_seeded in func.tags


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its base's __init_subclass__
    """Notes what torch draws, in ``drawn``."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the base's
        self.drawn: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if draws(func):
            self.drawn.append((result[1] if isinstance(result, tuple) else result).detach().clone())
        return result


class Replaying(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its base's __init_subclass__
    """Hands out ``drawn``, tensor by tensor, where torch would draw.

    Raises:
        ModelError: torch draws more often than that, or a tensor of another shape.
    """

    def __init__(self, drawn: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the base's
        self._left = list(drawn)

    @property
    def left(self) -> int:
        """How many tensors torch has not asked for."""
        return len(self._left)

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not draws(func):
            return result
        mask = result[1] if isinstance(result, tuple) else result
        if not self._left or tuple(self._left[0].shape) != tuple(mask.shape):
            drawn = "x".join(map(str, self._left[0].shape)) if self._left else "none"
            raise ModelError(
                f"torch draws {'x'.join(map(str, mask.shape)) or 'a number'} random numbers by {func.name()}, "
                f"where the graph draws {drawn}"
            )
        given = self._left.pop(0).to(mask.dtype)
        if isinstance(result, tuple):  # native_dropout: of x, p and whether it trains
            x, p = args[:2]
            return x * given * (1 / (1 - p) if p < 1 else 0.0), given
        return result.copy_(given)
