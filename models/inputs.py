"""Reads what a model is to predict from, in the way in which the samples were read that it was trained on."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lamina.models.errors import DataError
from lamina.models.readers.kinds import read_unlabelled
from lamina.models.readers.settings import DataSettings, Source
from lamina.models.samples import Inputs, LabelledSamples
from lamina.models.spec import ModelSpec


def read_inputs(path: Path, like: Source, spec: ModelSpec) -> LabelledSamples:
    """The samples of a file or a folder, without targets.

    Args:
        path: ``.npy``, ``.npz`` with ``x`` (or ``x.NAME`` for several inputs), a table, an image, a recording, or a
            folder of these.
        like: the source of the board's samples: its columns, windows, colour and size are taken.
        spec: of the network.

    Raises:
        DataError: it isn't there, can't be read, or isn't what the network takes.
        ConfigError: a package is missing.
    """
    if path.suffix in (".npy", ".npz") and path.is_file():
        x = _arrays(path)
    else:
        x = read_unlabelled(_settings(path, like, spec))
    samples = LabelledSamples(x, None, str(path))
    samples.check_inputs(spec)
    return samples


def as_samples(x: Any, spec: ModelSpec) -> LabelledSamples:
    """Arrays, or nested lists of numbers, as samples: a batch (N, ...), or a single one.

    Raises:
        DataError: they are not what the network takes.
    """
    wanted = np.dtype(spec.input_dtype)
    if isinstance(x, dict):
        parts = {one.name: np.asarray(x[one.name], one.dtype) for one in spec.named_inputs if one.name in x}
        single = all(parts[one.name].shape == one.shape for one in spec.named_inputs if one.name in parts)
        given: Inputs = {name: part[np.newaxis] if single else part for name, part in parts.items()} or dict(x)
    else:
        try:
            array = np.asarray(x)
            array = array.astype(wanted) if not isinstance(x, np.ndarray) else array
        except (ValueError, TypeError) as error:
            raise DataError(f"x: it is no array of numbers: {error}") from error
        given = array[np.newaxis] if array.shape == spec.input_shape else array
    samples = LabelledSamples(given, None, "x")
    samples.check_inputs(spec)
    return samples


def _arrays(path: Path) -> Inputs:
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return np.asarray(loaded)
        with loaded:
            named = {name.removeprefix("x."): loaded[name] for name in loaded.files if name.startswith("x.")}
            if not named and "x" not in loaded:
                raise DataError(f"{path}: it has no array 'x', only {', '.join(loaded.files) or 'none'}")
            return named or loaded["x"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read: {error}") from error


def _settings(path: Path, like: Source, spec: ModelSpec) -> DataSettings:
    """The settings of the board's samples for another path; what they leave open, the network says."""
    settings = like if isinstance(like, DataSettings) else DataSettings(str(path))
    settings = msgspec.structs.replace(settings, path=str(path), kind="auto")
    shape = spec.input_shape
    if len(shape) == 3 and settings.size is None:
        settings = msgspec.structs.replace(settings, size=(shape[1], shape[2]))
        if not isinstance(like, DataSettings) and shape[0] == 1:
            settings = msgspec.structs.replace(settings, colour="grey")
    return settings
