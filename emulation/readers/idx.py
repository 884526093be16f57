"""Reads IDX, the format of the MNIST family: two zero bytes, a type, the rank, the extents, the elements.

Source: LeCun, Cortes and Burges, "The MNIST database"; Fashion-MNIST (Xiao et al. 2017), EMNIST (Cohen et al. 2017)
and KMNIST (Clanuwat et al. 2018) come in the same format, plain or gzipped.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from lamina.emulation.readers.raw import Array, Raw, Samples
from lamina.models.errors import DataError

_UNSIGNED_BYTE = 8


def is_idx(folder: Path) -> bool:
    """Whether ``folder`` holds IDX files of training images."""
    return bool(_candidates(folder, "train-images"))


def read_idx_folder(folder: Path) -> Raw:
    """Training and test set: x (N, H, W) uint8, y (N,).

    Raises:
        DataError: a file is missing, there are several of it, or it is damaged.
    """
    test = "t10k" if _candidates(folder, "t10k-images") else "test"  # EMNIST says test
    return Raw(_read_pair(folder, "train"), _read_pair(folder, test))


def _read_pair(folder: Path, prefix: str) -> Samples:
    return Samples(*(read_idx(_the_file(folder, f"{prefix}-{part}")) for part in ("images", "labels")))


def read_idx(path: Path) -> Array:
    """The array of one IDX file of unsigned bytes.

    Raises:
        DataError: the file is damaged, or holds another type.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be unpacked: {error}; fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(f"{path}: not an IDX file: it does not begin with two zero bytes")
    kind, rank = content[2], content[3]
    if kind != _UNSIGNED_BYTE:
        raise DataError(f"{path}: its elements are of IDX type 0x{kind:02x}; only unsigned bytes (0x08) are read")
    extents = np.frombuffer(content[4 : 4 + 4 * rank], ">u4").tolist() if len(content) >= 4 + 4 * rank else []
    elements = content[4 + 4 * rank :]
    if len(extents) != rank or len(elements) != math.prod(extents):
        raise DataError(f"{path}: its header announces {extents}, and {len(elements)} bytes follow; fetch it again")
    return np.frombuffer(elements, np.uint8).reshape(extents)


def _the_file(folder: Path, part: str) -> Path:
    found = _candidates(folder, part)
    if len(found) != 1:
        what = f"several files of {part}: {', '.join(path.name for path in found)}" if found else f"no file of {part}"
        raise DataError(f"{folder}: {what}; one is needed, named like {part}-idx3-ubyte, plain or .gz")
    return found[0]


def _candidates(folder: Path, part: str) -> list[Path]:
    """Files of a part: some mirrors write ``-idx3-``, some ``.idx3-``; EMNIST puts the variant's name in front."""
    return sorted(path for separator in "-." for path in folder.glob(f"*{part}{separator}idx[13]-ubyte*"))
