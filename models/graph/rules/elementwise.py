"""Rules for operators that work element by element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math

import numpy as np

from lamina.models.graph.registry import rule
from lamina.models.graph.values import Call, Value, extents
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

Operand = Value | float | int | bool

_UNARY = {
    "abs": "Abs",
    "acos": "Acos",
    "acosh": "Acosh",
    "asin": "Asin",
    "asinh": "Asinh",
    "atan": "Atan",
    "atanh": "Atanh",
    "cos": "Cos",
    "cosh": "Cosh",
    "erf": "Erf",
    "exp": "Exp",
    "log": "Log",
    "neg": "Neg",
    "reciprocal": "Reciprocal",
    "sigmoid": "Sigmoid",
    "sign": "Sign",
    "sin": "Sin",
    "sinh": "Sinh",
    "sqrt": "Sqrt",
    "tan": "Tan",
    "tanh": "Tanh",
}
_OF_FRACTIONS = {"ceil": "Ceil", "floor": "Floor", "round.default": "Round"}
_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul"}
_OF_TRUTHS = {"add": "Or", "sub": "Xor", "mul": "And"}
_COMPARISONS = {"le": "LessOrEqual", "lt": "Less", "ge": "GreaterOrEqual", "gt": "Greater", "eq": "Equal"}
_LOGICAL = {
    "logical_and": "And",
    "logical_or": "Or",
    "logical_xor": "Xor",
}
_ON_NUMBERS = {
    "operator.add": "Add",
    "operator.sub": "Sub",
    "operator.mul": "Mul",
    "operator.floordiv": "Div",
    "operator.truediv": "Div",
    "sym_max": "Max",
    "sym_min": "Min",
}


def cast(g: GraphWriter, x: Operand, dtype: str) -> str:
    """``x``, a tensor or a number, as a tensor of element type ``dtype``."""
    if not isinstance(x, Value):
        return g.constant(x, dtype)
    return x if x.dtype == dtype else g.Cast(x, to=ELEMENT_TYPES[dtype])


def is_fraction(x: Value) -> bool:
    """Whether the elements of x are floating-point numbers."""
    return x.dtype.startswith("float")


def changes_nothing(x: Operand, y: Operand, neutral: int) -> bool:
    """Whether y is the neutral number of an operation on a tensor x.

    ONNX Runtime takes such an operator out, and sometimes what reads its result is left without.
    """
    return isinstance(x, Value) and not isinstance(y, Value) and y == neutral


def full(g: GraphWriter, call: Call, value: Operand) -> str:
    """A tensor of the call's form that holds ``value`` everywhere."""
    return g.Expand(cast(g, value, call.dtype), extents(g, call.shape))


def _register_tables() -> None:
    for name, onnx_name in _UNARY.items():
        rule(name)(lambda g, call, x, op=onnx_name: getattr(g, op)(cast(g, x, _operand_dtype(call, x))))
    for name, onnx_name in _OF_FRACTIONS.items():
        rule(name)(lambda g, call, x, op=onnx_name: getattr(g, op)(x) if is_fraction(x) else x)
    for name, onnx_name in _LOGICAL.items():
        rule(name)(lambda g, call, x, y, op=onnx_name: getattr(g, op)(cast(g, x, "bool"), cast(g, y, "bool")))
    rule("operator.neg")(lambda g, call, x: g.Neg(cast(g, x, call.dtype)))
    for name, onnx_name in _ON_NUMBERS.items():
        rule(name)(lambda g, call, x, y, op=onnx_name: getattr(g, op)(cast(g, x, call.dtype), cast(g, y, call.dtype)))


_register_tables()


@rule("relu")
def relu(g: GraphWriter, call: Call, x: Value) -> str:
    """X, at least 0."""
    return g.Relu(x) if is_fraction(x) else g.Max(x, g.constant(0, x.dtype))


@rule("logical_not")
def logical_not(g: GraphWriter, call: Call, x: Value) -> str:
    """Whether x is false, or 0."""
    return g.Not(cast(g, x, "bool"))


@rule("isnan", "isinf")
def odd_number(g: GraphWriter, call: Call, x: Value) -> str:
    """Whether x is no number, or infinite; a whole number is neither."""
    if not is_fraction(x):
        return full(g, call, False)
    return g.IsNaN(x) if call.packet == "isnan" else g.IsInf(x)


@rule(*_ARITHMETIC)
def arithmetic(g: GraphWriter, call: Call, x: Operand, y: Operand, alpha: float = 1) -> str:
    """X + alpha * y, and its like; of truth values, whether any, both or exactly one is true."""
    if call.dtype == "bool":
        result: str = getattr(g, _OF_TRUTHS[call.packet])(cast(g, x, "bool"), cast(g, y, "bool"))
        return result
    if changes_nothing(x, y, 1 if call.packet == "mul" else 0):
        return cast(g, x, call.dtype)
    if alpha != 1:
        y = Value(g.Mul(cast(g, y, call.dtype), cast(g, alpha, call.dtype)), (), call.dtype)
    result = getattr(g, _ARITHMETIC[call.packet])(cast(g, x, call.dtype), cast(g, y, call.dtype))
    return result


@rule(*_COMPARISONS)
def comparison(g: GraphWriter, call: Call, x: Value, y: Operand) -> str:
    """X <= y, and its like."""
    dtype = _common_dtype(x, y)
    if dtype == "bool" and call.packet != "eq":
        dtype = "int32"
    result: str = getattr(g, _COMPARISONS[call.packet])(cast(g, x, dtype), cast(g, y, dtype))
    return result


@rule("ne")
def not_equal(g: GraphWriter, call: Call, x: Value, y: Operand) -> str:
    """Whether x and y differ."""
    dtype = _common_dtype(x, y)
    return g.Not(g.Equal(cast(g, x, dtype), cast(g, y, dtype)))


@rule("operator.sym_float")
def as_float(g: GraphWriter, call: Call, x: Operand) -> str:
    """An extent as a fraction."""
    return cast(g, x, "float32")


@rule("maximum", "minimum")
def extremum(g: GraphWriter, call: Call, x: Operand, y: Operand) -> str:
    """The larger or the smaller of x and y."""
    a, b = cast(g, x, call.dtype), cast(g, y, call.dtype)
    if call.dtype == "bool":
        return g.Or(a, b) if call.packet == "maximum" else g.And(a, b)
    return g.Max(a, b) if call.packet == "maximum" else g.Min(a, b)


@rule("where")
def where(g: GraphWriter, call: Call, condition: Value, x: Operand, y: Operand) -> str:
    """X where the condition holds, else y."""
    return g.Where(condition, cast(g, x, call.dtype), cast(g, y, call.dtype))


@rule("clamp", "hardtanh")
def clamp(
    g: GraphWriter,
    call: Call,
    x: Value,
    min: Operand | None = None,  # noqa: A002 - aten's names
    max: Operand | None = None,  # noqa: A002
) -> str:
    """X, at least min and at most max, which are numbers or tensors."""
    if call.packet == "hardtanh":
        min, max = (-1.0 if min is None else min), (1.0 if max is None else max)  # noqa: A001 - aten's names
    low, high = (None if bound is None else cast(g, bound, call.dtype) for bound in (min, max))
    clamped = cast(g, x, call.dtype)
    if not (isinstance(min, Value) or isinstance(max, Value)):
        return g.Clip(clamped, low, high)
    clamped = clamped if low is None else g.Max(clamped, low)
    return clamped if high is None else g.Min(clamped, high)


@rule("clamp_min")
def clamp_min(g: GraphWriter, call: Call, x: Value, min: Operand) -> str:  # noqa: A002 - aten's name
    """X, at least min."""
    return clamp(g, call, x, min)


@rule("clamp_max")
def clamp_max(g: GraphWriter, call: Call, x: Value, max: Operand) -> str:  # noqa: A002 - aten's name
    """X, at most max."""
    return clamp(g, call, x, None, max)


@rule("pow.Tensor_Scalar")
def power(g: GraphWriter, call: Call, x: Value, exponent: float) -> str:
    """X to the power of a number."""
    if not isinstance(exponent, Value) and exponent == 2 and x.dtype == call.dtype:
        return g.Mul(x, x)
    return g.Pow(cast(g, x, call.dtype), cast(g, exponent, call.dtype))


@rule("pow.Scalar", "pow.Tensor_Tensor", "pow.default", "operator.pow")
def power_of(g: GraphWriter, call: Call, x: Operand, exponent: Value) -> str:
    """X to the power of a tensor."""
    return g.Pow(cast(g, x, call.dtype), cast(g, exponent, call.dtype))


@rule("rsqrt")
def rsqrt(g: GraphWriter, call: Call, x: Value) -> str:
    """1 / sqrt(x)."""
    return g.Reciprocal(g.Sqrt(x))


@rule("log1p")
def log1p(g: GraphWriter, call: Call, x: Value) -> str:
    """The logarithm of 1 + x. Near 0, where 1 + x would be rounded, it is 2 atanh(x / (2 + x))."""
    near = g.Atanh(g.Div(x, g.Add(x, 2.0)))
    return g.Where(g.Less(g.Abs(x), 0.5), g.Add(near, near), g.Log(g.Add(x, 1.0)))


@rule("expm1")
def expm1(g: GraphWriter, call: Call, x: Value) -> str:
    """Exp(x) - 1, as tanh(x / 2) (exp(x) + 1), which loses nothing near 0."""
    return g.Mul(g.Tanh(g.Mul(x, 0.5)), g.Add(g.Exp(x), 1.0))


# Steep enough that every normal positive float32 ends up at 1.
_STEEP = 3e38


@rule("threshold_backward")
def relu_backward(g: GraphWriter, call: Call, dy: Value, y: Value, threshold: float) -> str:
    """Dy where y exceeds the threshold, else 0.

    The step from 0 to 1 is a steep HardSigmoid: one pass, where a Where takes the time of ten.
    """
    above = g.HardSigmoid(y if threshold == 0 else g.Sub(y, float(threshold)), alpha=_STEEP, beta=0.0)
    return g.Mul(dy, above)


@rule("hardtanh_backward")
def hardtanh_backward(g: GraphWriter, call: Call, dy: Value, x: Value, min_val: float, max_val: float) -> str:
    """Dy where x lies between the bounds, else 0: a steep step up at the one, and one down at the other.

    The second is of a power of two, so that products with it are exact, and small enough that none overflows.
    """
    up = g.HardSigmoid(x if min_val == 0 else g.Sub(x, float(min_val)), alpha=_STEEP, beta=0.0)
    bound = float(np.float32(max_val))
    steep = 2.0 ** (100 - max(0, math.frexp(bound)[1]))
    down = g.HardSigmoid(x, alpha=-steep, beta=bound * steep)
    return g.Mul(dy, g.Mul(up, down))


@rule("alias", "clone", "detach", "lift_fresh_copy", "contiguous")
def same(g: GraphWriter, call: Call, x: Value, memory_format: object = None) -> str:
    """X itself."""
    return x


@rule("_to_copy", "convert_element_type")
def converted(g: GraphWriter, call: Call, x: Value, *dtype: object, **options: object) -> str:
    """X with another element type."""
    return cast(g, x, call.dtype)


@rule("copy")
def copied(g: GraphWriter, call: Call, x: Value, source: Value, non_blocking: bool = False) -> str:
    """The source in the form of x."""
    return g.Expand(cast(g, source, call.dtype), extents(g, call.shape))


@rule("full", "full_like", "fill", "new_full")
def filled(g: GraphWriter, call: Call, like: object, *rest: object, **options: object) -> str:
    """A number everywhere; it is the last argument."""
    value = rest[-1] if rest else options["fill_value"]
    return full(g, call, value)  # type: ignore[arg-type]  # a number


@rule(
    "zeros", "zeros_like", "new_zeros", "_efficientzerotensor", "empty", "empty_like", "new_empty", "new_empty_strided"
)
def zeros(g: GraphWriter, call: Call, *like: object, **options: object) -> str:
    """0 everywhere."""
    return full(g, call, 0)


@rule("ones", "ones_like", "new_ones")
def ones(g: GraphWriter, call: Call, *like: object, **options: object) -> str:
    """1 everywhere."""
    return full(g, call, 1)


@rule("scalar_tensor")
def scalar(g: GraphWriter, call: Call, value: Operand, **options: object) -> str:
    """A number as a tensor."""
    return cast(g, value, call.dtype)


def _operand_dtype(call: Call, x: Operand) -> str:
    """The element type in which a function of one operand is computed: the result's, unless that is a truth value."""
    return x.dtype if call.dtype == "bool" and isinstance(x, Value) else call.dtype


def _common_dtype(x: Value, y: Operand) -> str:
    """The element type in which x and y are compared."""
    if not isinstance(y, Value):
        common = "float32" if isinstance(y, float) and "float" not in x.dtype else x.dtype
        common = "int64" if common == "bool" and not isinstance(y, bool) else common
    else:
        common = max(x.dtype, y.dtype, key=["bool", "uint8", "int32", "int64", "float32", "float64"].index)
    return "int32" if common == "uint8" else common  # ONNX Runtime before 1.20 can't compare bytes
