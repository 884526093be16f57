"""Draws the cohort of a cycle without replacement; it is the same wherever it is drawn again."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np


def draw(devices: Collection[str], active: float, seed: int, cycle: int) -> tuple[str, ...]:
    """The devices that train in ``cycle``, ascending.

    It depends on the set of devices and the numbers given, and on nothing else: not on the order of registration, the
    cohorts drawn before, the platform, or numpy's version (the raw stream of PCG64 is fixed; its `choice` is not).

    Args:
        devices: those that may be drawn.
        active: a share of them (at most 1; rounded half up, at least one device), or a number (above 1).
        seed: the federation's; taken modulo 2^64.
        cycle: 0-based.
    """
    candidates = sorted(set(devices))
    # A uniform 64-bit key each, and the smallest keys are drawn: every subset is as likely as any other.
    bits = np.random.PCG64(np.random.SeedSequence(seed % 2**64, spawn_key=(cycle,)))
    keys = dict(zip(candidates, bits.random_raw(len(candidates)).tolist(), strict=True))
    drawn = sorted(candidates, key=lambda device: (keys[device], device))[: cohort_size(len(candidates), active)]
    return tuple(sorted(drawn))


def cohort_size(devices: int, active: float) -> int:
    """How many of ``devices`` train: ``active`` is a share up to 1, and a number of devices above.

    Raises:
        ValueError: ``active`` isn't positive.
    """
    if not active > 0:
        raise ValueError(f"active is {active}, and must be positive: a share up to 1, or a number of devices")
    wanted = active * devices if active <= 1 else active
    return min(devices, max(1, int(wanted + 0.5)))
