"""Rules for quotients and what is left of them, and for integers as rows of bits."""

from __future__ import annotations

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import Operand, cast, changes_nothing
from lamina.models.graph.values import Call, Value
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

_OF_TRUTHS = {"and": "And", "or": "Or", "xor": "Xor"}
_OF_BITS = {"and": "BitwiseAnd", "or": "BitwiseOr", "xor": "BitwiseXor"}


@rule("div")
def quotient(g: GraphWriter, call: Call, x: Operand, y: Operand, rounding_mode: str | None = None) -> str:
    """X / y, as it is, or rounded down (floor) or towards zero (trunc)."""
    a, b = cast(g, x, call.dtype), cast(g, y, call.dtype)
    if rounding_mode is None and changes_nothing(x, y, 1):
        return a
    if "float" not in call.dtype:
        return _floored(g, a, b) if rounding_mode == "floor" else g.Div(a, b)  # of integers, Div truncates
    if rounding_mode == "floor":
        return _whole_below(g, a, b, call.dtype)
    return truncated(g, g.Div(a, b)) if rounding_mode == "trunc" else g.Div(a, b)


@rule("floor_divide")
def floor_quotient(g: GraphWriter, call: Call, x: Operand, y: Operand) -> str:
    """X / y, rounded down."""
    return quotient(g, call, x, y, rounding_mode="floor")


@rule("fmod", "remainder", "operator.mod")
def remainder(g: GraphWriter, call: Call, x: Operand, y: Operand) -> str:
    """The rest of x / y, with the sign of x (fmod) or of y."""
    a, b = cast(g, x, call.dtype), cast(g, y, call.dtype)
    if call.packet == "fmod":
        return g.Mod(a, b, fmod=1)
    if "float" not in call.dtype:
        return g.Mod(a, b)
    rest, zero = g.Mod(a, b, fmod=1), g.constant(0, call.dtype)
    is_beyond = g.And(g.Not(g.Equal(rest, zero)), g.Xor(g.Less(rest, zero), g.Less(b, zero)))
    return g.Where(is_beyond, g.Add(rest, b), rest)


@rule("trunc", "fix")
def trunc(g: GraphWriter, call: Call, x: Value) -> str:
    """X, rounded towards zero."""
    return truncated(g, x) if "float" in x.dtype else x


@rule("round.decimals")
def rounded(g: GraphWriter, call: Call, x: Value, decimals: int = 0) -> str:
    """X, rounded to so many decimals; fewer than none round to tens, hundreds, ..."""
    scale = float(10 ** abs(decimals))
    if decimals >= 0:
        return g.Div(g.Round(g.Mul(x, scale)), scale)
    return g.Mul(g.Round(g.Div(x, scale)), scale)


@rule("bitwise_not")
def bitwise_not(g: GraphWriter, call: Call, x: Value) -> str:
    """All bits of integers turned round, or truth values."""
    return g.Not(x) if x.dtype == "bool" else g.BitwiseNot(x)


@rule("bitwise_and", "bitwise_or", "bitwise_xor", "__and__", "__or__", "__xor__")
def bitwise(g: GraphWriter, call: Call, x: Operand, y: Operand) -> str:
    """Bits of x and y, or truth values, joined one by one."""
    name = call.packet.removeprefix("bitwise_").strip("_")
    operators = _OF_TRUTHS if call.dtype == "bool" else _OF_BITS
    joined: str = getattr(g, operators[name])(cast(g, x, call.dtype), cast(g, y, call.dtype))
    return joined


@rule("bitwise_left_shift", "__lshift__", "shift_left")
def left_shift(g: GraphWriter, call: Call, x: Operand, y: Operand) -> str:
    """X times a power of two."""
    return g.Mul(cast(g, x, call.dtype), _power_of_two(g, call, y))


@rule("bitwise_right_shift", "__rshift__", "shift_right_arithmetic")
def right_shift(g: GraphWriter, call: Call, x: Operand, y: Operand) -> str:
    """X divided by a power of two, rounded down."""
    return _floored(g, cast(g, x, call.dtype), _power_of_two(g, call, y))


def truncated(g: GraphWriter, x: str) -> str:
    """X, a fraction, rounded towards zero."""
    return g.Mul(g.Sign(x), g.Floor(g.Abs(x)))


def _whole_below(g: GraphWriter, a: str, b: str, dtype: str) -> str:
    """The next whole number below a / b, of fractions.

    As in torch, it is that below the exact quotient: a / b itself may have been rounded up to a whole number.
    """
    rest = g.Mod(a, b, fmod=1)  # with the sign of a
    whole = g.Round(g.Div(g.Sub(a, rest), b))
    zero = g.constant(0, dtype)
    below = g.And(g.Not(g.Equal(rest, zero)), g.Xor(g.Less(rest, zero), g.Less(b, zero)))
    return g.Sub(whole, g.Cast(below, to=ELEMENT_TYPES[dtype]))


def _power_of_two(g: GraphWriter, call: Call, exponent: Operand) -> str:
    return g.Pow(g.constant(2, call.dtype), cast(g, exponent, call.dtype))


def _floored(g: GraphWriter, a: str, b: str) -> str:
    """The quotient of integers, rounded down; b goes into a less its remainder without a rest."""
    return g.Div(g.Sub(a, g.Mod(a, b)), b)
