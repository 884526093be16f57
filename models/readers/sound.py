"""Reads a folder of WAV files, (N, channels, window) float32 from -1 to 1, by the standard library.

A set that is too large for memory stays on disk, and a batch reads its own stretches.
"""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lamina.models.arrays import Indices
from lamina.models.errors import DataError, brief
from lamina.models.readers.folder import labelled_files
from lamina.models.readers.images import HELD_BYTES
from lamina.models.readers.read import Read
from lamina.models.readers.rows import Array, DecodedFiles, Rows, held
from lamina.models.readers.settings import DataSettings

SUFFIXES = frozenset({".wav", ".wave"})
_SCALES = {1: 2.0**7, 2: 2.0**15, 3: 2.0**23, 4: 2.0**31}  # by the bytes of a sample


class Header(NamedTuple):
    """What a WAV file says of itself.

    Attributes:
        rate: samples a second.
        channels: how many.
        frames: samples of each channel.
    """

    rate: int
    channels: int
    frames: int


def read_sound(folder: Path, settings: DataSettings) -> Read:
    """The recordings of a folder, each whole or cut into windows.

    Raises:
        DataError: there are none, one can't be read, their rates or channels are unlike, or their lengths are and no
            window is given.
    """
    found = labelled_files(folder, SUFFIXES, settings)
    rows, of_file = stretches(found.files, settings)
    targets = None if found.targets is None else found.targets[of_file]
    return Read(rows, targets, found.classes, bool(settings.classes))


def stretches(recordings: list[Path], settings: DataSettings) -> tuple[Array | Rows, Indices]:
    """Recordings as samples, each whole or cut into windows; and the place of the recording that each is of.

    Raises:
        DataError: one can't be read, their rates or channels are unlike, or their lengths are and no window is given.
    """
    headers = [_header(file) for file in recordings]
    _check_alike(recordings, headers)
    window = settings.window or _common_length(recordings, headers)
    pieces = _pieces(recordings, headers, window, settings)
    files, starts = zip(*pieces, strict=True)

    def decode(index: int) -> Array:
        return _stretch(recordings[files[index]], starts[index], window)

    rows = DecodedFiles(len(files), (headers[0].channels, window), np.float32, decode)
    return held(rows, HELD_BYTES), np.array(files, np.int64)


def samples_of(content: bytes, width: int, channels: int) -> Array:
    """PCM bytes as float32 from -1 to 1, (channels, frames)."""
    if width == 1:
        values = np.frombuffer(content, np.uint8).astype(np.int32) - 128
    elif width == 3:  # into the upper three bytes of four, and down again with the sign
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0] >> 8
    else:
        values = np.frombuffer(content, f"<i{width}").astype(np.int32)
    return (values.astype(np.float32) / np.float32(_SCALES[width])).reshape(-1, channels).T


def _pieces(
    files: Sequence[Path], headers: Sequence[Header], window: int, settings: DataSettings
) -> list[tuple[int, int]]:
    """File and first frame of every sample. With ``pad``, a last stretch that is shorter counts, too."""
    stride, pieces = settings.stride or window, []
    for index, header in enumerate(headers):
        if header.frames < window and not settings.pad:
            raise DataError(
                f"{files[index]}: it has {header.frames} samples, fewer than data.window = {window}; set data.pad = "
                "true, which fills it up with silence"
            )
        stop = max(1, header.frames) if settings.pad else header.frames - window + 1
        pieces += [(index, start) for start in range(0, stop, stride)]
    return pieces


def _stretch(file: Path, start: int, window: int) -> Array:
    try:
        with wave.open(str(file), "rb") as sound:
            sound.setpos(min(start, sound.getnframes()))
            content, channels = sound.readframes(window), sound.getnchannels()
            heard = samples_of(content, sound.getsampwidth(), channels)
    except (wave.Error, EOFError, OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    whole = np.zeros((channels, window), np.float32)
    whole[:, : heard.shape[1]] = heard
    return whole


def _header(file: Path) -> Header:
    try:
        with wave.open(str(file), "rb") as sound:
            if sound.getsampwidth() not in _SCALES:
                raise DataError(f"{file}: it has {8 * sound.getsampwidth()} bits a sample; convert it to 16")
            frames = sound.getnframes()
            stride = sound.getnchannels() * sound.getsampwidth()
            if file.stat().st_size < frames * stride:
                raise DataError(f"{file}: it is cut off; if it is being written, write it elsewhere and move it here")
            return Header(sound.getframerate(), sound.getnchannels(), frames)
    except (wave.Error, EOFError, OSError) as error:
        raise _unreadable(file, error) from error


def _check_alike(files: Sequence[Path], headers: Sequence[Header]) -> None:
    for file, header in zip(files, headers, strict=True):
        for name, unit in (("rate", "samples a second"), ("channels", "channels")):
            mine, first = getattr(header, name), getattr(headers[0], name)
            if mine != first:
                raise DataError(f"{file}: it has {mine} {unit}, and {files[0]} has {first}; convert one of them")


def _common_length(files: Sequence[Path], headers: Sequence[Header]) -> int:
    length = headers[0].frames
    for file, header in zip(files, headers, strict=True):
        if header.frames != length:
            raise DataError(
                f"{file}: it has {header.frames} samples, and {files[0]} has {length}; give data.window, and data.pad "
                "= true where shorter ones are to be filled up"
            )
    if not length:
        raise DataError(f"{files[0]}: there is no sound in it")
    return length


def _unreadable(file: Path, error: Exception) -> DataError:
    why = brief(str(error), 80) or "it ends too early"
    return DataError(f"{file}: can't be read as WAV with whole numbers (PCM): {why}; convert it to 16 bits")
