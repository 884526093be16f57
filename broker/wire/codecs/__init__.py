"""The codecs: each turns a vector of floats into bytes, and back.

| name              | wire id | bits     | what is lost of an element                                           |
| ----------------- | ------- | -------- | -------------------------------------------------------------------- |
| `float32`         | 1       | 32       | nothing                                                              |
| `float16`         | 2       | 16       | 2**-11 of it; below 6e-5 absolute 3e-8; clipped at 65504             |
| `float32+zstd`    | 3       | 24 to 29 | nothing                                                              |
| `float16+zstd`    | 4       | 12 to 16 | as `float16`                                                         |
| `bfloat16`        | 5       | 16       | 2**-9 of it                                                          |
| `bfloat16+zstd`   | 6       | 11 to 13 | as `bfloat16`                                                        |
| `int8`            | 7       | 6 to 7.6 | 1/254 of the largest in its block of 256. The default for updates    |
| `int8+stochastic` | 8       | 6 to 7.6 | up to twice that, but nothing on average                             |
| `int4`            | 9       | 2.4, 3.2 | 1/14 of the largest in its block. For slow links                     |
| `int4+stochastic` | 10      | 2.5, 3.3 | up to twice that, but nothing on average                             |
| `int2`            | 11      | 1.9      | biased; 0.4 to 0.5 of the whole                                      |
| `sign`            | 12      | 1.1      | biased; 0.7 to 0.8 of the whole                                      |
| `top10`           | 13      | 1.2, 1.3 | biased; all but the largest tenth. For the slowest links             |
| `top3`            | 17      | 0.4      | biased; all but the largest 3%, as int4. The fewest bytes to an accuracy |
| `top1`            | 14      | 0.2, 0.4 | biased; all but the largest hundredth: it takes many more rounds     |
| `rank2`, `rank4`  | 15, 16  | by shape | biased; all but 2 or 4 directions of each kernel                     |

Bits an element are those of real updates of the digits CNN and of ResNet20 (`benchmarks/wire.py`), whose many small
layers cost a fixed part each; one large layer takes 7.0 with `int8`, 1.15 with `top10`, 0.15 with `top1`.

From `int8` on this is so for kernels; what else a layer has goes as float16 (`codecs.kernels`). What a biased
codec loses must be kept and sent later: `session.error_feedback`. Decoding gives the same bits on every machine.

A new codec is one more file here, one more row, and golden bytes in the tests. Ids are never used again.
"""

from __future__ import annotations

from lamina.broker.wire.codecs.base import Codec
from lamina.broker.wire.codecs.blocks import Blocks
from lamina.broker.wire.codecs.compressed import Compressed
from lamina.broker.wire.codecs.grids import FourLevels, Sign, Uniform
from lamina.broker.wire.codecs.lowrank import LowRank
from lamina.broker.wire.codecs.plain import BFloat16, Float16, Float32
from lamina.broker.wire.codecs.topk import TopK
from lamina.models.arrays import Shapes
from lamina.models.errors import ConfigError, DecodeError, did_you_mean

_INT8 = Blocks("int8", 7, Uniform(8), block=256)
_INT4 = Blocks("int4", 9, Uniform(4), block=256)

_CODECS: tuple[Codec, ...] = (
    Float32(),
    Float16(),
    Compressed(Float32(), element_bytes=4, wire_id=3),
    Compressed(Float16(), element_bytes=2, wire_id=4),
    BFloat16(),
    Compressed(BFloat16(), element_bytes=2, wire_id=6),
    _INT8,
    Blocks("int8+stochastic", 8, Uniform(8), block=256, stochastic=True),
    _INT4,
    Blocks("int4+stochastic", 10, Uniform(4), block=256, stochastic=True),
    Blocks("int2", 11, FourLevels(), block=256, biased=True),
    Blocks("sign", 12, Sign(), block=1024, biased=True),
    TopK("top10", 13, 0.10, _INT8),
    TopK("top3", 17, 0.03, _INT4),
    TopK("top1", 14, 0.01, _INT8),
    LowRank("rank2", 15, 2),
    LowRank("rank4", 16, 4),
)
_BY_NAME = {entry.name: entry for entry in _CODECS}
_BY_ID = {entry.wire_id: entry for entry in _CODECS}

CODECS: tuple[str, ...] = tuple(_BY_NAME)

LOSSLESS = frozenset({"float32", "float32+zstd"})
"""Codecs that give every bit back."""

__all__ = ["CODECS", "LOSSLESS", "Codec", "Shapes", "codec", "codec_by_id"]


def codec(name: str) -> Codec:
    """The codec of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in _BY_NAME:
        raise ConfigError(f"unknown codec {name!r}; {did_you_mean(name, CODECS)}")
    return _BY_NAME[name]


def codec_by_id(wire_id: int) -> Codec:
    """The codec of that id.

    Raises:
        DecodeError: there is none.
    """
    if wire_id not in _BY_ID:
        raise DecodeError(f"unknown codec id {wire_id}")
    return _BY_ID[wire_id]
