"""Chooses the samples that a virtual device trains on in a round: its batches, from its own seeds alone.

The order is `data.sample_order`, a board's own; crops and flips are drawn from the seed, the device's name
and the round. So a batch depends neither on the device's neighbours, nor on who computes it, nor on what came before.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from lamina.edge_agent.data import sample_order
from lamina.emulation.readers.raw import Array
from lamina.models.arrays import Indices

PADDING = 4  # pixels on each side before a crop, as is usual for 32x32 images
_AUGMENT_STREAM = 2  # of the random numbers that a seed stands for


def batches(seed: int, device: str, round_: int, held: Indices, steps: int, batch_size: int) -> Indices:
    """Indices into the training set, (steps, batch_size).

    Args:
        seed: of the run.
        device: its name.
        round_: 0-based.
        held: samples that it holds.
        steps: local steps of the round.
        batch_size: samples a step.
    """
    order = sample_order(seed, device, round_, len(held), steps * batch_size)
    chosen: Indices = held[order].reshape(steps, batch_size)
    return chosen


class Augmentation:
    """Random crops and flips of one device's images in one round.

    Args:
        seed: of the run.
        device: its name.
        round_: 0-based.
        images: that the round visits.
    """

    def __init__(self, seed: int, device: str, round_: int, images: int) -> None:
        name = int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "little")
        bits = np.random.PCG64(np.random.SeedSequence((seed % 2**64, name, round_, _AUGMENT_STREAM)))
        raw = bits.random_raw(images)  # (images,) of 64 random bits each
        places = 2 * PADDING + 1
        self._rows = ((raw & 0xFFFF) * places >> 16).astype(np.int64)
        self._columns = ((raw >> 16 & 0xFFFF) * places >> 16).astype(np.int64)
        self._flipped = (raw >> 63).astype(bool)
        self._done = 0

    def apply(self, x: Array) -> Array:
        """The next batch (B, C, H, W), each image cropped out of its padded self, and mirrored or not."""
        batch = slice(self._done, self._done + len(x))
        self._done += len(x)
        padded = np.pad(x, ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))
        windows = sliding_window_view(padded, x.shape[2:], axis=(2, 3))  # (B, C, 2 P + 1, 2 P + 1, H, W)
        cropped: Array = windows[np.arange(len(x)), :, self._rows[batch], self._columns[batch]]  # (B, C, H, W)
        cropped[self._flipped[batch]] = cropped[self._flipped[batch], :, :, ::-1]
        return cropped
