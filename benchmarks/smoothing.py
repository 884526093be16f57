"""A network without kinks: the same module with smooth functions in place of rectifiers and maxima."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lamina.models.definition import Definition


def without_kinks(definition: Definition) -> Definition:
    """The network with a tangent for every rectifier, and averages for maxima; its values are copies."""
    return Definition(**{**vars(definition), "module": _Smoothed(definition.module), "cuts": ()})


class _Smoothed(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)

    def forward(self, x: Tensor) -> Tensor:
        with _SmoothingMode():
            return self.module(x)  # type: ignore[no-any-return]  # torch's modules return Any


class _SmoothingMode(TorchFunctionMode):
    """Calls smooth functions in place of those with kinks."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _SMOOTH.get(func, func)(*args, **(kwargs or {}))


def _tangent(x: Tensor, *bounds: object, **options: object) -> Tensor:
    return torch.tanh(x)


def _averaging(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def average(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, **options: object) -> Tensor:
        return pool(x, kernel_size, stride or None, padding)

    return average


_SMOOTH: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.relu, Tensor.relu, F.relu, F.relu6, F.hardtanh), _tangent),
    F.max_pool1d: _averaging(F.avg_pool1d),
    F.max_pool2d: _averaging(F.avg_pool2d),
    Tensor.amax: Tensor.mean,
}
