"""Rules for operators that draw random numbers.

A step must be reproducible: the same inputs, the same outputs. ONNX's random operators keep a state of their own, so
here a number is a hash, of its place and of a seed. The seed comes from the batch, from the parameters, which change
from step to step, and from the input ``seed``, by which devices may differ.
"""

from __future__ import annotations

import math

from lamina.models.graph.registry import rule
from lamina.models.graph.rules.elementwise import Operand, cast
from lamina.models.graph.values import Call, Extent, Value, extents
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

# The graph's input.
SEED = "seed"
PARAMETERS = "parameters"

# The finaliser of MurmurHash3 (Appleby, public domain): shifts, and multipliers as signed 32-bit numbers.
_ROUNDS = ((16, -2048144789), (13, -1028477387))
_LAST_SHIFT = 16
_PLACE = -1640531527  # the golden ratio's share of 2^32: neighbouring places lie far apart
_SCATTER = 65521.0  # a prime below 2^16


@rule("native_dropout")
def dropout(g: GraphWriter, call: Call, x: Value, p: float, train: bool | None) -> tuple[str, str]:
    """X without a share p of its elements, the others raised in proportion; and which were kept."""
    if train is False:
        return x, g.Cast(g.Add(g.Mul(x, 0.0), 1.0), to=ELEMENT_TYPES["bool"])
    kept = _drawn(g, x.shape, 1.0 - p)
    raised = g.Mul(g.Cast(kept, to=ELEMENT_TYPES["float32"]), 1.0 / (1.0 - p) if p < 1 else 0.0)
    return g.Mul(x, raised), kept


@rule("bernoulli.p")
def bernoulli(g: GraphWriter, call: Call, x: Value, p: float = 0.5, generator: object = None) -> str:
    """1 with probability p, else 0."""
    drawn = _drawn(g, x.shape, p)
    return g.Cast(drawn, to=ELEMENT_TYPES[call.dtype])


@rule("bernoulli.default")
def bernoulli_by_element(g: GraphWriter, call: Call, p: Value, generator: object = None) -> str:
    """1 with each element's probability, else 0."""
    return g.Cast(g.drawn(g.Less(_uniform(g, call.shape), p)), to=ELEMENT_TYPES[call.dtype])


@rule("rand", "rand_like")
def uniform(g: GraphWriter, call: Call, *like: object, **options: object) -> str:
    """Numbers from 0 to below 1, each as likely as another."""
    return g.drawn(_uniform(g, call.shape))


@rule("uniform")
def uniform_between(
    g: GraphWriter, call: Call, like: Value, low: float = 0.0, high: float = 1.0, **options: object
) -> str:
    """Numbers between two bounds, each as likely as another."""
    return g.drawn(g.Add(g.Mul(_uniform(g, call.shape), float(high - low)), float(low)))


@rule("randn", "randn_like")
def standard_normal(g: GraphWriter, call: Call, *like: object, **options: object) -> str:
    """Normal numbers of mean 0 and deviation 1."""
    return g.drawn(_normal(g, call.shape))


@rule("normal_functional")
def normal(g: GraphWriter, call: Call, like: Value, mean: float = 0.0, std: float = 1.0, **options: object) -> str:
    """Normal numbers of a mean and a deviation."""
    return g.drawn(g.Add(g.Mul(_normal(g, call.shape), float(std)), float(mean)))


@rule("normal.Tensor_Tensor", "normal.Tensor_float", "normal.float_Tensor", "normal.float_float")
def normal_by_element(
    g: GraphWriter, call: Call, mean: Operand, std: Operand = 1.0, *size: object, **options: object
) -> str:
    """Normal numbers, each of its own mean and deviation."""
    return g.drawn(g.Add(g.Mul(_normal(g, call.shape), cast(g, std, "float32")), cast(g, mean, "float32")))


@rule("exponential")
def exponential(g: GraphWriter, call: Call, like: Value, lambd: float = 1.0, **options: object) -> str:
    """How long one waits for what happens ``lambd`` times in a unit of time."""
    return g.drawn(g.Mul(g.Log(g.Sub(1.0, _uniform(g, call.shape))), -1.0 / lambd))


@rule("randint", "randint_like")
def integers(g: GraphWriter, call: Call, *bounds: object, **options: object) -> str:
    """Whole numbers from 0, or a lowest one, to below a highest."""
    numbers = [bound for bound in bounds if isinstance(bound, int)]
    low, high = (0, numbers[0]) if len(numbers) == 1 else numbers[:2]
    steps = g.Floor(g.Mul(_uniform(g, call.shape), float(high - low)))
    return g.drawn(g.Add(g.Cast(steps, to=ELEMENT_TYPES[call.dtype]), g.constant(low, call.dtype)))


def _normal(g: GraphWriter, shape: tuple[Extent, ...]) -> str:
    """Normal numbers, by the transform of Box and Muller (1958), from two uniform ones."""
    distance = g.Sqrt(g.Mul(g.Log(g.Sub(1.0, _uniform(g, shape))), -2.0))
    return g.Mul(distance, g.Cos(g.Mul(_uniform(g, shape), 2 * math.pi)))


def _uniform(g: GraphWriter, shape: tuple[Extent, ...]) -> str:
    """Multiples of 2^-24 from 0 to below 1."""
    bits = g.BitShift(g.Cast(_hashed(g, shape), to=ELEMENT_TYPES["uint32"]), g.constant(8, "uint32"), direction="RIGHT")
    return g.Reshape(g.Mul(g.Cast(bits, to=ELEMENT_TYPES["float32"]), 2.0**-24), extents(g, shape))


def _drawn(g: GraphWriter, shape: tuple[Extent, ...], p: float) -> str:
    """Which elements of a tensor are drawn, with probability p each."""
    limit = min(int(p * 2**32) - 2**31, 2**31 - 1)
    return g.drawn(g.Reshape(g.Less(_hashed(g, shape), _int32(g, limit)), extents(g, shape)))


def _hashed(g: GraphWriter, shape: tuple[Extent, ...]) -> str:
    """A vector of 32 random bits for each element of a tensor, as int32."""
    size = g.ReduceProd(extents(g, shape), keepdims=0)
    places = g.Cast(g.Range(0, size, 1), to=ELEMENT_TYPES["int32"])
    salt = g.constant(g.draws(), "int32")
    hashed = g.Add(g.Mul(g.Add(places, g.Mul(salt, _int32(g, 7919))), _int32(g, _PLACE)), _entropy(g))
    for shift, multiplier in _ROUNDS:
        hashed = g.Mul(_xor_shifted(g, hashed, shift), _int32(g, multiplier))
    return _xor_shifted(g, hashed, _LAST_SHIFT)


def _entropy(g: GraphWriter) -> str:
    """A hash of the batch, the parameters and the input ``seed``, 0-d int32."""
    batch = g.ReduceSum(g.Cast("x", to=ELEMENT_TYPES["float32"]), keepdims=0)
    [some] = g.recall(PARAMETERS) or (PARAMETERS,)  # of several segments, the first: it too changes at every step
    parameters = g.ReduceSum(some, keepdims=0)
    mixed = _int32(g, 0)
    for number in (batch, parameters, SEED):
        scattered = g.Mod(g.Mul(number, 1e4), _SCATTER, fmod=1)
        mixed = g.Add(g.Mul(mixed, _int32(g, 31)), g.Cast(scattered, to=ELEMENT_TYPES["int32"]))
        mixed = g.Mul(_xor_shifted(g, mixed, 16), _int32(g, _ROUNDS[0][1]))
    return mixed


def _xor_shifted(g: GraphWriter, x: str, shift: int) -> str:
    """X xor (x >> shift), x an int32 taken as unsigned."""
    unsigned = g.Cast(x, to=ELEMENT_TYPES["uint32"])
    shifted = g.BitShift(unsigned, g.constant(shift, "uint32"), direction="RIGHT")
    return g.BitwiseXor(x, g.Cast(shifted, to=ELEMENT_TYPES["int32"]))


def _int32(g: GraphWriter, value: int) -> str:
    return g.constant(value, "int32")
