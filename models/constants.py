"""Stores a network's frozen tensors once for all graphs of its bundle, in one file that every graph refers to.

A graph of ONNX may leave the data of a constant to a file that lies beside it. That file is one of safetensors here:
behind a header it has the tensors' bytes as they are, and ONNX Runtime maps it into memory. So a frozen backbone lies
in the bundle once, crosses the wire once, and its pages are shared by all sessions of a device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from lamina.models.manifest import EXTERNAL_LOCATION, FileEntry

SMALLEST_BYTES = 4096
"""Smaller constants stay in the graphs: they are worked on when a session is made, and are nothing beside the rest."""

Arrays = Mapping[str, NDArray[Any]]


def large(tensors: Arrays) -> dict[str, NDArray[Any]]:
    """Select the tensors that are worth a place in the file."""
    return {name: value for name, value in tensors.items() if value.nbytes >= SMALLEST_BYTES}


@dataclass(frozen=True)
class Constants:
    """The file of the frozen tensors.

    Attributes:
        entry: the file.
        places: offset and length of a tensor in it, by its element type, shape and bytes.
    """

    entry: FileEntry
    places: Mapping[tuple[int, tuple[int, ...], bytes], tuple[int, int]]

    def refer(self, model: onnx.ModelProto) -> None:
        """Let the model's constants that stand in the file be read from there."""
        for initializer in model.graph.initializer:
            if len(initializer.raw_data) < SMALLEST_BYTES:
                continue
            place = self.places.get(_key(initializer))
            if place is not None:
                offset, length = place
                initializer.ClearField("raw_data")
                initializer.data_location = onnx.TensorProto.EXTERNAL
                for key, value in (
                    ("location", self.entry.file_name),
                    ("offset", str(offset)),
                    ("length", str(length)),
                ):
                    initializer.external_data.add(key=key, value=value)


def constants_of(tensors: Arrays, content: bytes, entry: FileEntry) -> Constants:
    """Say where the tensors stand in ``content``, the file ``entry``."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    places = {}
    for name, value in tensors.items():
        start, stop = header[name]["data_offsets"]
        tensor = onnx.numpy_helper.from_array(np.asarray(value, order="C"))
        places[_key(tensor)] = 8 + size + start, stop - start
    return Constants(entry, places)


def bytes_of(model: onnx.ModelProto) -> int:
    """What the model's large constants take, wherever they lie, but for those whose values are given to a session."""
    return sum(_size_bytes(tensor) for tensor in model.graph.initializer if not is_given(tensor))


def _size_bytes(tensor: onnx.TensorProto) -> int:
    size = int(np.prod(tensor.dims, dtype=np.int64)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size if size >= SMALLEST_BYTES else 0


def is_given(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's value is given when a session is made, and lies in no file."""
    return any(entry.key == "location" and entry.value == EXTERNAL_LOCATION for entry in tensor.external_data)


def _key(tensor: onnx.TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest()
