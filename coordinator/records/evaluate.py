"""Accuracy of the averaged model: its inference graph on held-out data, by stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lamina.models.bundle import Bundle
from lamina.models.export import with_constants
from lamina.models.samples import LabelledSamples
from lamina.models.values import layer_tensors


class Evaluator:
    """Judges one layer vector after another on the same samples.

    Args:
        bundle: of the federation.
        samples: held out; they are checked and scaled as a device's are.
        batch_size: samples at once.

    Raises:
        DataError: the samples don't suit the model.
    """

    def __init__(self, bundle: Bundle, samples: LabelledSamples, batch_size: int) -> None:
        samples = samples.numbered_for(bundle.manifest.spec)
        samples.check(bundle.manifest.spec)
        self._bundle, self._samples, self._batch_size = bundle, samples, batch_size
        self._graph = with_constants(bundle).SerializeToString()  # the files may be gone when they are needed

    def accuracy(self, values: Sequence[NDArray[np.float32]]) -> float:
        """Share of the samples that the model with these layer vectors classifies right."""
        session, spec = self._session(values), self._bundle.manifest.spec
        right = 0
        for start in range(0, len(self._samples), self._batch_size):
            batch = np.arange(start, min(start + self._batch_size, len(self._samples)))
            (logits,) = session.run(["logits"], {"x": self._samples.inputs(batch, spec)})  # (B, classes)
            right += int((logits.argmax(axis=1) == self._samples.targets(batch, spec)).sum())
        return right / len(self._samples)

    def _session(self, values: Sequence[NDArray[np.float32]]) -> ort.InferenceSession:
        manifest = self._bundle.manifest
        tensors = {
            name: np.asarray(tensor, order="C")
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
        if self._bundle.manifest.constants is not None:  # frozen tensors, in a file beside the graph
            folder = str(self._bundle.folder.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return ort.InferenceSession(self._graph, options, providers=["CPUExecutionProvider"])
