"""Draws the readings of some sensors as a CSV, an hour a line: ``python draw.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SENSORS, DAYS = 6, 45


def draw(path: Path) -> None:
    """Write the lines of all sensors, which differ in level, swing and the hour of their peak."""
    rng = np.random.default_rng(0)
    lines = ["sensor,hour,value"]
    for sensor in range(SENSORS):
        level, swing, peak = rng.normal(0, 1.0), rng.uniform(0.6, 1.4), rng.uniform(10, 18)
        hours = np.arange(24 * DAYS)
        weather = np.convolve(rng.normal(0, 0.1, len(hours)), np.exp(-np.arange(48) / 12))[: len(hours)]
        values = level + swing * np.cos((hours - peak) * 2 * np.pi / 24) + weather
        lines += [f"roof-{sensor},{hour},{value:.4f}" for hour, value in zip(hours, values, strict=True)]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    draw(Path("readings.csv"))
