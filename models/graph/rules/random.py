"""Rules for operators that draw random numbers.

A step must be reproducible: the same inputs, the same outputs. ONNX's random operators keep a state of their own, so
here a number is a hash, of its place and of a seed. The seed comes from the batch, from the parameters, which change
from step to step, and from the input ``seed``, by which devices may differ.
"""

from __future__ import annotations

from lamina.models.graph.registry import rule
from lamina.models.graph.values import Call, Extent, Value, extents
from lamina.models.graph.writer import ELEMENT_TYPES, GraphWriter

# The graph's input.
SEED = "seed"

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


def _drawn(g: GraphWriter, shape: tuple[Extent, ...], p: float) -> str:
    """Which elements of a tensor are drawn, with probability p each."""
    size = g.ReduceProd(extents(g, shape), keepdims=0)
    places = g.Cast(g.Range(0, size, 1), to=ELEMENT_TYPES["int32"])
    salt = g.constant(g.draws(), "int32")
    hashed = g.Add(g.Mul(g.Add(places, g.Mul(salt, _int32(g, 7919))), _int32(g, _PLACE)), _entropy(g))
    for shift, multiplier in _ROUNDS:
        hashed = g.Mul(_xor_shifted(g, hashed, shift), _int32(g, multiplier))
    hashed = _xor_shifted(g, hashed, _LAST_SHIFT)
    limit = min(int(p * 2**32) - 2**31, 2**31 - 1)
    return g.drawn(g.Reshape(g.Less(hashed, _int32(g, limit)), extents(g, shape)))


def _entropy(g: GraphWriter) -> str:
    """A hash of the batch, the parameters and the input ``seed``, 0-d int32."""
    batch = g.ReduceSum(g.Cast("x", to=ELEMENT_TYPES["float32"]), keepdims=0)
    parameters = g.ReduceSum("parameters", keepdims=0)
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
