"""Describes a board's samples to its operator: how many, of which shape and type, in which range, of which classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lamina.models.readers.rows import Rows
from lamina.models.samples import LabelledSamples, Stored

_BLOCK = 1024  # samples looked at together
_MOST_CLASSES = 40  # that are listed


def summary(data: LabelledSamples) -> Iterator[tuple[str, str]]:
    """Names and values, one line each. It looks at every sample, so what can't be decoded is found.

    Raises:
        DataError: a sample can't be read.
    """
    yield "samples", f"{len(data):,}"
    for name, part in data.parts.items():
        place = "on demand" if isinstance(part, Rows) else f"{part.nbytes / 2**20:.1f} MiB"
        yield f"input {name}".strip(), f"{part.shape[1:]} {part.dtype}, {place}, {_range(part)}"
    y = data.y
    if y is None:
        yield "targets", "none"
    elif y.ndim == 1 and y.dtype.kind in "iu":
        labels, counts = np.unique(y[:], return_counts=True)
        named = [data.class_names[label] if 0 <= label < len(data.class_names) else str(label) for label in labels]
        shown = [f"{name} {count:,}" for name, count in zip(named, counts.tolist(), strict=True)][:_MOST_CLASSES]
        more = f" and {len(labels) - _MOST_CLASSES} others" if len(labels) > _MOST_CLASSES else ""
        yield "labels", ", ".join(shown) + more
    else:
        yield "targets", f"{y.shape[1:]} {y.dtype}, {_range(y)}"


def _range(array: Stored) -> str:
    """The least and the largest number of an array."""
    found = [(block.min(), block.max()) for block in (array[at : at + _BLOCK] for at in range(0, len(array), _BLOCK))]
    return f"{min(low for low, _ in found):g} to {max(high for _, high in found):g}"
