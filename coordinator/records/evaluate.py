"""Judges the averaged model on held-out data: its inference graph, then the bundle's metrics, by stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lamina.models.bundle import Bundle
from lamina.models.export import with_constants
from lamina.models.judging import Outputs, Run, figures_of
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
        return self._figures(self._running(values))

    def figures_of_file(self, model: Path) -> dict[str, float]:
        """The same of an exported model."""
        return self._figures(_session(str(model), _options()), exported=True)

    def _figures(self, session: ort.InferenceSession, *, exported: bool = False) -> dict[str, float]:
        manifest = self._bundle.manifest
        metrics = _run_of(self._metrics) if self._metrics else None
        return figures_of(
            *(_run_of(session), manifest.metrics or None, metrics, self._samples, manifest.spec, self._batch_size),
            exported=exported,
        )

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


def _run_of(session: ort.InferenceSession) -> Run:
    """Run a session on those of the given arrays that it takes."""
    wanted = {place.name for place in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, NDArray[Any]]) -> Outputs:
        outputs = session.run(names, {name: value for name, value in feeds.items() if name in wanted})
        return dict(zip(names, outputs, strict=True))

    return run


def _session(graph: bytes | str, options: ort.SessionOptions) -> ort.InferenceSession:
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
