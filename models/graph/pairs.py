"""A complex tensor as a pair of real ones, and what becomes of a pair in each operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Operators that move elements, or that are linear, do the same to both parts.
_MOVING = """
    _neg_view _unsafe_view alias as_strided cat clone constant_pad_nd contiguous copy cumsum detach diagonal
    empty_like expand flip gather index index_put index_select mean neg new_empty new_empty_strided new_zeros
    permute repeat reshape resolve_conj resolve_neg roll select select_backward select_scatter slice slice_backward
    slice_scatter split split_with_sizes squeeze stack sum t transpose unbind unfold unfold_backward unsqueeze view
    where zeros_like
"""
MOVING = frozenset(_MOVING.split())


@dataclass(frozen=True, eq=False)
class Pair:
    """A complex tensor."""

    real: Tensor
    imaginary: Tensor


def parts(value: Any, index: int) -> Any:
    """``value``, in which the real (0) or the imaginary part (1) stands for each pair, and for other fractions."""
    if isinstance(value, Pair):
        return value.imaginary if index else value.real
    if isinstance(value, list | tuple):
        return type(value)(parts(each, index) for each in value)
    if isinstance(value, complex):
        return value.imag if index else value.real
    if index and isinstance(value, Tensor) and value.is_floating_point():
        return torch.zeros_like(value)
    return value


def as_pair(value: Any) -> Pair:
    """A number or a tensor, real or complex."""
    if isinstance(value, Tensor) and value.is_complex():
        return Pair(*torch.view_as_real(value.resolve_conj()).unbind(-1))
    if isinstance(value, Tensor):
        return Pair(value, torch.zeros_like(value))
    if isinstance(value, Pair):
        return value
    return Pair(torch.tensor(float(complex(value).real)), torch.tensor(float(complex(value).imag)))


def _product(x: Any, y: Any) -> Pair:
    if isinstance(x, Pair) and isinstance(y, Pair):
        real = x.real * y.real - x.imaginary * y.imaginary
        return Pair(real, x.real * y.imaginary + x.imaginary * y.real)
    if isinstance(x, complex) or isinstance(y, complex):
        return _product(as_pair(x), as_pair(y))
    pair, factor = (x, y) if isinstance(x, Pair) else (y, x)
    return Pair(pair.real * factor, pair.imaginary * factor)


def _inverse(x: Any) -> Pair:
    x = as_pair(x)
    square = x.real * x.real + x.imaginary * x.imaginary
    return Pair(x.real / square, -x.imaginary / square)


def _quotient(x: Any, y: Any) -> Pair:
    if isinstance(y, Pair):
        return _product(x, _inverse(y))
    if isinstance(y, complex):
        return _product(x, 1 / y)
    return Pair(x.real / y, x.imaginary / y)


def _sum(x: Any, y: Any, alpha: float = 1) -> Pair:
    a, b = as_pair(x), as_pair(y)
    return Pair(torch.add(a.real, b.real, alpha=alpha), torch.add(a.imaginary, b.imaginary, alpha=alpha))


def _difference(x: Any, y: Any, alpha: float = 1) -> Pair:
    return _sum(x, y, -alpha)


def _matrix_product(x: Any, y: Any) -> Pair:
    a, b = as_pair(x), as_pair(y)
    real = a.real @ b.real - a.imaginary @ b.imaginary
    return Pair(real, a.real @ b.imaginary + a.imaginary @ b.real)


def _size(x: Pair) -> Tensor:
    return torch.sqrt(x.real * x.real + x.imaginary * x.imaginary)


def _direction(x: Pair) -> Pair:
    """X / abs(x); 0 where x is 0."""
    size = _size(x)
    divisor = torch.where(size == 0, 1.0, size)
    return Pair(x.real / divisor, x.imaginary / divisor)


def _conjugate(x: Any) -> Pair:
    x = as_pair(x)
    return Pair(x.real, -x.imaginary)


def _exponential(x: Any) -> Pair:
    x = as_pair(x)
    size = x.real.exp()
    return Pair(size * x.imaginary.cos(), size * x.imaginary.sin())


def _power(x: Pair, exponent: float) -> Pair:
    """A whole power: one multiplication after another."""
    if exponent not in (-1, 1, 2, 3, 4):
        raise NotImplementedError
    result = _inverse(x) if exponent == -1 else x
    for _ in range(1, int(exponent)):
        result = _product(result, x)
    return result


def _converted(x: Any, *, dtype: torch.dtype | None = None, **options: Any) -> Any:
    """Convert from real to complex; or back, where torch leaves the imaginary part out."""
    return as_pair(x) if dtype is None or dtype.is_complex else as_pair(x).real.to(dtype)


def _filled(size: Any, value: Any = 0, **options: Any) -> Pair:
    shape = list(size)
    return Pair(torch.full(shape, float(complex(value).real)), torch.full(shape, float(complex(value).imag)))


def _filled_like(x: Any, value: Any = 0, **options: Any) -> Pair:
    return _filled(as_pair(x).real.shape, value)


def _masked(x: Any, mask: Tensor, value: Any) -> Pair:
    filling, there = as_pair(value), as_pair(x)
    return Pair(
        torch.where(mask, filling.real, there.real),
        torch.where(mask, filling.imaginary, there.imaginary),
    )


def _polar(size: Tensor, angle: Tensor) -> Pair:
    return Pair(size * angle.cos(), size * angle.sin())


def _of_two(x: Tensor, y: Tensor) -> Pair:
    return Pair(*torch.broadcast_tensors(x, y))  # type: ignore[no-untyped-call]  # torch's


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "view_as_complex": lambda x: Pair(*x.unbind(-1)),
    "view_as_real": lambda x: torch.stack([x.real, x.imaginary], -1),
    "complex": _of_two,
    "polar": _polar,
    "real": lambda x: x.real,
    "imag": lambda x: x.imaginary,
    "abs": _size,
    "angle": lambda x: torch.atan2(x.imaginary, x.real),
    "sgn": _direction,
    "_conj": _conjugate,
    "_conj_physical": _conjugate,
    "conj_physical": _conjugate,
    "add": _sum,
    "sub": _difference,
    "mul": _product,
    "div": _quotient,
    "reciprocal": _inverse,
    "mm": _matrix_product,
    "bmm": _matrix_product,
    "exp": _exponential,
    "pow": _power,
    "eq": lambda x, y: (as_pair(x).real == as_pair(y).real) & (as_pair(x).imaginary == as_pair(y).imaginary),
    "_to_copy": _converted,
    "sym_size": lambda x, dim: x.real.shape[dim],
    "sym_numel": lambda x: x.real.numel(),
    "masked_fill": _masked,
    "zeros": _filled,
    "empty": _filled,
    "full": _filled,
    "full_like": _filled_like,
    "scalar_tensor": lambda value, **options: _filled((), value),
}
"""What becomes of a pair in operators that do not do the same to both parts, by the operator's name."""
