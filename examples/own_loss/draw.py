"""Writes scikit-learn's diabetes data, scaled, as a CSV: ``python draw.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes


def draw(path: Path) -> None:
    """Write the lines."""
    found = load_diabetes()
    table = np.concatenate([found.data, found.target[:, None]], axis=1)
    table = (table - table.mean(0)) / table.std(0)
    lines = [",".join([*found.feature_names, "progression"])]
    lines += [",".join(f"{number:.5f}" for number in row) for row in table]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    draw(Path("diabetes.csv"))
