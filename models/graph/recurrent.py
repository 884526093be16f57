"""Recurrent layers in the graph: a layer's pass along the sequence is one operator, and its gradient is another.

torch would write an LSTM out, step by step. Here the product with the input, which needs no recurrence, is taken for
all steps at once, and what is left is an operator of our own, of which `rules.recurrent` makes a Scan. For
200 steps that takes half the time of the written-out LSTM, and a hundredth of the file.

The operators are traced and never run: they have shapes and derivatives, and no implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lamina.models.errors import ModelError
from lamina.models.graph.custom_functions import again

_TRACED_ONLY = "this operator is traced, and never run"

Parameters: TypeAlias = Sequence[Tensor]
Along: TypeAlias = Callable[[Tensor, Sequence[Tensor], Parameters], tuple[Tensor, Sequence[Tensor]]]


def lstm(
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Parameters,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Stands in place of ``aten::lstm``: outputs, and the last outputs and cells of every layer and direction."""
    y, (h, c) = _stack(
        _lstm_along, x, states, parameters, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )
    return y, h, c


def gru(
    x: Tensor,
    state: Tensor,
    parameters: Parameters,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """Stands in place of ``aten::gru``: outputs, and the last output of every layer and direction."""
    y, (h,) = _stack(
        _gru_along, x, [state], parameters, has_biases, num_layers, dropout, train, bidirectional, batch_first
    )
    return y, h


def _stack(
    along: Along,
    x: Tensor,
    states: Sequence[Tensor],
    parameters: Parameters,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Layers one on another, each along the sequence, or along it and back."""
    directions = 2 if bidirectional else 1
    each = len(parameters) // (num_layers * directions)
    if each != (4 if has_biases else 2):
        raise ModelError("a recurrent layer with proj_size is not supported: put a dense layer after it")
    x = x.transpose(0, 1) if batch_first else x  # (T, N, I)
    ends = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            own = parameters[at * each : (at + 1) * each]
            along_x = x.flip(0) if direction else x
            y, end = along(along_x, [state[at] for state in states], own if has_biases else [*own, *_no_biases(own)])
            outputs.append(y.flip(0) if direction else y)
            ends.append(end)
        x = torch.cat(outputs, 2) if directions > 1 else outputs[0]
        if layer < num_layers - 1 and dropout:
            x = F.dropout(x, dropout, train)
    stacked = [torch.stack(kind) for kind in zip(*ends, strict=True)]  # (layers * directions, N, H) each
    return (x.transpose(0, 1) if batch_first else x), stacked


def _no_biases(kernels: Parameters) -> list[Tensor]:
    return [kernel.new_zeros(kernel.shape[0]) for kernel in kernels]


def _lstm_along(x: Tensor, states: Sequence[Tensor], parameters: Parameters) -> tuple[Tensor, list[Tensor]]:
    h, c = states
    of_input, of_output, bias, other_bias = (_cell_gate_last(parameter) for parameter in parameters)
    z = F.linear(x, of_input, bias + other_bias)  # (T, N, 4 H)
    y, cell, *_ = torch.ops.lamina.lstm(z, h, c, of_output)
    return y, [y[-1], cell]


def _cell_gate_last(parameter: Tensor) -> Tensor:
    """Reorder torch's gates (input, forget, cell, output) so that those with a sigmoid lie side by side."""
    into, forget, cell, output = parameter.chunk(4)
    return torch.cat([into, forget, output, cell])


def _gru_along(x: Tensor, states: Sequence[Tensor], parameters: Parameters) -> tuple[Tensor, list[Tensor]]:
    (h,) = states
    of_input, of_output, bias, bias_of_output = parameters
    y, *_ = torch.ops.lamina.gru(F.linear(x, of_input, bias), h, of_output, bias_of_output)
    return y, [y[-1]]


def _before(start: Tensor, along: Tensor) -> Tensor:
    """What a state was before each step, (T, N, H)."""
    return torch.cat([start.unsqueeze(0), along[:-1]])


@torch.library.custom_op("lamina::lstm", mutates_args=())
def _lstm(z: Tensor, h: Tensor, c: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """An LSTM along z (T, N, 4 H), the product with the input, from h and c (N, H), with the kernel (4 H, H) of h.

    Outputs (T, N, H), the last cell (N, H), the gates (T, N, 3 H): input, forget, output; the candidates and the cells.
    """
    raise NotImplementedError(_TRACED_ONLY)


@_lstm.register_fake
def _(z: Tensor, h: Tensor, c: Tensor, kernel: Tensor) -> tuple[Tensor, ...]:
    steps, samples, width = z.shape[0], z.shape[1], kernel.shape[1]
    along = (steps, samples, width)
    return z.new_empty(along), z.new_empty(along[1:]), z.new_empty((*along[:2], 3 * width)), *_like(z, along, 2)


@torch.library.custom_op("lamina::lstm_backward", mutates_args=())
def _lstm_backward(
    dy: Tensor, dcell: Tensor, gates: Tensor, candidates: Tensor, cells: Tensor, c: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, h and c from those of the outputs and of the last cell."""
    raise NotImplementedError(_TRACED_ONLY)


@_lstm_backward.register_fake
def _(
    dy: Tensor, dcell: Tensor, gates: Tensor, candidates: Tensor, cells: Tensor, c: Tensor, kernel: Tensor
) -> tuple[Tensor, ...]:
    return dy.new_empty((*dy.shape[:2], kernel.shape[0])), *_like(dy, dcell.shape, 2)


def _keep_lstm(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    _, h, c, kernel = inputs
    y, _, gates, candidates, cells = output
    ctx.save_for_backward(h, c, kernel, y, gates, candidates, cells)


def _lstm_gradients(ctx: Any, dy: Tensor, dcell: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    h, c, kernel, y, gates, candidates, cells = ctx.saved_tensors
    dz, dh, dc = torch.ops.lamina.lstm_backward(dy, dcell, gates, candidates, cells, c, kernel)
    return dz, dh, dc, dz.flatten(0, 1).t() @ _before(h, y).flatten(0, 1)


_lstm.register_autograd(_lstm_gradients, setup_context=_keep_lstm)


@torch.library.custom_op("lamina::gru", mutates_args=())
def _gru(z: Tensor, h: Tensor, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A GRU along z (T, N, 3 H), from h (N, H), with the kernel (3 H, H) and bias of h.

    Outputs (T, N, H), the gates (T, N, 2 H): reset, update; the candidates, and their part from h before the reset.
    """
    raise NotImplementedError(_TRACED_ONLY)


@_gru.register_fake
def _(z: Tensor, h: Tensor, kernel: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    along = (z.shape[0], z.shape[1], kernel.shape[1])
    return z.new_empty(along), z.new_empty((*along[:2], 2 * along[2])), *_like(z, along, 2)


@torch.library.custom_op("lamina::gru_backward", mutates_args=())
def _gru_backward(
    dy: Tensor, gates: Tensor, candidates: Tensor, remembered: Tensor, before: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z, of the product with h (T, N, 3 H), and of h."""
    raise NotImplementedError(_TRACED_ONLY)


@_gru_backward.register_fake
def _(
    dy: Tensor, gates: Tensor, candidates: Tensor, remembered: Tensor, before: Tensor, kernel: Tensor
) -> tuple[Tensor, ...]:
    return *_like(dy, (*dy.shape[:2], kernel.shape[0]), 2), dy.new_empty(dy.shape[1:])


def _keep_gru(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    _, h, kernel, _ = inputs
    ctx.save_for_backward(h, kernel, *output)


def _gru_gradients(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    h, kernel, y, gates, candidates, remembered = ctx.saved_tensors
    before = _before(h, y)
    dz, dproduct, dh = torch.ops.lamina.gru_backward(dy, gates, candidates, remembered, before, kernel)
    dkernel = dproduct.flatten(0, 1).t() @ before.flatten(0, 1)
    return dz, dh, dkernel, dproduct.sum((0, 1))


_gru.register_autograd(_gru_gradients, setup_context=_keep_gru)


def _like(tensor: Tensor, shape: Sequence[int], count: int) -> list[Tensor]:
    return [tensor.new_empty(shape) for _ in range(count)]


# What stands in for an operator of torch's when a section is run.
STAND_INS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.lstm.input: lstm,
    torch.ops.aten.gru.input: gru,
    torch.ops.lamina.autograd_function.default: again,
}
