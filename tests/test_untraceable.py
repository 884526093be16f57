"""A forward pass that can't become a graph is refused with the author's line and with what to write instead."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.layout import derive_spec
from tests.graph_oracle import distance, flat, graph_steps, moving, tensors_of, torch_steps, trained, training_graph

Body = Callable[["Between", Tensor], Tensor]


class Between(nn.Module):
    """A function between two dense layers, with a buffer."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.first, self.last, self.body = nn.Linear(8, 8), nn.Linear(8, 3), body
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self, self.first(x)))


class TwoInputs(nn.Linear):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]  # what is refused
        return super().forward(x * mask)


class AnyInputs(nn.Linear):
    def forward(self, *xs: Tensor) -> Tensor:
        return super().forward(xs[0])


def decided(module: Between, h: Tensor) -> Tensor:
    return h if h.sum() > 0 else -h


def scaled(module: Between, h: Tensor) -> Tensor:
    return h * float(h.abs().max())


def of_two_samples(module: Between, h: Tensor) -> Tensor:
    return h.reshape(2, -1)[:, :8]


def without_the_last(module: Between, h: Tensor) -> Tensor:
    return h[:-1]


def packed(module: Between, h: Tensor) -> Tensor:
    sequence = nn.utils.rnn.pack_padded_sequence(h.unsqueeze(2), torch.full((len(h),), 8), batch_first=True)
    return nn.utils.rnn.pad_packed_sequence(sequence, batch_first=True)[0].squeeze(2)


def halved(module: Between, h: Tensor) -> Tensor:
    return h.half().float()


def under_autocast(module: Between, h: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return h.tanh()


def counted(module: Between, h: Tensor) -> Tensor:
    return h * h.max().item()


def chosen(module: Between, h: Tensor) -> Tensor:
    return h + h[h > 0].mean()


def places(module: Between, h: Tensor) -> Tensor:
    return h + torch.nonzero(h > 0).float().mean()


def different(module: Between, h: Tensor) -> Tensor:
    return h + torch.unique(h.detach().round()).mean()


def of_four(module: Between, h: Tensor) -> Tensor:
    return h.view(4, 8)


def with_four(module: Between, h: Tensor) -> Tensor:
    return h + torch.zeros(4, 8)


def by_numpy(module: Between, h: Tensor) -> Tensor:
    return h + torch.from_numpy(np.tanh(h.detach().numpy()))


def decomposed(module: Between, h: Tensor) -> Tensor:
    return h + torch.linalg.svdvals(h.unsqueeze(1) * torch.eye(8))


def in_a_loop(module: Between, h: Tensor) -> Tensor:
    return torch.stack([row.tanh() for row in h])


def one_more(module: Between, h: Tensor) -> Tensor:
    return torch.cat([h, h[:1]])


def refusal(module: nn.Module) -> str:
    definition = Definition("odd", module, (8,), 3)
    with pytest.raises(ModelError) as caught:
        training_graph(definition, derive_spec(definition), 0)
    return str(caught.value)


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        (decided, "write torch.where(condition, a, b)"),
        (scaled, "write torch.where(condition, a, b)"),
        (of_two_samples, "keep the samples in dimension 0"),
        (without_the_last, "keep the samples in dimension 0"),
        (packed, "packed sequences are not supported"),
        (counted, "write torch.where(condition, a, b)"),
        (chosen, "write torch.where(condition, a, b)"),
        (places, "write torch.where(condition, a, b)"),
        (different, "write torch.where(condition, a, b)"),
        (of_four, "keep the samples in dimension 0"),
        (with_four, "keep the samples in dimension 0"),
        (in_a_loop, "keep the samples in dimension 0"),
        (by_numpy, "compute with torch"),
        (decomposed, "write it in other operators, or add one to models/graph/rules"),
        (halved, "leave out half()"),
        (under_autocast, "leave the block out"),
    ],
)
def test_the_authors_line_is_named_and_what_to_write_instead(body: Body, advice: str) -> None:
    message = refusal(Between(body))
    assert advice in message
    assert "test_untraceable.py" in message or body is under_autocast  # whose place is the module


@pytest.mark.parametrize("body", [decided, of_two_samples, one_more])
def test_no_graph_and_none_of_torchs_names_is_shown(body: Body, capfd: pytest.CaptureFixture[str]) -> None:
    message = refusal(Between(body))
    assert "s77" not in message
    assert "TORCH_LOGS" not in message
    assert capfd.readouterr() == ("", "")


def test_logits_of_more_samples_than_came_in_are_told() -> None:
    assert refusal(Between(one_more)).endswith("must return logits (N, 3), and returns N + 1 x 3")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (TwoInputs(8, 3), "its forward takes x, mask (line"),
        (AnyInputs(8, 3), "write forward(self, x)"),
        (torch.compile(nn.Linear(8, 3), backend="eager"), "it is wrapped by torch.compile"),
        (nn.Sequential(torch.compile(nn.Linear(8, 3), backend="eager")), "its module 0 is wrapped by torch.compile"),
        (nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 3)), "give it a momentum"),
    ],
)
def test_a_module_that_is_called_otherwise_is_told(module: nn.Module, said: str) -> None:
    message = refusal(module)
    assert said in message
    assert "inspect.py" not in message


def moving_average(module: Between, h: Tensor) -> Tensor:
    with torch.no_grad():
        module.average.mul_(0.9).add_(0.1 * h.mean(0))
    return h - module.average


def measured(module: Between, h: Tensor) -> Tensor:
    with torch.no_grad():
        size = h.abs().mean(1, keepdim=True)
    return h / (size + 1)


def normed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("make", "buffers"),
    [(lambda: Between(moving_average), 1), (lambda: Between(measured), 0), (normed, 2)],
    ids=["moving average", "measured", "spectral norm"],
)
def test_a_block_without_gradients_changes_buffers_and_passes_no_gradient(
    make: Callable[[], nn.Module], buffers: int
) -> None:
    module = make()
    definition = Definition("calm", module, (8,), 3)
    spec, start = derive_spec(definition), tensors_of(module)
    x = np.random.default_rng(0).standard_normal((4, 8), np.float32)
    step = [(x, np.array([0, 1, 2, 1]))]
    plain = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    state = graph_steps(training_graph(definition, spec, 0), spec, 0, start, step, **plain)
    exact = torch_steps(definition, spec, 0, step, torch.float64, **plain)
    assert distance(state.parameters, exact.parameters, flat(start, trained(spec))) < 1e-5
    np.testing.assert_allclose(state.statistics, exact.statistics, rtol=1e-4, atol=1e-6)
    assert len(moving(spec)) == buffers
