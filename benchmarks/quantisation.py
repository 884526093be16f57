"""Which way of making int8 serves convolutions: bytes, accuracy, and time on one thread, by way.

    python -m benchmarks.quantisation runs/demo/model.onnx runs/demo/test.npz [--json FILE]

Static ways are calibrated on the first half of the samples, and all are judged on the second. Times are of processor,
the median of runs that take turns.
"""

from __future__ import annotations

import argparse
import json
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

_BATCHES = (1, 32)
_TURNS = 60


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
        "static, QDQ, signed, a scale a channel": _static(
            x, quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8, per_channel=True
        ),
        "static, QDQ, unsigned": _static(x, quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8),
        "static, operators of the engine's own": _static(
            x, quant_format=QuantFormat.QOperator, activation_type=QuantType.QUInt8
        ),
        "dynamic": lambda model, to: quantize_dynamic(model, to, weight_type=QuantType.QUInt8),
    }


def folded(model: Path, to: Path) -> None:
    """Fold constants and norms, without which weights that are turned first stay float32."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(to)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def measured(files: dict[str, Path], x: NDArray[Any], y: NDArray[Any]) -> list[dict[str, Any]]:
    """A row for each file."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: ort.InferenceSession(str(path), options) for name, path in files.items()}
    times: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in files for batch in _BATCHES}
    for _ in range(_TURNS):
        for name, batch in times:
            began = time.process_time()
            sessions[name].run(None, {"x": x[:batch]})
            times[name, batch].append(1000 * (time.process_time() - began))
    return [
        {
            "way": name,
            "bytes": path.stat().st_size,
            "accuracy": float((sessions[name].run(None, {"x": x})[0].argmax(1) == y).mean()),
            **{f"ms_of_{batch}": round(median(times[name, batch]), 3) for batch in _BATCHES},
        }
        for name, path in files.items()
    ]


def main() -> None:
    """Print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with np.load(options.data) as data:
        x, y = data["x"], data["y"]
    x = (x / np.float32(255)).astype(np.float32) if x.dtype == np.uint8 else x.astype(np.float32)
    half = len(x) // 2
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.onnx")
        folded(options.model, plain)
        files = {"float32": options.model}
        for number, (name, make) in enumerate(ways(x[:half]).items()):
            files[name] = Path(folder, f"{number}.onnx")
            make(plain, files[name])
        rows = measured(files, x[half:], y[half:])
    print(f"{'way':<40}{'bytes':>10}{'accuracy':>10}" + "".join(f"{f'ms of {batch}':>11}" for batch in _BATCHES))
    for row in rows:
        times = "".join(f"{row[f'ms_of_{batch}']:>11.3f}" for batch in _BATCHES)
        print(f"{row['way']:<40}{row['bytes']:>10,}{row['accuracy']:>10.4f}{times}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
