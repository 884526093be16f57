"""Gives each word of a message a tag: what it is about, from the words around it."""

from __future__ import annotations

from torch import Tensor, nn

WORDS, TAGS, LENGTH = 30, 4, 12


class Tagger(nn.Module):
    """Logits (N, 12, 4) of the tags of words (N, 12)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16)
        self.before = nn.GRU(16, 24, batch_first=True)
        self.tags = nn.Linear(24, TAGS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every word."""
        states, _ = self.before(self.words(x))
        return self.tags(states)


def build() -> nn.Module:
    """The network, and what it learns."""
    module = Tagger()
    module.input_shape, module.input_dtype, module.task = (LENGTH,), "int64", "tokens"
    return module
