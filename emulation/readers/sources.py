"""Reads what a board would read, a table or a folder, as a data set that is then divided among devices."""

from __future__ import annotations

import numpy as np

from lamina.emulation.readers.raw import Array, Raw, Samples, records
from lamina.models.arrays import Indices
from lamina.models.errors import DataError
from lamina.models.readers.kinds import read
from lamina.models.readers.settings import DataSettings

TEST_SHARE = 0.2


def read_source(settings: DataSettings) -> Raw:
    """The samples of a source. Of a time series, the last fifth is held out, without a row of the rest.

    Raises:
        DataError: it isn't there, or what it holds can't be used.
    """
    found = read(settings)
    x = records(found.x) if isinstance(found.x, dict) else np.asarray(found.x)
    y = None if found.y is None else np.asarray(found.y)
    ids, names = found.series, found.classes
    samples = Samples(x, y, found.stretches)
    if found.stretches is None or len(x) < 2:
        return Raw(samples, None, ids, len(names) or None, names)
    stay, out = _by_time(found.stretches)
    if not len(out):
        raise DataError(
            f"{settings.path}: its series are too short to hold out a fifth that shares no row with the rest: give "
            "more rows, or a shorter data.window or data.horizon"
        )
    return Raw(samples.part(stay), samples.part(out), None if ids is None else ids[stay], len(names) or None, names)


def _by_time(stretches: Array) -> tuple[Indices, Indices]:
    """Indices of the windows that stay, and of the last fifth of each series; those that share rows with these go."""
    early, late = np.ones(len(stretches), bool), np.zeros(len(stretches), bool)
    for one in np.unique(stretches[:, 0]):
        members = np.flatnonzero(stretches[:, 0] == one)
        held = members[len(members) - max(1, round(TEST_SHARE * len(members))) :]
        before = stretches[members, 2] <= stretches[held, 1].min()
        if before.any():
            late[held], early[members] = True, before
    return np.flatnonzero(early), np.flatnonzero(late)
