"""The loss of an unaligned transcript is torch's own, and so is its gradient, whatever the lengths."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.alignment import ctc_loss
from lamina.models.layout import derive_spec
from tests.graph_oracle import assert_trains_as_torch_does, training_graph

T, N, C = 9, 4, 5
LABELS = torch.tensor([[1, 2, 2], [3, 1, 4], [2, 4, 1], [1, 1, 1]])


def of_both(
    logits: Tensor, *lengths: Tensor, labels: Tensor = LABELS, reduction: str = "none", blank: int = 0
) -> list[tuple[Tensor, Tensor]]:
    """Loss and gradient by torch, and by ours."""
    found = []
    for loss in (F.ctc_loss, ctc_loss):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, labels, lengths[0], lengths[1], blank, reduction, True)
        (gradient,) = torch.autograd.grad(value.sum(), [leaf])
        found.append((value.detach(), gradient))
    return found


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("normed", [True, False], ids=["log softmax", "any numbers"])
def test_loss_and_gradient_are_torchs_for_any_lengths(reduction: str, normed: bool) -> None:
    torch.manual_seed(0)
    logits = torch.randn(T, N, C, dtype=torch.float64)
    logits = logits.log_softmax(2) if normed else logits
    lengths = torch.tensor([9, 6, 3, 4]), torch.tensor([3, 2, 0, 3])  # the last finds no way: three equal labels
    (value, gradient), (ours, found) = of_both(logits, *lengths, reduction=reduction)
    torch.testing.assert_close(ours, value)
    torch.testing.assert_close(found, gradient)


def test_labels_one_after_another_and_another_blank() -> None:
    torch.manual_seed(0)
    logits = torch.randn(T, N, C, dtype=torch.float64).log_softmax(2)
    flat = torch.tensor([0, 2, 3, 1, 0, 0])
    found = []
    for loss in (F.ctc_loss, ctc_loss):
        found.append(loss(logits, flat, (9, 8, 9, 7), (2, 1, 1, 2), blank=4, reduction="none"))
    torch.testing.assert_close(found[1], found[0])


def test_one_sample_without_a_batch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(T, C, dtype=torch.float64).log_softmax(1)
    lengths = torch.tensor(9), torch.tensor(3)
    torch.testing.assert_close(ctc_loss(logits, LABELS[0], *lengths), F.ctc_loss(logits, LABELS[0], *lengths))


class Speaking(nn.Module):
    """Logits of a recurrent layer, shifted by how well it says one transcript."""

    def __init__(self, steps: int = T) -> None:
        super().__init__()
        self.steps = steps
        self.layer = nn.GRU(2, 6, batch_first=True)
        self.says, self.last = nn.Linear(6, C), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x.reshape(-1, self.steps, 2))
        said = self.says(states).log_softmax(2).transpose(0, 1)
        count = states.shape[0]
        lengths = torch.full((count,), self.steps), torch.full((count,), 3)
        loss = F.ctc_loss(said, LABELS[:1].expand(count, -1), *lengths, reduction="none", zero_infinity=True)
        return self.last(states[:, -1]) + loss.unsqueeze(1)


def test_inside_a_network_it_trains_as_torch_trains_it() -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((4, 2 * T), np.float32)
    assert_trains_as_torch_does(Definition("speaking", Speaking(), (2 * T,), 3), x)


@pytest.mark.exhaustive
def test_a_long_one_is_refused_with_the_authors_line() -> None:
    definition = Definition("speaking", Speaking(300), (600,), 3)
    with pytest.raises(ModelError, match=r"at most 256 steps: pool or stride over time before it .*alignment\.py"):
        training_graph(definition, derive_spec(definition), 0)
