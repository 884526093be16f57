"""Curves in TensorBoard's event files: `tensorboard --logdir FOLDER` shows them."""

from __future__ import annotations

from collections.abc import Mapping

from tensorboard.summary import Writer


class TensorBoard:
    """Event files in a folder.

    Args:
        folder: a new file is begun there.
    """

    def __init__(self, folder: str) -> None:
        self._writer = Writer(folder)

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.point`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step=step)
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()
