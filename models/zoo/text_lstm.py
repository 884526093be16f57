"""An LSTM that classifies texts of a fixed length, such as film reviews.

Token ids are the federation's example of int64 inputs, the embedding of parameters that most devices can only read.
Source of the LSTM: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.initial import start_glorot


class TextLstm(nn.Module):
    """An embedding, an LSTM, and a dense layer on the maximum over time of each of its outputs.

    Not on the last output: texts are padded at the end, and over the padding an LSTM forgets. A mask would need the
    token ids again after the embedding, and the network could not be cut between them.

    Args:
        vocabulary: number of tokens; id 0 is the padding.
        width: of the embedding.
        hidden: of the LSTM.
        classes: number of classes.
    """

    def __init__(self, vocabulary: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of token ids x (N, L)."""
        y, _ = self.lstm(self.embedding(x))  # (N, L, width) -> (N, L, hidden)
        return self.classifier(y.amax(1))  # type: ignore[no-any-return]  # torch's modules return Any


def build(
    *, vocabulary: int = 10_000, length: int = 200, width: int = 64, hidden: int = 64, classes: int = 2
) -> Definition:
    """The network for x (N, length) int64, with a cut before every layer."""
    module = TextLstm(vocabulary, width, hidden, classes)
    _start(module)
    return Definition("text_lstm", module, (length,), classes, input_dtype="int64")


def _start(module: TextLstm) -> None:
    start_glorot(module)
    nn.init.normal_(module.embedding.weight, std=0.3)
    with torch.no_grad():
        for name, tensor in module.lstm.named_parameters():
            if name.startswith("weight"):
                nn.init.xavier_uniform_(tensor)
            else:
                tensor.zero_()
        # The forget gate starts open (Jozefowicz et al. 2015), so that gradients reach early tokens from the start.
        hidden = module.lstm.hidden_size
        module.lstm.get_parameter("bias_ih_l0")[hidden : 2 * hidden].fill_(1.0)
