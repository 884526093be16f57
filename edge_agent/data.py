"""The order in which rounds visit a board's samples."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def sample_order(
    seed: int,
    device: str,
    round: int,  # noqa: A002 - the field's word for it
    n: int,
    count: int,
) -> NDArray[np.int64]:
    """Which samples a device visits in a round: (count,) indices below ``n``, batch after batch.

    A device passes through its samples epoch by epoch, each in a new order; round r goes on where round r - 1 ends, so
    every sample is seen equally often. The order depends on the arguments alone: on no process, platform or version of
    numpy, of whose generators only the raw bits are used (those of PCG64 and SeedSequence are promised not to change).

    Args:
        seed: the federation's.
        device: its name.
        round: 0-based.
        n: samples that the device has, at least 1.
        count: samples to visit: local steps times batch size, the same in every round.
    """
    start, stop = round * count, (round + 1) * count
    epochs = range(start // n, -(-stop // n))
    stream = np.concatenate([_shuffled(seed, device, epoch, n) for epoch in epochs])
    return stream[start - epochs.start * n :][:count]


def _shuffled(seed: int, device: str, epoch: int, n: int) -> NDArray[np.int64]:
    """A permutation of n: the ranks of random 64-bit numbers. Equal ones, practically none, keep their order."""
    name = int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "little")
    bits = np.random.PCG64(np.random.SeedSequence((seed % 2**64, name, epoch)))
    return np.argsort(bits.random_raw(n), kind="stable").astype(np.int64, copy=False)
