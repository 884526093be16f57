"""A user's own autograd function trains by its own backward pass; what no graph could hold is refused."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lamina.models.build import build_bundle
from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph import stand_ins, tracing
from tests.test_proof import Between, Body, network


class Reversal(torch.autograd.Function):
    """The gradient with its sign turned, as in domain-adversarial training."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return -ctx.strength * gradients[0], None


reverse = Reversal.apply  # as many write it: a method that was bound before anything is traced


class Sign(torch.autograd.Function):
    """Binary activations with a straight-through gradient; without a context in the forward pass."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sign()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] * (x.abs() <= 1)


class Spike(torch.autograd.Function):
    """A spike, with a surrogate gradient; and two results, and a parameter among the arguments."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, threshold)
        return (x > threshold).float(), x * 0.5

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, threshold = ctx.saved_tensors
        gradient = gradients[0] / (1 + 2 * (x - threshold).abs()) ** 2
        return gradient + gradients[1], -3 * gradient.sum(0)


class Below(Reversal):
    """A class whose forward pass is another's."""


def spiking(module: Between, h: Tensor) -> Tensor:
    membrane = torch.zeros_like(h)
    for _ in range(3):
        spikes, leak = Spike.apply(membrane + h, module.vector)
        membrane = leak - spikes
    return membrane + h


@pytest.mark.parametrize(
    "body",
    [
        lambda module, h: reverse(h, 0.5),
        lambda module, h: Below.apply(h, 2.0),
        lambda module, h: Sign.apply(h),
        spiking,
    ],
    ids=["reversal", "inherited", "straight through", "spiking"],
)
def test_the_backward_pass_is_the_users(tmp_path: Path, body: Body) -> None:
    build_bundle(network(body), tmp_path / "bundle", batch_size=4)
    assert "forward" not in vars(Below)
    assert Reversal.apply(torch.ones(1), 1.0) == 1  # type: ignore[no-untyped-call]  # torch's


def test_a_dropped_backward_pass_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was before such functions were kept whole."""
    operator = torch.ops.lamina.autograd_function.default
    monkeypatch.setitem(stand_ins.STAND_INS, operator, lambda tensors, call: [tensors[0] * 1.0])
    with pytest.raises(ModelError, match=r"gradient of .* is off by 300 %.*the autograd function Reversal"):
        build_bundle(network(lambda module, h: reverse(h, 0.5)), tmp_path / "bundle", batch_size=4)


def hooked(module: Between, h: Tensor) -> Tensor:
    if h.requires_grad:
        h.register_hook(lambda gradient: gradient * 10)  # type: ignore[no-untyped-call]  # torch's
    return h


def test_a_hook_in_the_forward_pass_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"puts a hook on a tensor's gradient.*test_custom_functions\.py"):
        build_bundle(network(hooked), tmp_path / "bundle", batch_size=4)


def test_a_dropped_hook_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was before hooks were refused by name."""
    monkeypatch.setattr(tracing, "_no_hooks", nullcontext)
    with pytest.raises(ModelError, match=r"gradient of .* is off by 90 %.*a hook on a tensor"):
        build_bundle(network(hooked), tmp_path / "bundle", batch_size=4)


def on_a_parameter(module: Between) -> None:
    module.first.weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))  # type: ignore[no-untyped-call]


def after_accumulation(module: Between) -> None:
    module.first.weight.register_post_accumulate_grad_hook(lambda parameter: None)  # type: ignore[no-untyped-call]


def on_a_module(module: Between) -> None:
    module.first.register_full_backward_hook(lambda part, inputs, outputs: None)


@pytest.mark.parametrize("hook", [on_a_parameter, after_accumulation, on_a_module])
def test_a_hook_of_the_module_is_refused(tmp_path: Path, hook: Callable[[Between], None]) -> None:
    module = Between(lambda module, h: h)
    hook(module)
    with pytest.raises(ModelError, match=r"first(\.weight)? has a hook on its"):
        build_bundle(Definition("hooked", nn.Sequential(module), (6,), 3), tmp_path / "bundle", batch_size=4)
