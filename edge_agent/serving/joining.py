"""Joins a board's own personal layers into a model that is deployed to all.

The model's file holds every tensor, the personal ones with the values that the federation began from. Its own are
written over them, where they stand: as many bytes, in the same order. No package that reads ONNX files is needed.
"""

from __future__ import annotations

from collections.abc import Mapping

from lamina.edge_agent.admission.onnx_graph import FLOAT
from lamina.edge_agent.admission.protobuf import Field, integers, message, parts, text
from lamina.models.arrays import Vector
from lamina.models.errors import ModelError

_MODEL = {1, 2, 3, 4, 5, 6, 7, 8, 14}
_GRAPH = {1, 2, 5, 10, 11, 12, 13}
_TENSOR = {1, 2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14}


def joined(model: bytes, own: Mapping[str, Vector]) -> bytes:
    """The model with other values of some tensors.

    Args:
        model: an ONNX file.
        own: values by the tensor's name, float32.

    Raises:
        ModelError: the model lacks a tensor, or has it in another size or type.
    """
    if not own:
        return model
    content = bytearray(model)
    missing = dict(own)
    what = "the model's file"
    for graph in parts(message(memoryview(content), _MODEL, {7}, what).get(7, []), what):
        for tensor in parts(message(graph, _GRAPH, {2}, what).get(5, []), what):
            found = message(tensor, _TENSOR, {2, 8, 9}, what)
            name = text(found.get(8, []), what)
            if name in missing:
                _write(name, found, missing.pop(name))
    if missing:
        raise ModelError(f"the deployed model has no tensor {min(missing)!r}, which is personal")
    return bytes(content)


def _write(name: str, found: dict[int, list[Field]], value: Vector) -> None:
    new = value.astype("<f4", copy=False).tobytes()
    raw = parts(found.get(9, []), name)
    if integers(found.get(2, []), name) != (FLOAT,) or not raw or len(raw[0]) != len(new):
        raise ModelError(f"the deployed model has its tensor {name!r} in another size or type than this board")
    raw[0][:] = new
