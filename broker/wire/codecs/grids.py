"""Grids on which the floats of a block are put: codes of 1 to 8 bits times one scale a block.

| grid         | bits | values before the scale      | scale                     |
| ------------ | ---- | ---------------------------- | ------------------------- |
| `Uniform(8)` | 8    | -127 to 127                  | largest magnitude / 127   |
| `Uniform(4)` | 4    | -7 to 7                      | largest magnitude / 7     |
| `FourLevels` | 2    | -1.510, -0.453, 0.453, 1.510 | the best in least squares |
| `Sign`       | 1    | -1, 1                        | the mean magnitude        |

The four levels are the best ones for a normal distribution (Lloyd and Max; J. Max, "Quantizing for minimum distortion",
1960). Scales in least squares make an error that is orthogonal to what is sent: ||x - sent||^2 = ||x||^2 - ||sent||^2,
so error feedback converges however the block is distributed. Sign with the mean magnitude is that of signSGD with
error feedback (Karimireddy et al., arXiv 1901.09847).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from lamina.models.arrays import Vector

Codes = npt.NDArray[np.uint8]

LARGEST_SCALE = np.float32(2.0**120)
"""With it, the largest code is still finite; larger elements (1e38) are clipped."""

_SMALLEST_PEAK = np.float32(2.0**-100)  # a block of nothing larger is nothing: its reciprocals would not be finite
_ROUNDING = np.float32(3 * 2.0**22)
"""Where floats are whole numbers, as far apart as their bits. Added to a small number, it rounds that to the nearest
whole one, ties to even, which then stands in two's complement in the lowest byte: quicker than to round and convert."""

_INNER, _OUTER, _BORDER = np.float32(0.4528), np.float32(1.510), np.float32(0.9816)


class Grid(Protocol):
    """A rule that puts blocks on a grid.

    Attributes:
        bits: of a code: 1, 2, 4 or 8.
        values: that the codes stand for, before the scale, (2**bits,); for 8 bits, the codes are signed integers.
        pads: whether zeros at a block's end change nothing of its other codes and its scale, and have the code 0.
    """

    @property
    def bits(self) -> int: ...  # noqa: D102 - see Attributes
    @property
    def values(self) -> Vector: ...  # noqa: D102
    @property
    def pads(self) -> bool: ...  # noqa: D102

    def quantise(self, blocks: Vector, peaks: Vector, scratch: Vector, codes: Codes, noise: Vector | None) -> Vector:
        """Put blocks on the grid.

        Args:
            blocks: finite, (B, n).
            peaks: largest magnitude of each block, (B,).
            scratch: (B, n), to be overwritten; it may be ``blocks`` itself where the grid `pads`.
            codes: (B, n), to be written.
            noise: uniform in [-0.5, 0.5), (B, n), to be added before rounding; ``None`` rounds to the nearest.

        Returns:
            The scales, (B,).
        """


class Uniform:
    """Evenly spaced values about zero, as many on each side."""

    pads = True

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._most = np.float32(2 ** (bits - 1) - 1)
        codes = np.arange(2**bits)
        self.values = np.where(codes < 2 ** (bits - 1), codes, codes - 2**bits).astype(np.float32)  # two's complement

    def quantise(self, blocks: Vector, peaks: Vector, scratch: Vector, codes: Codes, noise: Vector | None) -> Vector:
        """See `Grid.quantise`."""
        scales = peaks / self._most
        if ordinary := bool(peaks.min() >= _SMALLEST_PEAK and scales.max() < LARGEST_SCALE):
            factors = np.float32(1) / scales
        else:
            present = peaks >= _SMALLEST_PEAK
            scales = np.where(present, np.minimum(scales, LARGEST_SCALE), np.float32(0))
            factors = np.where(present, np.float32(1) / np.where(present, scales, np.float32(1)), np.float32(0))
        np.multiply(blocks, factors[:, None], out=scratch)
        if noise is not None:
            np.add(scratch, noise, out=scratch)
        if noise is not None or not ordinary:
            np.clip(scratch, -self._most, self._most, out=scratch)
        np.add(scratch, _ROUNDING, out=scratch)
        np.copyto(codes.view(np.int8), scratch.view(np.int32), casting="unsafe")  # the lowest byte
        if self.bits < 8:
            np.bitwise_and(codes, 2**self.bits - 1, out=codes)
        return scales


class FourLevels:
    """Two magnitudes, two signs."""

    bits = 2
    pads = False  # a scale in least squares counts them
    values = np.array([_INNER, -_INNER, _OUTER, -_OUTER], np.float32)

    def quantise(self, blocks: Vector, peaks: Vector, scratch: Vector, codes: Codes, noise: Vector | None) -> Vector:
        """See `Grid.quantise`; ``noise`` is of no use here."""
        np.abs(blocks, out=scratch)
        np.multiply(scratch, _reciprocals(peaks)[:, None], out=scratch)  # |x| / peak, so that squares don't overflow
        borders = _BORDER * np.sqrt(np.square(scratch).mean(axis=1, dtype=np.float32))  # of a normal of this deviation
        outer = scratch > borders[:, None]
        levels = np.where(outer, _OUTER, _INNER)
        scales = (scratch * levels).sum(axis=1) / np.square(levels).sum(axis=1)
        np.copyto(codes, outer)
        np.left_shift(codes, 1, out=codes)
        np.bitwise_or(codes, blocks < 0, out=codes)
        return _scaled(scales, peaks)


class Sign:
    """One magnitude, two signs; zero counts as positive."""

    bits = 1
    pads = False  # a mean counts them
    values = np.array([1, -1], np.float32)

    def quantise(self, blocks: Vector, peaks: Vector, scratch: Vector, codes: Codes, noise: Vector | None) -> Vector:
        """See `Grid.quantise`; ``noise`` is of no use here."""
        np.abs(blocks, out=scratch)
        np.multiply(scratch, _reciprocals(peaks)[:, None], out=scratch)
        np.copyto(codes, blocks < 0)
        return _scaled(scratch.mean(axis=1, dtype=np.float32), peaks)


def _reciprocals(peaks: Vector) -> Vector:
    present = peaks >= _SMALLEST_PEAK
    return np.where(present, np.float32(1) / np.where(present, peaks, np.float32(1)), np.float32(0))


def _scaled(scales: Vector, peaks: Vector) -> Vector:
    scaled: Vector = np.minimum(scales * peaks, LARGEST_SCALE).astype(np.float32)
    return scaled
