"""Judges the averaged model on held-out data: its inference graph, then the bundle's metrics, by stock ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lamina.models.bundle import Bundle
from lamina.models.export import with_constants
from lamina.models.metrics import Sums, added, finished
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
        metrics = bundle.manifest.metrics
        self._metrics = _session(bundle.path(metrics.graph).read_bytes(), _options()) if metrics else None

    def accuracy(self, values: Sequence[NDArray[np.float32]]) -> float:
        """Share of the samples that the model with these layer vectors classifies right."""
        return self.figures(values)["accuracy"]

    def figures(self, values: Sequence[NDArray[np.float32]]) -> dict[str, float]:
        """The metrics by name of the model with these layer vectors; what nothing was counted for is left out."""
        running, spec = self._running(values), self._bundle.manifest.spec
        names = [output.name for output in running.get_outputs()]
        sums: Sums | None = None
        counts: Sums | None = None
        for start in range(0, len(self._samples), self._batch_size):
            batch = np.arange(start, min(start + self._batch_size, len(self._samples)))
            outputs = running.run(names, {"x": self._samples.inputs(batch, spec)})
            found = self._judged(dict(zip(names, outputs, strict=True)), self._samples.targets(batch, spec))
            sums, counts = added(sums, found[0]), added(counts, found[1])
        assert sums is not None
        assert counts is not None
        metrics = self._bundle.manifest.metrics
        if not metrics:
            return {"accuracy": float(sums[0] / counts[0])}
        return {name: value for name, value in finished(metrics.figures, sums, counts).items() if math.isfinite(value)}

    def _judged(self, outputs: dict[str, NDArray[Any]], y: NDArray[Any]) -> tuple[Any, Any]:
        """Sums and counts of a batch."""
        if self._metrics is None:
            [logits] = outputs.values()  # (B, classes)
            return [(logits.argmax(axis=1) == y).sum()], [len(y)]
        wanted = {place.name for place in self._metrics.get_inputs()}
        feeds = {name: value for name, value in (outputs | {"y": y}).items() if name in wanted}
        sums, counts = self._metrics.run(["sums", "counts"], feeds)
        return sums, counts

    def _running(self, values: Sequence[NDArray[np.float32]]) -> ort.InferenceSession:
        manifest = self._bundle.manifest
        tensors = {
            name: np.asarray(tensor, order="C")
            for layer, vector in enumerate(values)
            for name, tensor in layer_tensors(
                manifest.spec, layer, vector[: manifest.spec.layers[layer].vector_size]
            ).items()
        }
        options = _options()
        options.add_external_initializers(
            list(tensors), [ort.OrtValue.ortvalue_from_numpy(tensor) for tensor in tensors.values()]
        )
        if self._bundle.manifest.constants is not None:  # frozen tensors, in a file beside the graph
            folder = str(self._bundle.folder.resolve())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        return _session(self._graph, options)


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options


def _session(graph: bytes, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
