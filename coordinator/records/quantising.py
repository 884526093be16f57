"""Makes int8 of an exported model, by ONNX Runtime's own tools, calibrated on the operator's evaluation data.

Static quantisation in the form of QuantizeLinear and DequantizeLinear pairs, signed, with a scale for each channel of
the weights. Its operators are standard ones, which boards admit; convolutions run faster by it, where dynamic
quantisation makes them slower (`python -m benchmarks.quantisation` has the figures). Constants are folded first, and
norms into the convolutions before them, since both would keep weights from being quantised.

A personal layer stays float32, since each board writes its own values over it; and then nothing is folded.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from lamina.models.errors import ModelError, first_line
from lamina.models.held_out import at_most
from lamina.models.judging import feeds_of
from lamina.models.samples import LabelledSamples
from lamina.models.spec import ModelSpec
from lamina.models.storage.replace import replace_file

MOST_CALIBRATING = 512
"""Samples that ranges are measured on."""

_BATCH = 32


def quantised(model: Path, samples: LabelledSamples, spec: ModelSpec, personal: Collection[str] = ()) -> str:
    """Put the int8 form of a model in its place; returns what was done, for a person.

    Args:
        model: an exported file.
        samples: that ranges are measured on.
        spec: of the network.
        personal: tensors that must stay as they are.

    Raises:
        ModelError: ONNX Runtime can't quantise it.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # it takes a second to import

    logging.getLogger("onnxruntime.quantization").setLevel(logging.ERROR)
    kept = {entry.key: entry.value for entry in onnx.load(model, load_external_data=False).metadata_props}
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        plain, made = Path(folder, "plain.onnx"), Path(folder, "int8.onnx")
        _simplify(model, plain, fold=not personal)
        excluded = _readers(onnx.load(plain), personal)
        try:
            quantize_static(
                plain,
                made,
                _calibration(at_most(samples.numbered_for(spec), MOST_CALIBRATING), spec),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=excluded,
            )
        except Exception as error:  # the tools raise whatever they meet
            raise ModelError(f"model {spec.name} can't be made int8: {first_line(error)}") from error
        result = onnx.load(made)
    onnx.helper.set_model_props(result, kept | {"lamina.quantised": "int8"})
    replace_file(model, result.SerializeToString(deterministic=True))
    return "static" + (f", {len(excluded)} operators with personal layers in float32" if excluded else "")


def write_folded(model: Path, to: Path) -> None:
    """Write the model with its constants and norms folded, without which some weights would stay float32."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(to)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def _simplify(model: Path, to: Path, *, fold: bool) -> None:
    """Fold constants and norms, which ONNX Runtime does when it loads a model, and name all operators."""
    if fold:
        write_folded(model, to)
    simple = onnx.load(to if fold else model)
    standard = [entry for entry in simple.opset_import if entry.domain in ("", "ai.onnx")]
    del simple.opset_import[:]
    simple.opset_import.extend(standard)
    for index, node in enumerate(simple.graph.node):
        node.name = f"{node.op_type}_{index}"
    onnx.save(simple, to)


def _readers(model: onnx.ModelProto, personal: Collection[str]) -> list[str]:
    """Names of the operators that read personal tensors, as they are or turned and reshaped."""
    constants = {initializer.name for initializer in model.graph.initializer}
    own, readers = set(personal), []
    for node in model.graph.node:
        if own.isdisjoint(node.input):
            continue
        readers.append(node.name)
        if constants.issuperset(node.input):
            own |= set(node.output)
            constants |= set(node.output)
    return readers


def _calibration(samples: LabelledSamples, spec: ModelSpec) -> Any:
    """A reader of batches, as the tools want it."""
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):  # type: ignore[misc] # untyped
        def __init__(self) -> None:
            self._batches = _batches(samples, spec)

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    return Batches()


def _batches(samples: LabelledSamples, spec: ModelSpec) -> Iterator[dict[str, Any]]:
    for start in range(0, len(samples), _BATCH):
        yield feeds_of(samples, np.arange(start, min(start + _BATCH, len(samples))), spec, exported=True)
