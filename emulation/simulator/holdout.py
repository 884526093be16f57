"""Samples that nobody trains on: to tune on, to be public, or to judge a device by its own.

==============  =====================================================================================================
``public``      a share of the training set that everybody has, without labels (`research.codistillation`);
                it is drawn class by class before the rest is divided over the devices
``validation``  a share of every device's samples; together they take the test set's place. Whatever is chosen by
                looking at results (a learning rate, a number of rounds) is chosen by these: the test set stays unseen
``own``         a share of every device's samples, by which the model is judged for that device alone: federated
                evaluation, as in LEAF (Caldas et al., arXiv 1812.01097)
==============  =====================================================================================================

The last two leave the partition as it is without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from lamina.emulation.datasets import Dataset, drawn_off, split_off
from lamina.emulation.readers.raw import Array
from lamina.models.arrays import Indices
from lamina.models.errors import require

VALIDATION, PUBLIC, PER_DEVICE = 3, 4, 5
"""Streams of the random numbers that a seed stands for."""


class Holdout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares that are not trained on; see the module. 0 holds nothing out."""

    public: float = 0.0
    validation: float = 0.0
    own: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.public, self.validation, self.own)
        require(all(0 <= share < 1 for share in shares), "holdout: every share must lie in [0, 1)")


@dataclass(frozen=True, eq=False)
class DeviceSplits:
    """Every device's samples, in two parts.

    Attributes:
        trained: indices of those it trains on, ascending, by its name.
        aside: of those it does not; devices without any are missing.
    """

    trained: dict[str, Indices]
    aside: dict[str, Indices]


def without_public(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Array]:
    """What devices divide among themselves, and what everybody has, (P, *input_shape)."""
    if not share:
        return dataset, dataset.x_train[:0]
    x, labels = dataset.x_train, dataset.labels
    stream = (seed, PUBLIC)
    stay, out = drawn_off(len(x), share, stream) if labels is None else split_off(labels, share, stream)
    return dataset.part(stay), x[out]


def set_aside(held: Mapping[str, Indices], share: float, seed: int, stream: int) -> DeviceSplits:
    """Take a share of every device's samples out of training: at least one, where it has two.

    Args:
        held: indices of the samples of every device.
        share: of them; 0 takes none.
        seed: of the draw.
        stream: `VALIDATION` or `PER_DEVICE`, so that the two draws don't depend on each other.
    """
    kept = DeviceSplits(dict(held), {})
    if not share:
        return kept
    for number, (device, indices) in enumerate(sorted(held.items())):
        if len(indices) > 1:
            rng = np.random.default_rng((seed, stream, number))
            count = min(max(1, round(share * len(indices))), len(indices) - 1)
            kept.aside[device] = np.sort(rng.choice(indices, count, replace=False))
            kept.trained[device] = np.setdiff1d(indices, kept.aside[device])
    return kept
