"""Reads a folder of images, (N, 3, H, W) or (N, 1, H, W) unsigned bytes, where Pillow is installed.

Bytes stay bytes: they are scaled when a batch is made (`lamina.models.samples`). A set that is too large for memory
stays on disk, and a batch decodes its own files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lamina.models.errors import ConfigError, DataError, brief
from lamina.models.readers.folder import labelled_files
from lamina.models.readers.read import Read
from lamina.models.readers.rows import Array, DecodedFiles, Rows, held
from lamina.models.readers.settings import DataSettings

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

HELD_BYTES = 64 << 20
"""DecodedFiles samples up to so many bytes are kept in memory."""

_MODES = {"rgb": ("RGB", 3), "grey": ("L", 1)}


def read_images(folder: Path, settings: DataSettings) -> Read:
    """The images of a folder.

    Raises:
        DataError: there are none; and as `images`.
        ConfigError: as `images`.
    """
    found = labelled_files(folder, SUFFIXES, settings)
    return Read(images(found.files, settings), found.targets, found.classes, bool(settings.classes))


def images(files: list[Path], settings: DataSettings) -> Array | Rows:
    """Images as samples.

    Raises:
        ConfigError: Pillow is not installed.
        DataError: one can't be read, or they are of unlike sizes and no size is given.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError(f"{files[0]}: reading images needs Pillow: pip install 'lamina-fl[images]'") from None
    height, width = settings.size or _common_size(Image, files)
    mode, channels = _MODES[settings.colour]

    def decode(index: int) -> Array:
        with _opened(Image, files[index]) as image:
            try:
                shown = image.convert(mode)
                if shown.size != (width, height):
                    if settings.size is None:
                        raise DataError(f"{files[index]}: it has changed its size since the agent started")
                    shown = shown.resize((width, height), Image.Resampling.BILINEAR)
            except (OSError, SyntaxError, ValueError) as error:
                raise _unreadable(files[index], error) from error
            pixels = np.asarray(shown, np.uint8).reshape(height, width, channels)
            return pixels.transpose(2, 0, 1)  # (C, H, W)

    return held(DecodedFiles(len(files), (channels, height, width), np.uint8, decode), HELD_BYTES)


def _common_size(image_module: Any, files: list[Path]) -> tuple[int, int]:
    """Height and width of all images, from their headers."""
    sizes: dict[tuple[int, int], Path] = {}
    for file in files:
        with _opened(image_module, file) as image:
            sizes.setdefault(image.size, file)
        if len(sizes) > 1:
            ((first, one), (second, other)) = sizes.items()
            raise DataError(
                f"{other}: it is {second[0]} x {second[1]}, and {one} is {first[0]} x {first[1]}; "
                "give data.size = [height, width], to which all are resized"
            )
    ((width, height),) = sizes
    return height, width


def _opened(image_module: Any, file: Path) -> Any:
    try:
        return image_module.open(file)
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file}: can't be read as an image: {brief(str(error), 120)}; remove it or write it anew")
