"""The table ``data``: where samples are, and which of their columns and windows are meant."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from lamina.models.errors import ConfigError, require

Missing = Literal["refuse", "drop", "mask"]
Kind = Literal["auto", "npz", "csv", "parquet", "sqlite", "images", "wav"]


class DataSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Samples that need more than a path.

    Attributes:
        path: a CSV (also gzipped), Parquet or SQLite file; or a folder of images, WAV files or ``.npz`` archives.
        kind: what is there; ``auto`` tells by the suffix.
        inputs: columns that the network takes, in this order; empty: all but ``target`` and ``group``, and where there
            is a ``horizon``, all but ``group``.
        target: the column, or columns, that it learns to tell; empty with a ``horizon``: the inputs.
        classes: names of the classes in the order of their labels; empty: those of the model.
        window: rows of a time series that make one sample, (window, inputs); of sound, samples of the recording. 0: a
            row is a sample, and a recording is one.
        horizon: rows after the window whose target is to be told, (horizon, targets); 0: the window's last row is.
        stride: rows from one window to the next; of sound, 0 is the window's length.
        group: the column that says which series a row belongs to: no window spans two.
        delimiter: of a CSV; empty: the comma, semicolon, tab or bar that its first line has most of.
        table: of an SQLite file; empty: the only one there.
        labels: a CSV in a folder of images or sound with the columns ``file`` and ``class`` (or ``target``); empty:
            each class has a folder of its name.
        colour: of images, 3 channels (``rgb``), or 1 (``grey``).
        size: height and width that images are resized to; left out, they must all have the same.
        pad: whether recordings that are shorter than the window are filled up with silence.
        limit_mib: memory for a folder of ``.npz``: the newest that fit are used.
        missing: what becomes of empty cells and NaN in a table. ``refuse``: they are an error; ``drop``: rows with one
            are left out, and windows over one; ``mask``: an input becomes 0, and as many further columns say, 1 or 0,
            whether each was there; a target stays NaN, for ``Regression(missing=True)``.
        reread: whether to look for changes at the start of each cycle; a folder of ``.npz`` always is.
    """

    path: str
    kind: Kind = "auto"
    inputs: tuple[str, ...] = ()
    target: str | tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    window: int = 0
    horizon: int = 0
    stride: int = 0
    group: str = ""
    delimiter: str = ""
    table: str = ""
    labels: str = ""
    colour: Literal["rgb", "grey"] = "rgb"
    size: tuple[int, int] | None = None
    pad: bool = False
    limit_mib: float = 256.0
    reread: bool = False
    missing: Missing = "refuse"

    def __post_init__(self) -> None:
        require(self.path != "", "data.path must name a file or a folder")
        for name in ("window", "horizon", "stride"):
            require(getattr(self, name) >= 0, f"data.{name} can't be negative, and is {getattr(self, name)}")
        require(self.window > 0 or not self.horizon, "data.horizon needs data.window: what is it told from?")
        require(self.window > 0 or not self.stride, "data.stride needs data.window")
        require(len(self.delimiter) <= 1, f"data.delimiter must be one character, and is {self.delimiter!r}")
        require(self.size is None or min(self.size) > 0, f"data.size must be positive, and is {self.size}")
        require(self.limit_mib > 0, f"data.limit_mib must be positive, and is {self.limit_mib}")
        require(len(set(self.classes)) == len(self.classes), "data.classes names a class twice")
        require(len(set(self.inputs)) == len(self.inputs), "data.inputs names a column twice")
        require(len(set(self.targets)) == len(self.targets), "data.target names a column twice")

    @property
    def targets(self) -> tuple[str, ...]:
        """The columns of the target."""
        if isinstance(self.target, str):
            return (self.target,) if self.target else ()
        return self.target


Source = str | DataSettings
"""A configuration's ``data``: a path or ``module:function``, or a table."""


def source_of(text: str) -> Source:
    """Read a flag: a path or ``module:function``, or a table as TOML writes it, ``{path = "a.csv", target = "b"}``.

    Raises:
        ConfigError: it begins like a table, and is none.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        return msgspec.convert(tomllib.loads(f"data = {text}")["data"], DataSettings)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"--data {text}: {error}") from error


def path_of(source: Source) -> str:
    """The path of a source, for messages and to look for it."""
    return source if isinstance(source, str) else source.path


def suffix_of(path: str) -> str:
    """The suffix that tells a file's kind, in lower case: that before ``.gz`` where the file is compressed."""
    name = Path(path).name.lower().removesuffix(".gz")
    return Path(name).suffix
