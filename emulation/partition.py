"""Divides a training set among devices, evenly or unevenly, from a seed.

==============  =====================================================================================================
``iid``         shuffled and dealt out evenly
``dirichlet``   every class is spread over the devices in proportions drawn from a symmetric Dirichlet distribution:
                the smaller alpha, the more a device's classes differ from its neighbours'
``shards``      sorted by label, cut into equal shards, a few to each device: most devices lack most classes
``natural``     as the source says whose each sample is
``time``        in the order of the source, a stretch to each device: what came first is on one, what came last on
                another
``quantity``    shuffled, and dealt out so unevenly that some devices have a hundred times the samples of others
==============  =====================================================================================================

In each, every sample goes to exactly one device. A partition is a list of ascending indices, one array a device.

Sources: label skew by a Dirichlet distribution: Hsu, Qi and Brown 2019 (arXiv 1909.06335); its form here, a class
spread over devices, with a cap and a least number of samples: Li et al. 2022, "Federated learning on non-IID data
silos" (arXiv 2102.02079). Shards: McMahan et al. 2017 (arXiv 1602.05629).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.arrays import Indices
from lamina.models.errors import DataError

Labels = NDArray[Any]  # (N,) whole numbers

LEAST_SAMPLES = 10
_DRAWS = 2_000  # a few dozen are usual for 128 devices at alpha 0.1; beyond this, there is no hope


def iid(samples: int, devices: int, rng: np.random.Generator) -> list[Indices]:
    """Deal ``samples`` out evenly: sizes differ by one at most.

    Raises:
        DataError: there are more devices than samples.
    """
    _require_enough(samples, devices, 1)
    return _sorted(np.array_split(rng.permutation(samples), devices))


def dirichlet(
    labels: Labels, devices: int, alpha: float, rng: np.random.Generator, *, least: int = LEAST_SAMPLES
) -> list[Indices]:
    """Spread every class over the devices by a draw from Dir(alpha, ..., alpha).

    A device that has reached its even share, N/m samples, gets nothing of the classes that follow. The whole
    partition is drawn again until every device has ``least`` samples.

    Raises:
        DataError: there are too few samples, or no draw in many gives every device enough.
    """
    _require_enough(len(labels), devices, least)
    if not alpha > 0:
        raise DataError(f"partition.alpha must be positive, and is {alpha}")
    for _ in range(_DRAWS):
        owner = _draw_owners(labels, devices, alpha, rng)
        if owner is not None and np.bincount(owner, minlength=devices).min() >= least:
            return _by_owner(owner, devices)
    raise DataError(
        f"partition: none of {_DRAWS} draws with alpha {alpha} gave each of {devices} devices {least} of the "
        f"{len(labels)} samples; take fewer devices or a larger alpha"
    )


def shards(labels: Labels, devices: int, per_device: int, rng: np.random.Generator) -> list[Indices]:
    """Sort by label, cut into ``devices * per_device`` shards (sizes differ by one at most), deal them out at random.

    Raises:
        DataError: there are fewer samples than shards.
    """
    if per_device < 1:
        raise DataError(f"partition.shards must be at least 1, and is {per_device}")
    _require_enough(len(labels), devices, per_device)
    shuffled = rng.permutation(len(labels))  # so that equal labels do not keep the file's order
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    pieces = np.array_split(by_label, devices * per_device)
    dealt = rng.permutation(len(pieces)).reshape(devices, per_device)
    return _sorted([np.concatenate([pieces[piece] for piece in row]) for row in dealt])


def natural(ids: Labels, devices: int, rng: np.random.Generator) -> list[Indices]:
    """Give each device whole owners: as many as there are owners, dealt out in random order.

    Args:
        ids: whose each sample is, (N,), of any type that sorts.
        devices: how many; with as many devices as owners, each holds exactly one owner's samples.
        rng: decides who goes where.

    Raises:
        DataError: there are fewer owners than devices.
    """
    owners, owner_of = np.unique(ids, return_inverse=True)
    if len(owners) < devices:
        raise DataError(f"partition: the data has {len(owners)} owners, too few for {devices} devices")
    device_of = rng.permutation(len(owners)) % devices  # (owners,)
    return _by_owner(device_of[owner_of], devices)


def time(samples: int, devices: int) -> list[Indices]:
    """Give each device a stretch of consecutive samples; sizes differ by one at most.

    Raises:
        DataError: there are more devices than samples.
    """
    _require_enough(samples, devices, 1)
    return np.array_split(np.arange(samples), devices)


def quantity(samples: int, devices: int, spread: float, rng: np.random.Generator) -> list[Indices]:
    """Deal out so that sizes are a geometric series, in an order that is drawn: the last is ``spread`` times the first.

    Raises:
        DataError: there are too few samples for the poorest device to have one.
    """
    shares = spread ** np.linspace(0, 1, devices) if devices > 1 else np.ones(1)
    stops = np.round(np.cumsum(shares) / shares.sum() * samples).astype(np.int64)
    if np.diff(stops, prepend=0).min() < 1:
        least = int(np.ceil(shares.sum() / shares[0]))
        raise DataError(
            f"partition: {samples} samples are too few for {devices} devices of which one has {spread:g} times "
            f"those of another; some {least} would do, or a smaller partition.spread"
        )
    parts = np.split(rng.permutation(samples), stops[:-1])
    return _sorted([parts[place] for place in rng.permutation(devices)])


def _draw_owners(labels: Labels, devices: int, alpha: float, rng: np.random.Generator) -> Indices | None:
    """One draw: the device of every sample, (N,); ``None`` if a class fell to none but full devices (a tiny alpha)."""
    owner = np.zeros(len(labels), np.int64)
    held = np.zeros(devices, np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        reach = np.cumsum(rng.dirichlet(np.full(devices, alpha)) * (held < len(labels) / devices))  # (devices,)
        if not reach[-1] > 0:
            return None
        stops = (reach / reach[-1] * len(members)).astype(np.int64)  # the last is len(members), exactly
        sizes = np.diff(stops, prepend=0)
        owner[members] = np.repeat(np.arange(devices), sizes)
        held += sizes
    return owner


def _by_owner(owner: Indices, devices: int) -> list[Indices]:
    return [np.flatnonzero(owner == device) for device in range(devices)]


def _sorted(parts: list[Indices]) -> list[Indices]:
    return [np.sort(part) for part in parts]


def _require_enough(samples: int, devices: int, least: int) -> None:
    if devices < 1:
        raise DataError(f"partition: at least one device is needed, not {devices}")
    if samples < devices * least:
        raise DataError(f"partition: {samples} samples are too few for {devices} devices with {least} at least")
