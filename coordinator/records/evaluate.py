"""How good is the averaged model? Its inference graph on held-out data, by stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lamina.models.bundle import Bundle
from lamina.models.errors import DataError
from lamina.models.values import layer_tensors


class Evaluator:
    """Judges one layer vector after another on the same data.

    Args:
        bundle: of the federation.
        x: samples (N, ...), as the model takes them.
        y: labels (N,).
        batch_size: samples at once.
    """

    def __init__(self, bundle: Bundle, x: NDArray[np.generic], y: NDArray[np.generic], batch_size: int) -> None:
        spec = bundle.manifest.spec
        if x.shape[1:] != spec.input_shape or len(x) != len(y) or not len(x):
            raise DataError(
                f"evaluation data: x {x.shape} and y {y.shape} do not fit the model {spec.name}, "
                f"whose samples have shape {spec.input_shape}"
            )
        self._bundle, self._batch_size = bundle, batch_size
        self._x = np.ascontiguousarray(x, spec.input_dtype)
        self._y = np.ascontiguousarray(y, np.int64)

    def accuracy(self, values: Sequence[NDArray[np.float32]]) -> float:
        """Share of the samples that the model with these layer vectors classifies right."""
        session = self._session(values)
        right = 0
        for start in range(0, len(self._x), self._batch_size):
            batch = slice(start, start + self._batch_size)
            (logits,) = session.run(["logits"], {"x": self._x[batch]})  # (B, classes)
            right += int((logits.argmax(axis=1) == self._y[batch]).sum())
        return right / len(self._x)

    def _session(self, values: Sequence[NDArray[np.float32]]) -> ort.InferenceSession:
        manifest = self._bundle.manifest
        tensors = {
            name: np.ascontiguousarray(tensor)
            for layer, vector in enumerate(values)
            for name, tensor in layer_tensors(
                manifest.spec, layer, vector[: manifest.spec.layers[layer].vector_size]
            ).items()
        }
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.add_external_initializers(
            list(tensors), [ort.OrtValue.ortvalue_from_numpy(tensor) for tensor in tensors.values()]
        )
        path = self._bundle.path(manifest.inference)
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def read_evaluation_data(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Arrays ``x`` and ``y`` of an ``.npz``.

    Raises:
        DataError: there is no such file, or it lacks them.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["x"], arrays["y"]
    except FileNotFoundError:
        raise DataError(f"evaluation.data: there is no file {path}") from None
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"evaluation.data: {path} holds no arrays x and y ({error})") from error
