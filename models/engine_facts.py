"""Says what this project relies on of ONNX Runtime: its errors, an optimisation to leave out, its blocks."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as engine

LOAD_ERRORS = (
    engine.Fail,
    engine.InvalidArgument,
    engine.InvalidGraph,
    engine.InvalidProtobuf,
    engine.NoSuchFile,
    engine.NotImplemented,
    engine.RuntimeException,
)
"""What ONNX Runtime raises where a model can't be loaded or run."""

REORDERING = ("ReshapeFusion",)
"""Optimisations to leave out for a graph with activation checkpointing.

They make constants of computed shapes. An operator's place in the engine's order follows from what it reads, so the
order is then another than the one that the memory of such a graph was predicted by, and takes far more.
"""

_SILENT = 4  # of the log's levels: here an error is an answer


@cache
def block_size() -> int:
    """Channels in a block of the layout that this build has for this processor; 0 where it has none.

    Of two pixels, each of 16 channels, the second one's first value comes after the first pixel's block.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    pixels = np.arange(32, dtype=np.float32).reshape(1, 16, 1, 2)
    try:
        session = ort.InferenceSession(_REORDER, options, providers=["CPUExecutionProvider"])
        [blocked] = session.run(["y"], {"x": pixels})
    except LOAD_ERRORS:
        return 0
    return int(np.flatnonzero(blocked == pixels[0, 0, 0, 1])[0])


# y = ReorderInput(x), float32 (1, 16, 1, 2), of the domain com.microsoft.nchwc.
_REORDER = (
    b'\x08\x08:V\n)\n\x01x\x12\x01y"\x0cReorderInput:\x13com.microsoft.nchwc\x12\x01bZ\x1b\n\x01x\x12\x16\n'
    b"\x14\x08\x01\x12\x10\n\x02\x08\x01\n\x02\x08\x10\n\x02\x08\x01\n\x02\x08\x02b\t\n\x01y\x12\x04\n\x02\x08"
    b"\x01B\x04\n\x00\x10\x12B\x17\n\x13com.microsoft.nchwc\x10\x01"
)
