"""Which way of making int8 serves convolutions: bytes, accuracy, and time on one thread, by way.

    python -m benchmarks.quantisation runs/demo/model.onnx runs/demo/test.npz [--quick] [--json FILE]

Static ways are calibrated on the first half of the samples, and all are judged on the second. Times are of processor,
the median of runs that take turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from benchmarks.reporting import Figures, command_line, show
from lamina.coordinator.records.quantising import write_folded

QUESTION = "Which way of making int8 serves convolutions?"
_BATCHES = (1, 32)
_TURNS, _QUICK_TURNS = 60, 5


class _Batches(CalibrationDataReader):  # type: ignore[misc] # untyped
    def __init__(self, x: NDArray[Any]) -> None:
        self._left = [x[start : start + 32] for start in range(0, len(x), 32)]

    def get_next(self) -> dict[str, Any] | None:
        return {"x": self._left.pop()} if self._left else None


def _static(x: NDArray[Any], **options: Any) -> Callable[[Path, Path], None]:
    return lambda model, to: quantize_static(model, to, _Batches(x), weight_type=QuantType.QInt8, **options)


def ways(x: NDArray[Any]) -> dict[str, Callable[[Path, Path], None]]:
    """The ways by name, each makes one file of another."""
    return {
        "static_signed_by_channel": _static(
            x, quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8, per_channel=True
        ),
        "static_unsigned": _static(x, quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8),
        "static_own_operators": _static(x, quant_format=QuantFormat.QOperator, activation_type=QuantType.QUInt8),
        "dynamic": lambda model, to: quantize_dynamic(model, to, weight_type=QuantType.QUInt8),
    }


def measured(files: dict[str, Path], x: NDArray[Any], y: NDArray[Any], turns: int) -> Figures:
    """Bytes, accuracy and milliseconds of each file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: ort.InferenceSession(str(path), options) for name, path in files.items()}
    times: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in files for batch in _BATCHES}
    for _ in range(turns):
        for name, batch in times:
            began = time.process_time()
            sessions[name].run(None, {"x": x[:batch]})
            times[name, batch].append(1000 * (time.process_time() - began))
    figures: Figures = {}
    for name, path in files.items():
        figures[f"{name}_bytes"] = path.stat().st_size
        figures[f"{name}_accuracy"] = float((sessions[name].run(None, {"x": x})[0].argmax(1) == y).mean())
        figures |= {f"{name}_ms_of_{batch}": round(median(times[name, batch]), 3) for batch in _BATCHES}
    return figures


def main() -> None:
    """Compare the ways from the command line."""
    parser = command_line(QUESTION)
    parser.add_argument("model", type=Path, help="an exported one, of a single output: classes")
    parser.add_argument("data", type=Path, help="its samples, .npz with x and y")
    options = parser.parse_args()
    with np.load(options.data) as data:
        x, y = data["x"], data["y"]
    x = (x / np.float32(255)).astype(np.float32) if x.dtype == np.uint8 else x.astype(np.float32)
    half = len(x) // 2
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.onnx")
        write_folded(options.model, plain)
        files = {"float32": options.model}
        for number, (name, make) in enumerate(ways(x[:half]).items()):
            files[name] = Path(folder, f"{number}.onnx")
            make(plain, files[name])
        figures = measured(files, x[half:], y[half:], _QUICK_TURNS if options.quick else _TURNS)
    heads = ("bytes", "accuracy", *(f"ms_of_{batch}" for batch in _BATCHES))
    table = [("way", *heads), *((name, *(f"{figures[f'{name}_{head}']:g}" for head in heads)) for name in files)]
    show(QUESTION, figures, table, options.json)


if __name__ == "__main__":
    main()
