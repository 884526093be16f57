"""Rules for functions that ONNX lacks: logarithms to other bases, angles, the error function's relatives.

Approximations are as near as float32 tells apart; each names its source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import Operand, cast
from lamina.models.graph.values import Call, Value
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

# Press et al., Numerical Recipes, section 6.2: erfc(x) = t exp(-x^2 + p(t)), t = 1 / (1 + x / 2), to 1.2e-7 of itself.
_ERFC = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196, 1.00002368,
         -1.26551223)  # fmt: skip
# Giles, Approximating the erfinv function, 2012: x p(w), w = -log(1 - x^2); for w < 5, and for larger w.
_NEAR = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
         0.246640727, 1.50140941)  # fmt: skip
_FAR = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
        1.00167406, 2.83297682)  # fmt: skip


@rule("log2", "log10")
def logarithm(g: GraphWriter, call: Call, x: Value) -> str:
    """The logarithm to the base 2 or 10."""
    return g.Mul(g.Log(cast(g, x, call.dtype)), cast(g, 1 / math.log(int(call.packet[3:])), call.dtype))


@rule("exp2")
def exp2(g: GraphWriter, call: Call, x: Value) -> str:
    """2 to the power of x."""
    return g.Pow(g.constant(2.0, call.dtype), cast(g, x, call.dtype))


@rule("hypot")
def hypot(g: GraphWriter, call: Call, x: Value, y: Value) -> str:
    """The longest side of a right-angled triangle."""
    return g.Sqrt(g.Add(g.Mul(x, x), g.Mul(y, y)))


@rule("atan2")
def atan2(g: GraphWriter, call: Call, y: Value, x: Value) -> str:
    """The angle of the point (x, y), in (-pi, pi]."""
    b, a = cast(g, y, call.dtype), cast(g, x, call.dtype)
    zero, half = g.constant(0.0, call.dtype), g.constant(math.pi / 2, call.dtype)
    turned = g.Where(g.Less(b, zero), g.constant(-math.pi, call.dtype), g.constant(math.pi, call.dtype))
    upright = g.Where(g.Less(b, zero), g.Neg(half), g.Where(g.Greater(b, zero), half, zero))
    is_upright = g.Equal(a, zero)
    slope = g.Atan(g.Div(b, g.Where(is_upright, g.constant(1.0, call.dtype), a)))
    return g.Where(is_upright, upright, g.Add(slope, g.Where(g.Less(a, zero), turned, zero)))


@rule("copysign")
def copysign(g: GraphWriter, call: Call, x: Operand, y: Operand) -> str:
    """X with the sign of y."""
    size = g.Abs(cast(g, x, call.dtype))
    return g.Where(g.Less(cast(g, y, call.dtype), cast(g, 0, call.dtype)), g.Neg(size), size)


@rule("signbit")
def signbit(g: GraphWriter, call: Call, x: Value) -> str:
    """Whether x is below 0."""
    return g.Less(x, g.constant(0, x.dtype))


@rule("fmax", "fmin")
def extremum_of_numbers(g: GraphWriter, call: Call, x: Value, y: Value) -> str:
    """The larger or the smaller of x and y; where one is no number, the other."""
    both = g.Max(x, y) if call.packet == "fmax" else g.Min(x, y)
    if "float" not in call.dtype:
        return both
    return g.Where(g.IsNaN(x), y, g.Where(g.IsNaN(y), x, both))


@rule("erfc")
def erfc(g: GraphWriter, call: Call, x: Value) -> str:
    """1 - erf(x), exact where that is small."""
    size = g.Abs(x)
    t = g.Reciprocal(g.Add(g.Mul(size, 0.5), 1.0))
    right = g.Mul(t, g.Exp(g.Sub(_polynomial(g, t, _ERFC), g.Mul(size, size))))
    return g.Where(g.Less(x, 0.0), g.Sub(2.0, right), g.Where(g.Less(x, 0.5), g.Sub(1.0, g.Erf(x)), right))


@rule("erfinv", "erf_inv")
def erfinv(g: GraphWriter, call: Call, x: Value) -> str:
    """The number whose erf is x."""
    w = g.Neg(g.Log(g.Mul(g.Sub(1.0, x), g.Add(x, 1.0))))
    near = _polynomial(g, g.Sub(w, 2.5), _NEAR)
    far = _polynomial(g, g.Sub(g.Sqrt(g.Max(w, 5.0)), 3.0), _FAR)
    inner = g.Mul(g.Where(g.Less(w, 5.0), near, far), x)
    edge = g.Mul(x, float("inf"))
    return g.Where(g.Equal(g.Abs(x), 1.0), edge, inner)


@rule("heaviside")
def heaviside(g: GraphWriter, call: Call, x: Value, at_zero: Value) -> str:
    """0 below 0, 1 above it, a given value at 0."""
    step = g.Cast(g.Greater(x, g.constant(0, x.dtype)), to=ELEMENT_TYPES[call.dtype])
    return g.Where(g.Equal(x, g.constant(0, x.dtype)), at_zero, step)


def _polynomial(g: GraphWriter, x: str, coefficients: Sequence[float]) -> str:
    """Evaluate a polynomial by Horner's scheme; the first coefficient is that of the highest power."""
    result: str = g.constant(coefficients[0], "float32")
    for coefficient in coefficients[1:]:
        result = g.Add(g.Mul(result, x), float(coefficient))
    return result
