"""A small transformer encoder that classifies texts of a fixed length, such as film reviews.

Source: Vaswani et al. 2017, "Attention is all you need", with the norms before the sub-layers as in Xiong et al. 2020,
"On layer normalization in the transformer architecture", which needs no warm-up of the learning rate: a device that
trains for ten steps a round has no time for one.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.initial import start_glorot

SPREAD = 0.02  # standard deviation of the embeddings' initial values, as in BERT
EXPANSION = 4  # of the feed-forward network's inner width


class Tokens(nn.Module):
    """What a token means, plus where it stands; both learned.

    Args:
        vocabulary: number of tokens.
        length: tokens in a text.
        width: of the embedding.
    """

    def __init__(self, vocabulary: int, length: int, width: int) -> None:
        super().__init__()
        self.meaning = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(nn.init.normal_(Tensor(length, width), std=SPREAD))
        nn.init.normal_(self.meaning.weight, std=SPREAD)

    def forward(self, x: Tensor) -> Tensor:
        """Token ids (N, L) to (N, L, width)."""
        return self.meaning(x) + self.position  # type: ignore[no-any-return]  # torch's modules return Any


class Encoder(nn.Module):
    """Attention between the tokens, then a network over each of them, both around a shortcut.

    Args:
        width: of a token; a multiple of ``heads``.
        heads: attentions side by side.
        dropout: share of a sub-layer's outputs that is dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.network_norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, EXPANSION * width)
        self.outer = nn.Linear(EXPANSION * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, width) to the same shape."""
        x = x + self.dropout(self.joined(self.attention(self.attention_norm(x))))
        return x + self.dropout(self.outer(F.gelu(self.inner(self.network_norm(x)))))  # type: ignore[no-any-return]

    def attention(self, x: Tensor) -> Tensor:
        """Attention of every token to all of them, (N, L, width); all heads lie side by side."""
        length, width = x.shape[1:]
        of_heads = self.query_key_value(x).view(-1, length, 3, self.heads, width // self.heads)
        query, key, value = of_heads.permute(2, 0, 3, 1, 4)  # each (N, heads, L, width/heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).reshape(-1, length, width)


class TinyTransformer(nn.Module):
    """Embeddings, encoders, and a dense layer on the mean of the tokens.

    Args:
        vocabulary: number of tokens; id 0 is the padding, which is attended to like any other token: a mask would need
            the token ids again after the embedding, and the network could not be cut between them.
        length: tokens in a text.
        width: of a token.
        heads: attentions of an encoder.
        depth: number of encoders.
        dropout: share of a sub-layer's outputs that is dropped in training.
        classes: number of classes.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, heads: int, depth: int, dropout: float, classes: int
    ) -> None:
        super().__init__()
        self.tokens = Tokens(vocabulary, length, width)
        self.encoders = nn.Sequential(*(Encoder(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of token ids (N, L)."""
        x = self.encoders(self.tokens(x))  # (N, L) -> (N, L, width)
        return self.classifier(self.norm(x).mean(1))  # type: ignore[no-any-return]  # torch's modules return Any


def build(
    *,
    vocabulary: int = 10_000,
    length: int = 128,
    width: int = 64,
    heads: int = 4,
    depth: int = 4,
    dropout: float = 0.1,
    classes: int = 2,
) -> Definition:
    """The network for x (N, length) int64, with a sub-model from the tokens and from every encoder on.

    Raises:
        ModelError: the heads can't share out the width.
    """
    if heads < 1 or width % heads:
        raise ModelError(f"model tiny_transformer: width must be a multiple of heads, and {width} is none of {heads}")
    module = TinyTransformer(vocabulary, length, width, heads, depth, dropout, classes)
    start_glorot(module)
    cuts = tuple(f"encoders.{index}" for index in range(depth))
    return Definition("tiny_transformer", module, (length,), classes, input_dtype="int64", cuts=cuts)
