"""Trains the example's network on the digits 0 to 4, and writes its values and, as a new task, the digits 5 to 9.

    cd backbone && python ../pretrain.py

`values.safetensors` is what a network that came pretrained from elsewhere would bring along. `digits.npz` holds what
the federation is to learn. Both go to the current folder, which has the example's `model.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from lamina.models.definition import load_definition

HERE = Path.cwd()
STEPS = 300


def main() -> None:
    """Train, and write both files."""
    digits = load_digits()
    x = torch.from_numpy((digits.images[:, None] / 16).astype(np.float32))  # (N, 1, 8, 8)
    y = torch.from_numpy(digits.target.astype(np.int64))
    known = y < 5
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = load_definition(f"{HERE / 'model.py'}:build").module.requires_grad_(True)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    for _ in range(STEPS):
        batch = torch.randint(int(known.sum()), (64,))
        loss = F.cross_entropy(module(x[known][batch]), y[known][batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    save_file(module.state_dict(), HERE / "values.safetensors")
    np.savez(HERE / "digits.npz", x=x[~known].numpy(), y=y[~known].numpy() - 5, classes=5)
    print(f"the last loss on the digits 0 to 4 was {loss.item():.3f}; wrote values.safetensors and digits.npz")


if __name__ == "__main__":
    main()
