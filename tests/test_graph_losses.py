"""Every loss is torch's, and counts what is right."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.layout import derive_spec
from tests.graph_oracle import graph_steps, tensors_of, training_graph

X = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]], np.float32)


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, 3).double()


ORACLES = {
    "cross_entropy": F.cross_entropy,
    "smoothed_cross_entropy": lambda logits, y: F.cross_entropy(logits, y, label_smoothing=0.1),
    "binary_cross_entropy": lambda logits, y: F.binary_cross_entropy_with_logits(logits, one_hot(y)),
    "squared_error": lambda logits, y: F.mse_loss(logits, one_hot(y)),
}


@pytest.mark.parametrize("name", ORACLES)
def test_loss_and_gradient_are_torchs(name: str) -> None:
    torch.manual_seed(0)
    module, y = nn.Linear(2, 3), np.array([2, 0, 1])
    definition = Definition("loss", module, (2,), 3, loss=name)
    spec, before = derive_spec(definition), tensors_of(module)
    graph = training_graph(definition, spec, 0)
    state = graph_steps(graph, spec, 0, before, [(X, y)], lr=1.0, weight_decay=0.0)
    logits = module.double()(torch.tensor(X).double())
    value = ORACLES[name](logits, torch.tensor(y))
    value.backward()
    assert state.loss == pytest.approx(value.item(), rel=1e-6)
    assert state.correct == int((logits.argmax(1) == torch.tensor(y)).sum())
    moved = before["weight"].reshape(-1) - state.parameters[:6]
    np.testing.assert_allclose(moved, module.weight.grad.reshape(-1), rtol=1e-5, atol=1e-7)


def test_one_logit_stands_for_yes_and_no() -> None:
    """With logits x - 0.5 = 0.5, -0.5, 1.5 and labels 1, 1, 1, two are right."""
    module = nn.Linear(1, 1)
    nn.init.ones_(module.weight)
    nn.init.constant_(module.bias, -0.5)
    definition = Definition("loss", module, (1,), 1, loss="binary_cross_entropy")
    spec = derive_spec(definition)
    x = np.array([[1.0], [0.0], [2.0]], np.float32)
    state = graph_steps(training_graph(definition, spec, 0), spec, 0, tensors_of(module), [(x, np.ones(3, int))])
    assert state.correct == 2
    assert state.loss == pytest.approx(np.log1p(np.exp([-0.5, 0.5, -1.5])).mean(), rel=1e-6)


def test_an_unknown_loss_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="there is no loss 'crossentropy'; did you mean 'cross_entropy'"):
        Definition("loss", nn.Linear(2, 3), (2,), 3, loss="crossentropy")


def test_a_loss_that_is_no_name_is_refused_in_words() -> None:
    with pytest.raises(ModelError, match=r"a loss is a name, one of cross_entropy, .*, and this is a int"):
        Definition("own", nn.Linear(2, 3), (2,), 3, loss=3)  # type: ignore[arg-type]  # wrong
