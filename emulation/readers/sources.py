"""Reads what a board would read, a table or a folder, as a data set that is then divided among devices."""

from __future__ import annotations

import numpy as np

from lamina.emulation.readers.raw import Array, Raw, Samples, records
from lamina.models.arrays import Indices
from lamina.models.readers.kinds import read
from lamina.models.readers.settings import DataSettings

TEST_SHARE = 0.2


def read_source(settings: DataSettings) -> Raw:
    """The samples of a source. Of a time series, the last fifth is held out: windows overlap, and a draw would leak.

    Raises:
        DataError: it isn't there, or what it holds can't be used.
    """
    found = read(settings)
    x = records(found.x) if isinstance(found.x, dict) else np.asarray(found.x)
    y = None if found.y is None else np.asarray(found.y)
    ids, names = found.series, found.classes
    if not settings.window or len(x) < 2:
        return Raw(Samples(x, y), None, ids, len(names) or None, names)
    stay, out = _by_time(ids, len(x))
    train, test = (Samples(x[part], None if y is None else y[part]) for part in (stay, out))
    return Raw(train, test, None if ids is None else ids[stay], len(names) or None, names)


def _by_time(series: Array | None, samples: int) -> tuple[Indices, Indices]:
    """Indices of the samples that stay and of the last fifth of each series."""
    of = np.zeros(samples, np.int64) if series is None else series
    late = np.zeros(samples, bool)
    for one in np.unique(of):
        members = np.flatnonzero(of == one)
        late[members[len(members) - max(1, round(TEST_SHARE * len(members))) :]] = len(members) > 1
    return np.flatnonzero(~late), np.flatnonzero(late)
