"""Recurrent layers go along the sequence as torch's do, in both directions and in layers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.graph import inference_graph
from lamina.models.layout import derive_spec
from tests.graph_oracle import distance, flat, graph_steps, run, tensors_of, torch_steps, trained, training_graph

STEPS, WIDTH, HIDDEN = 5, 4, 3


class Reader(nn.Module):
    """Reads a sequence; all outputs and the last states count."""

    def __init__(self, recurrent: nn.RNNBase) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.dense = nn.Linear(HIDDEN * (2 if recurrent.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.recurrent(x if self.recurrent.batch_first else x.transpose(0, 1))
        last = sum(state.sum((0, 2)) for state in (states if isinstance(states, tuple) else (states,)))
        return self.dense(y.mean(1 if self.recurrent.batch_first else 0)) + last.unsqueeze(1) * torch.arange(3.0)


class Started(nn.Module):
    """Starts from a state of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.state = nn.Linear(WIDTH, HIDDEN)
        self.dense = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = self.state(x[:, 0]).unsqueeze(0)
        return self.dense(self.lstm(x, (state, state.tanh()))[0][:, -1])


CASES = {
    "lstm": lambda: Reader(nn.LSTM(WIDTH, HIDDEN, batch_first=True)),
    "lstm, two layers, two directions": lambda: Reader(nn.LSTM(WIDTH, HIDDEN, 2, batch_first=True, bidirectional=True)),
    "lstm, time first, no biases": lambda: Reader(nn.LSTM(WIDTH, HIDDEN, bias=False)),
    "lstm from a computed state": Started,
    "gru": lambda: Reader(nn.GRU(WIDTH, HIDDEN, batch_first=True)),
    "gru, two layers, two directions": lambda: Reader(nn.GRU(WIDTH, HIDDEN, 2, bidirectional=True)),
    "gru, no biases": lambda: Reader(nn.GRU(WIDTH, HIDDEN, batch_first=True, bias=False)),
    "plain recurrence": lambda: Reader(nn.RNN(WIDTH, HIDDEN, batch_first=True)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive if "two layers" in name else ()) for name in CASES]
)
def test_gradients_and_logits_are_torchs(name: str) -> None:
    torch.manual_seed(0)
    definition = Definition("reader", CASES[name](), (STEPS, WIDTH), 3)
    spec, start = derive_spec(definition), tensors_of(definition.module)
    x = np.random.default_rng(0).standard_normal((4, STEPS, WIDTH), np.float32)
    step = [(x, np.array([0, 1, 2, 1]))]
    plain = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    state = graph_steps(training_graph(definition, spec, 0), spec, 0, start, step, **plain)
    exact = torch_steps(definition, spec, 0, step, torch.float64, **plain)
    assert distance(state.parameters, exact.parameters, flat(start, trained(spec))) < 1e-5
    logits = definition.module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(run(inference_graph(definition, spec), start, x), logits, rtol=1e-4, atol=1e-6)


@pytest.mark.exhaustive
def test_the_graph_does_not_grow_with_the_sequence() -> None:
    sizes = []
    for steps in (5, 50):
        definition = Definition("reader", CASES["lstm"](), (steps, WIDTH), 3)
        sizes.append(len(training_graph(definition, derive_spec(definition), 0).model.graph.node))
    assert sizes[0] == sizes[1]


def test_activations_count_both_products_of_every_step() -> None:
    """An LSTM has 4 * 3 outputs a step from its input, as many from its state: 5 * 24; a GRU 3 * 3: 5 * 18."""
    for name, expected in (("lstm", 120), ("gru", 90)):
        definition = Definition("reader", CASES[name](), (STEPS, WIDTH), 3)
        assert derive_spec(definition).layers[0].activations == expected
