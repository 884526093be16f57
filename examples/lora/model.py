"""A small transformer, pretrained and frozen, with low-rank adapters (LoRA) and a head that the federation trains.

Hu et al., "LoRA: low-rank adaptation of large language models" (arXiv 2106.09685): a frozen product W x becomes
W x + B A x, with A (r, in) drawn and B (out, r) zero at the beginning.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

VALUES = Path(__file__).with_name("values.safetensors")
WIDTH, HEADS, BLOCKS, RANK = 64, 4, 2, 4


class Adapted(nn.Module):
    """A dense layer that is frozen, with an adapter that is not."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(RANK, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, x: Tensor) -> Tensor:
        """W x + b + B A x, over the last dimension."""
        return self.frozen(x) + (x @ self.down.T) @ self.up.T  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a dense part, each behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH).requires_grad_(False) for _ in range(2))
        self.qkv, self.out = Adapted(WIDTH, 3 * WIDTH), Adapted(WIDTH, WIDTH)
        self.wide, self.narrow = Adapted(WIDTH, 4 * WIDTH), Adapted(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, WIDTH) to the same."""
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (N, HEADS, T, d)
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        return x + self.narrow(self.wide(self.norms[1](x)).relu())  # type: ignore[no-any-return]


class AdaptedClassifier(nn.Module):
    """A transformer over the eight rows of an 8x8 grey image."""

    input_shape, classes = (1, 8, 8), 5

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, WIDTH).requires_grad_(False)
        self.places = nn.Parameter(torch.randn(8, WIDTH) / WIDTH**0.5, requires_grad=False)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5) of pixels between 0 and 1."""
        x = self.rows(x.squeeze(1)) + self.places  # (N, 8, WIDTH)
        return self.head(self.blocks(x).mean(1))  # type: ignore[no-any-return]


def build() -> AdaptedClassifier:
    """The network, with its pretrained values where `../pretrain.py` has made them."""
    module = AdaptedClassifier()
    if VALUES.exists():
        module.load_state_dict(load_file(VALUES))
    return module
