"""Cases from torch's module database: a module between a scale, a shift and a dense head, at any batch size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from benchmarks.coverage.judge import Verdict, judged
from benchmarks.coverage.operators import spread, tensors_in
from lamina.models.definition import Definition

SAMPLES = 5
BATCH = 4
Y = np.array([0, 1, 2, 1])
_SPATIAL: dict[type[nn.Module], int] = {nn.InstanceNorm1d: 1, nn.InstanceNorm2d: 2, nn.InstanceNorm3d: 3}
_TRANSFORMERS = (
    *(nn.MultiheadAttention, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer),
)


@dataclass(frozen=True)
class Other:
    """A further argument of a module: a buffer's name, and along which dimension its batch lies, if any."""

    buffer: str
    batch_dim: int | None


class ModuleNet(nn.Module):
    """x (N, ...), scaled and shifted, through a module; then a dense head.

    Where the module's results aren't rows (N, ...), their means are added to a dense layer of its input. Further
    tensors are buffers; those with a batch extent are repeated from their first sample.
    """

    def __init__(self, module: nn.Module, shape: Sequence[int], arguments: _Arguments) -> None:
        super().__init__()
        self.module = module
        self.arguments = arguments
        if arguments.floating:
            self.scale = nn.Parameter(torch.empty(1, *shape).uniform_(0.7, 1.3))
            self.shift = nn.Parameter(torch.empty(1, *shape).uniform_(-0.1, 0.1))
        self.positional = [self._held(f"other_{index}", value) for index, value in enumerate(arguments.positional)]
        self.named = {name: self._held(f"other_{name}", value) for name, value in arguments.named.items()}
        self.weight = nn.Parameter(torch.randn(3))
        self.joined = False
        self.head = nn.Linear(math.prod(shape), 3)

    def join(self, widths: int) -> None:
        """Let the head take the module's results, which are rows of so many elements."""
        self.joined, self.head = True, nn.Linear(widths, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        scaled = x * self.scale + self.shift if self.arguments.floating else x
        results = self.results(scaled)
        if self.joined:
            return self.head(torch.cat([result.reshape(result.shape[0], -1) for result in results], 1))  # type: ignore[no-any-return]
        rows = scaled.to(self.weight.dtype).flatten(1)
        return self.head(rows) + sum(result.mean() for result in results) * self.weight  # type: ignore[no-any-return]

    def results(self, x: Tensor) -> list[Tensor]:
        """The module's floating-point results, the batch first."""
        samples, transposed = x.shape[0], self.arguments.transposed
        given = x.sigmoid() if isinstance(self.module, nn.BCELoss) else x
        given = given.transpose(0, 1) if transposed else given
        others = [self._given(other, samples) for other in self.positional]
        named = {name: self._given(other, samples) for name, other in self.named.items()}
        results = [result for result in tensors_in(self.module(given, *others, **named)) if result.is_floating_point()]
        return [result.transpose(0, 1) if transposed and result.dim() > 1 else result for result in results]

    def _held(self, name: str, value: Any) -> Any:
        if isinstance(value, _States):
            return value.kept([self._held(f"{name}_{index}", state) for index, state in enumerate(value.tensors)])
        if not isinstance(value, Tensor):
            return value
        transposed = self.arguments.transposed and value.dim() > 1 and not self.arguments.labelled
        batch_dim = 1 if transposed or self.arguments.recurrent else 0
        extent = self.arguments.batch
        has_batch = value.dim() > batch_dim and bool(extent) and value.shape[batch_dim] == extent
        self.register_buffer(name, value.detach().narrow(batch_dim, 0, 1).clone() if has_batch else value.detach())
        return Other(name, batch_dim if has_batch else None)

    def _given(self, other: Any, samples: int) -> Any:
        if isinstance(other, _States):
            return other.as_given([self._given(each, samples) for each in other.tensors])
        if not isinstance(other, Other):
            return other
        tensor: Tensor = getattr(self, other.buffer)
        if other.batch_dim is None:
            return tensor
        extents = [-1] * tensor.dim()
        extents[other.batch_dim] = samples
        return tensor.expand(extents).contiguous() if self.arguments.recurrent else tensor.expand(extents)


@dataclass(frozen=True)
class _States:
    """First states of a recurrent module: one tensor, or a tuple of two."""

    tensors: list[Any]
    is_tuple: bool

    def kept(self, tensors: list[Any]) -> _States:
        return _States(tensors, self.is_tuple)

    def as_given(self, tensors: list[Any]) -> Any:
        return tuple(tensors) if self.is_tuple else tensors[0]


@dataclass(frozen=True)
class _Arguments:
    """How a module is called: its further arguments, the batch that they have, and where the batch lies."""

    positional: list[Any]
    named: dict[str, Any]
    batch: int
    floating: bool
    transposed: bool
    recurrent: bool
    labelled: bool = False  # with labels and lengths, whose batch is first


def cases() -> Iterator[tuple[str, Any, Any]]:
    """Name, entry and sample of every case."""
    from torch.testing._internal.common_modules import module_db  # takes seconds to load

    for entry in module_db:
        if "quantized" in entry.name:
            continue
        torch.manual_seed(1)
        samples = entry.module_inputs_func(entry, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
        for index, sample in enumerate(spread(samples, SAMPLES)):
            yield f"{entry.name}[{index}]", entry, sample


def judged_module(entry: Any, sample: Any) -> list[Verdict]:
    """The verdict on one case."""
    made = _made(entry, sample)
    return [Verdict("meaningless", made) if isinstance(made, str) else judged(*made, Y)]


def _made(entry: Any, sample: Any) -> tuple[Definition, Any] | str:
    """The network and its batch, or why there is none."""
    torch.manual_seed(0)
    module = _module(entry, sample)
    first, *others = sample.forward_input.args or [None]
    if not isinstance(first, Tensor) or not first.dim():
        return "its first argument is no tensor with a batch"
    if any(parameter.dtype != torch.float32 for parameter in module.parameters()):
        return "its parameters are not float32"
    recurrent, attending = isinstance(module, nn.RNNBase), isinstance(module, _TRANSFORMERS)
    named = dict(sample.forward_input.kwargs)
    if (recurrent or attending) and first.dim() == 2:  # without a batch: one is added
        where = 0 if _is_batch_first(module) else 1
        first = first.unsqueeze(where)
        others = [each.unsqueeze(where) if attending else _batched_states(each) for each in others]
        named = {name: _batched_mask(name, value) for name, value in named.items()}
    if type(module) in _SPATIAL and first.dim() == _SPATIAL[type(module)] + 1:
        first = first.unsqueeze(0)
    if isinstance(module, nn.CTCLoss):
        others = [torch.tensor(each) if isinstance(each, tuple) else each for each in others]
    if recurrent:
        others = [_as_states(each) for each in others]
    transposed = not _is_batch_first(module) and first.dim() == 3
    batch = first.shape[1 if transposed else 0]
    shape = (first.shape[0], *first.shape[2:]) if transposed else tuple(first.shape[1:])
    if not batch or (not shape and first.is_floating_point()):
        return "its samples have no shape"
    floating = first.is_floating_point()
    arguments = _Arguments(others, named, batch, floating, transposed, recurrent, isinstance(module, nn.CTCLoss))
    highest = 1 if floating else max(int(first.max()), 1)
    return _network(entry, sample, shape, arguments, highest)


def _network(
    entry: Any, sample: Any, shape: tuple[int, ...], arguments: _Arguments, highest: int
) -> tuple[Definition, Any] | str:
    def drawn(samples: int) -> Tensor:
        size = (samples, *shape)
        return torch.randn(size) if arguments.floating else torch.randint(0, highest, size)

    if not _is_finite(entry, sample, shape, arguments, drawn(BATCH)):
        return "torch itself computes nothing finite"
    probe, shapes = ModuleNet(_module(entry, sample), shape, arguments), {}
    for samples in (arguments.batch, 2, BATCH):
        try:
            with torch.no_grad():
                shapes[samples] = [tuple(result.shape) for result in probe.results(drawn(samples))]
        except Exception as error:
            return f"torch itself refuses a batch of {samples}: {str(error)[:80]}"
    if not shapes[BATCH]:
        return "it has no floating-point result"
    torch.manual_seed(0)
    net = ModuleNet(_module(entry, sample), shape, arguments)
    if any(map(is_lazy, net.parameters())):
        net.results(drawn(BATCH))  # which gives its parameters a shape
    if all(each and each[0] == samples for samples in (2, BATCH) for each in shapes[samples]) and all(
        two[1:] == four[1:] for two, four in zip(shapes[2], shapes[BATCH], strict=True)
    ):
        net.join(sum(math.prod(each[1:]) for each in shapes[BATCH]))
    dtype = "float32" if arguments.floating else "int64"
    x = drawn(BATCH)
    return Definition("module", net, shape or (1,), 3, dtype), x.numpy()


def _is_finite(entry: Any, sample: Any, shape: tuple[int, ...], arguments: _Arguments, x: Tensor) -> bool:
    """Whether torch's own results and gradients are numbers, as far as it computes any."""
    net = ModuleNet(_module(entry, sample), shape, arguments)
    try:
        results = net.results(x * net.scale + net.shift if arguments.floating else x)
        sum(result.mean() for result in results).backward()  # type: ignore[union-attr]  # a tensor
    except Exception:  # what torch refuses is found out with each batch size
        return True
    gradients = [each.grad for each in net.parameters() if each.grad is not None]
    return all(bool(torch.isfinite(each).all()) for each in (*results, *gradients))


def _module(entry: Any, sample: Any) -> nn.Module:
    arguments = sample.constructor_input
    module: nn.Module = entry.module_cls(*arguments.args, **arguments.kwargs)
    return module


def _is_batch_first(module: nn.Module) -> bool:
    if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
        return _is_batch_first(module.layers[0])
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        return bool(module.self_attn.batch_first)
    if isinstance(module, (nn.RNNBase, *_TRANSFORMERS)):
        return bool(module.batch_first)
    return not isinstance(module, nn.CTCLoss)


def _batched_mask(name: str, value: Any) -> Any:
    return value.unsqueeze(0) if isinstance(value, Tensor) and "padding" in name else value


def _batched_states(states: Any) -> Any:
    if isinstance(states, tuple):
        return tuple(map(_batched_states, states))
    return states.unsqueeze(1) if isinstance(states, Tensor) else states


def _as_states(states: Any) -> Any:
    if states is None:
        return None
    return _States(list(states), True) if isinstance(states, tuple) else _States([states], False)
