"""Says which stretches are anomalies: ``python watch.py RUN faulty.npz``, with the model and threshold of a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def anomalies(run: Path, data: Path) -> np.ndarray:
    """Which stretches the model reproduces worse than 99 % of the healthy ones, (N,)."""
    threshold = json.loads((run / "summary.json").read_text())["metrics"]["threshold"]
    session = onnxruntime.InferenceSession(run / "model.onnx")
    x = np.load(data)["x"]
    [found] = session.run(None, {"x": x})
    return np.square(found - x).mean(axis=1) > threshold


if __name__ == "__main__":
    alarms = anomalies(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{alarms.sum()} of {len(alarms)} stretches are anomalies")
