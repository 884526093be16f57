"""Cuts the rows of a table into samples: a row each, or windows of a time series with what follows them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamina.models.arrays import Indices
from lamina.models.errors import DataError
from lamina.models.readers.read import Read
from lamina.models.readers.rows import Array, Rows, Windows
from lamina.models.readers.settings import DataSettings


class Gathered(NamedTuple):
    """The columns of a table, as arrays.

    Attributes:
        inputs: (T, C) float32.
        targets: (T, K) float32; or labels, (T,) or (T, K) int64; ``None`` without a target.
        groups: which series each row belongs to, (T,); ``None`` where all are of one.
        classes: names of the classes, if the target is one.
        gone: which rows are left out, (T,); ``None``: none.
    """

    inputs: Array
    targets: Array | None
    groups: NDArray[np.int32] | None
    classes: tuple[str, ...] = ()
    gone: NDArray[np.bool_] | None = None

    def rows(self, which: NDArray[Any]) -> Gathered:
        """Some rows, or all in another order."""
        targets, groups, gone = (
            None if array is None else array[which] for array in (self.targets, self.groups, self.gone)
        )
        return self._replace(inputs=self.inputs[which], targets=targets, groups=groups, gone=gone)


def cut(source: str, gathered: Gathered, settings: DataSettings) -> Read:
    """The samples of a table's rows.

    Windows stay views of the series: they take no memory of their own.

    Raises:
        DataError: no series is as long as a window and its horizon.
    """
    named = bool(settings.classes)
    if not settings.window:
        if gathered.gone is not None:
            gathered = gathered.rows(~gathered.gone)
        if not len(gathered.inputs):
            raise DataError(f"{source}: a cell is missing in every row; data.missing = 'mask' would keep them")
        return Read(gathered.inputs, gathered.targets, gathered.classes, named, gathered.groups)
    inputs, targets, groups, _, gone = _by_group(gathered)
    lengths, span = _lengths(groups, len(inputs)), settings.window + settings.horizon
    starts = _whole(starts_of(lengths, span, settings.stride or 1), span, gone)
    if not len(starts):
        longest = max(lengths)
        horizon = f" and a horizon of {settings.horizon}" if settings.horizon else ""
        without = "" if gone is None else ", of which some lack a cell"
        raise DataError(
            f"{source}: its longest series has {longest} rows{without}, too few for a window of "
            f"{settings.window}{horizon}"
        )
    x = Windows(inputs, starts, settings.window)
    y: Array | Rows | None = targets
    if targets is not None and settings.horizon:
        y = Windows(targets, starts + settings.window, settings.horizon)
    elif targets is not None:
        y = targets[starts + settings.window - 1]
    series = None if groups is None else groups[starts]
    return Read(x, y, gathered.classes, named, series, _stretches(starts, lengths, span))


def _stretches(starts: Indices, lengths: list[int], span: int) -> NDArray[np.integer[Any]]:
    """Which series each window is of, and which rows of it: (N, 3)."""
    begins = np.concatenate([[0], np.cumsum(lengths)])
    series = np.searchsorted(begins, starts, side="right") - 1
    first = starts - begins[series]
    return np.stack([series, first, first + span], axis=1).astype(np.int32)


def starts_of(lengths: list[int], span: int, stride: int) -> Indices:
    """First rows of all windows, (N,), each with ``span`` rows inside one of the series that lie one after another."""
    starts, begin = [np.zeros(0, np.int64)], 0
    for length in lengths:
        starts.append(np.arange(begin, begin + length - span + 1, stride, dtype=np.int64))
        begin += length
    return np.concatenate(starts)


def _whole(starts: Indices, span: int, gone: NDArray[np.bool_] | None) -> Indices:
    """Windows over no row that is left out."""
    if gone is None:
        return starts
    before = np.concatenate([[0], np.cumsum(gone)])
    kept: Indices = starts[before[starts + span] == before[starts]]
    return kept


def _by_group(gathered: Gathered) -> Gathered:
    """The rows of each series together, in their order; they are copied only where they are not."""
    groups = gathered.groups
    if groups is None or (np.diff(groups) >= 0).all():  # groups are numbered as they come
        return gathered
    return gathered.rows(np.argsort(groups, kind="stable"))


def _lengths(groups: NDArray[np.int32] | None, rows: int) -> list[int]:
    return [rows] if groups is None else [int(count) for count in np.bincount(groups)]
