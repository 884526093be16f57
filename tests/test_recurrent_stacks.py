"""An LSTM or GRU of several layers is cut between them, with dropout there, and trains as torch does."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lamina.models.build import build_bundle
from lamina.models.definition import Definition
from lamina.models.layout import derive_spec


class Stack(nn.Module):
    """A recurrent module, and a dense layer on its last output, or on a final state."""

    def __init__(self, kind: type[nn.Module], reads: str, **options: object) -> None:
        super().__init__()
        self.rnn = kind(4, 5, **options)
        self.head = nn.Linear(10 if options.get("bidirectional") else 5, 3)
        self.reads, self.batch_first = reads, options.get("batch_first", False)

    def forward(self, x: Tensor) -> Tensor:
        y, states = self.rnn(x if self.batch_first else x.transpose(0, 1))
        state = states[0] if isinstance(states, tuple) else states
        read = {"output": y[:, -1] if self.batch_first else y[-1], "last": state[-1], "all": state.sum(0)}
        return self.head(read[self.reads])  # type: ignore[no-any-return]  # torch's Any


def definition(
    kind: type[nn.Module], reads: str, *, cuts: tuple[int, ...] | None = None, **options: object
) -> Definition:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Definition("stack", Stack(kind, reads, **options), (3, 4), 3, cuts=cuts)


@pytest.mark.parametrize(
    ("kind", "reads"),
    [
        (nn.LSTM, "output"),
        *[
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in ((nn.LSTM, "last"), (nn.GRU, "output"), (nn.GRU, "last"))
        ],
    ],
)
def test_a_stack_is_cut_between_its_layers(tmp_path: Path, kind: type[nn.Module], reads: str) -> None:
    made = definition(kind, reads, num_layers=2, dropout=0.3, batch_first=True)
    spec = derive_spec(made)
    assert [layer.name for layer in spec.layers] == ["rnn.l0", "rnn.l1", "head"]
    assert spec.cuts == (0, 1, 2)
    build_bundle(made, tmp_path / "bundle", batch_size=2)


@pytest.mark.parametrize(
    ("kind", "reads", "options"),
    [
        pytest.param(
            nn.LSTM,
            "output",
            {"num_layers": 2, "bidirectional": True, "dropout": 0.2},
            marks=pytest.mark.exhaustive,
        ),
        (nn.GRU, "all", {"num_layers": 2, "bias": False}),
        (nn.LSTM, "all", {"num_layers": 2, "batch_first": True}),
    ],
)
def test_stacks_of_every_kind_train_as_torch_does(
    tmp_path: Path, kind: type[nn.Module], reads: str, options: dict[str, object]
) -> None:
    build_bundle(definition(kind, reads, cuts=(), **options), tmp_path / "bundle", batch_size=2)


def test_a_single_layer_keeps_its_modules_name() -> None:
    assert [layer.name for layer in derive_spec(definition(nn.LSTM, "output")).layers] == ["rnn", "head"]
