"""The forms of a model's values: named tensors, flat vectors, and layer by layer.

    tensors                 by torch's names, as in a safetensors file
    parameters, statistics  two flat float32 vectors: what a device trains, what it averages besides
    vector                  one layer on the wire: its parameters, then its statistics

All are float32 and in C order; `lamina.models.spec` gives the order of the tensors. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from lamina.models.arrays import Vector
from lamina.models.errors import ModelError
from lamina.models.spec import LayerSpec, ModelSpec, TensorSpec
from lamina.models.storage.replace import replace_file

Tensors = Mapping[str, npt.NDArray[np.float32]]


def flatten(spec: ModelSpec, tensors: Tensors) -> tuple[Vector, Vector]:
    """Named tensors to ``parameters`` (spec.size,) and ``statistics`` (S,); names that the spec lacks are left out.

    Raises:
        ModelError: a tensor is missing, or has another shape.
    """
    parameters = np.empty(spec.parameter_offsets[-1], np.float32)
    statistics = np.empty(spec.statistics_offsets[-1], np.float32)
    for tensor, place in _places(spec, parameters, statistics):
        place[...] = _checked(spec, tensor, tensors)
    return parameters, statistics


def unflatten(spec: ModelSpec, parameters: Vector, statistics: Vector) -> dict[str, Vector]:
    """The inverse of `flatten`; the tensors are copies."""
    return {tensor.name: place.copy() for tensor, place in _places(spec, parameters, statistics)}


def layer_vector(spec: ModelSpec, layer: int, parameters: Vector, statistics: Vector) -> Vector:
    """A copy of one layer's value (vector_size,) out of the flat vectors."""
    return np.concatenate([parameters[parameter_slice(spec, layer)], statistics[statistics_slice(spec, layer)]])


def set_layer(spec: ModelSpec, layer: int, vector: Vector, parameters: Vector, statistics: Vector) -> None:
    """Write one layer's value (vector_size,) into the flat vectors, in place.

    Raises:
        ValueError: the vector's length isn't the layer's.
    """
    expected = spec.layers[layer]
    _check_length(expected, vector)
    parameters[parameter_slice(spec, layer)] = vector[: expected.size]
    statistics[statistics_slice(spec, layer)] = vector[expected.size :]


def layer_tensors(spec: ModelSpec, layer: int, vector: Vector) -> dict[str, Vector]:
    """One layer's value (vector_size,) as named tensors, which are views of it.

    Raises:
        ValueError: the vector's length isn't the layer's.
    """
    expected = spec.layers[layer]
    _check_length(expected, vector)
    return {tensor.name: place for tensor, place in _cut_up((*expected.parameters, *expected.statistics), vector)}


def parameter_slice(spec: ModelSpec, layer: int) -> slice:
    """Return the place of the layer in the flat parameters."""
    return slice(*spec.parameter_offsets[layer : layer + 2])


def statistics_slice(spec: ModelSpec, layer: int) -> slice:
    """Return the place of the layer in the flat statistics."""
    return slice(*spec.statistics_offsets[layer : layer + 2])


def encode_values(tensors: Tensors) -> bytes:
    """Named tensors as the content of a safetensors file; equal tensors give equal bytes, in whatever order they come.

    ``module.load_state_dict(safetensors.torch.load(content))`` gives them back to the torch module that they are of.
    """
    return safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


def write_values(path: Path, tensors: Tensors) -> None:
    """Write `encode_values` to a file, at once or not at all."""
    replace_file(path, encode_values(tensors))


def read_values(path: Path) -> dict[str, Vector]:
    """The named tensors of a safetensors file.

    Raises:
        ModelError: there is no such file, or it isn't one of safetensors.
    """
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"values {path}: can't be read: {error}") from error


def _places(spec: ModelSpec, parameters: Vector, statistics: Vector) -> Iterator[tuple[TensorSpec, Vector]]:
    """Each tensor of the model, with its shaped view of the flat vectors."""
    trained = [tensor for layer in spec.layers for tensor in layer.parameters]
    averaged = [tensor for layer in spec.layers for tensor in layer.statistics]
    yield from _cut_up(trained, parameters)
    yield from _cut_up(averaged, statistics)


def _cut_up(tensors: list[TensorSpec] | tuple[TensorSpec, ...], vector: Vector) -> Iterator[tuple[TensorSpec, Vector]]:
    start = 0
    for tensor in tensors:
        yield tensor, vector[start : start + tensor.size].reshape(tensor.shape)
        start += tensor.size


def _checked(spec: ModelSpec, expected: TensorSpec, tensors: Tensors) -> Vector:
    if expected.name not in tensors:
        raise ModelError(f"model {spec.name}: the values lack the tensor {expected.name}")
    found = tensors[expected.name]
    if found.shape != expected.shape:
        raise ModelError(
            f"model {spec.name}: tensor {expected.name} has the shape {found.shape}, and must have {expected.shape}"
        )
    return found


def _check_length(layer: LayerSpec, vector: Vector) -> None:
    if vector.shape != (layer.vector_size,):
        raise ValueError(f"layer {layer.name}: its vector has {layer.vector_size} elements, not shape {vector.shape}")
