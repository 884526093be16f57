"""Cases from torch's operator database: a network whose parameters are an operator's inputs.

Results are joined with a dense head. Several samples of an operator form one network; where that isn't right, each is
judged by itself. So the extents are static here; the modules' cases have the batch in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.coverage.judge import Verdict, judged
from lamina.models.definition import Definition

SAMPLES = 4
_LOOKED_AT = 24
_MOST_ELEMENTS = 20_000

X = np.random.default_rng(0).standard_normal((4, 4), np.float32)
Y = np.array([0, 1, 2, 1])

# What means nothing in a training graph, by the beginning of its name.
_MEANINGLESS = (
    *("linalg.", "cholesky", "lu", "qr", "ormqr", "geqrf", "triangular_solve", "svd", "pca_", "pinverse", "logdet"),
    *("matrix_exp", "norm.nuc", "sparse.", "to_sparse", "jiterator", "special.", "masked.", "signal.", "hash_tensor"),
    *("histogram", "histc", "nonzero", "argwhere", "unique", "masked_select", "empty", "new_empty", "resize", "item"),
    *("complex", "cfloat", "cdouble", "chalf", "conj", "resolve_", "real", "angle", "view_as_complex", "polar"),
    *("fft.hfft", "fft.ihfft", "fft.fftn", "fft.ifft", "fft.rfftn", "fft.irfftn", "fft.rfft2", "fft.irfft2", "H", "mH"),
    *(
        "cauchy",
        "exponential",
        "geometric",
        "log_normal",
        "uniform",
        "normal",
        "multinomial",
        "randint",
        "rand",
        "bool",
    ),
    *("byte", "char", "short", "int", "long", "broadcast_shapes", "is", "allclose", "equal", "nextafter", "frexp"),
    *("igamma", "polygamma", "mvlgamma", "zeta", "digamma", "lgamma", "i0", "_segment_reduce", "segment_reduce"),
    *("nn.functional.fractional_max_pool", "combinations", "gradient", "cov", "corrcoef", "native_", "_native"),
)
# Of those, what networks do use.
_USED = ("linalg.norm", "linalg.vector_norm", "linalg.matrix_norm", "linalg.cross", "linalg.vecdot",
         "linalg.diagonal", "linalg.multi_dot", "special.xlog1py", "special.entr", "special.ndtr",
         "isnan", "isinf", "isfinite")  # fmt: skip


class OperatorNet(nn.Module):
    """A dense layer of x, plus the weighted means of what an operator makes of its samples."""

    def __init__(self, operator: Callable[..., Any], samples: list[Any]) -> None:
        super().__init__()
        self.operator = operator
        self.dense = nn.Linear(4, 3)
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(3)) for _ in samples)
        self.calls = [
            (self._held(s.input), [self._held(a) for a in s.args], {k: self._held(v) for k, v in s.kwargs.items()})
            for s in samples
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 3)."""
        y: Tensor = self.dense(x)
        for (first, args, kwargs), weight in zip(self.calls, self.weights, strict=True):
            given = {name: self._given(value) for name, value in kwargs.items()}
            for result in tensors_in(self.operator(self._given(first), *map(self._given, args), **given)):
                flat = result.to(y.dtype).reshape(-1)
                if flat.shape[0]:
                    y = y + (flat * torch.linspace(0.5, 1.5, flat.shape[0], dtype=y.dtype)).mean() * weight
        return y

    def _held(self, value: Any) -> Any:
        """Keep an argument's tensors as parameters and buffers; what stands for it."""
        if isinstance(value, Tensor):
            name = f"input_{len(list(self.named_parameters())) + len(list(self.named_buffers()))}"
            tensor = value.detach().clone(memory_format=torch.contiguous_format)
            if value.requires_grad and value.dtype == torch.float32 and tensor.numel():
                infinite = tensor.isinf()
                self.register_parameter(name, nn.Parameter(tensor.masked_fill(infinite, 0.0)))
                if infinite.any():  # as no parameter is: it stands beside it
                    self.register_buffer(f"{name}_infinite", tensor.where(infinite, 0.0))
            else:
                self.register_buffer(name, tensor)
            return _Held(name)
        if isinstance(value, list | tuple) and any(isinstance(each, Tensor) for each in value):
            return _Several(tuple(self._held(each) for each in value), isinstance(value, list))
        return value

    def _given(self, held: Any) -> Any:
        if isinstance(held, _Held):
            tensor, infinite = getattr(self, held.name), getattr(self, f"{held.name}_infinite", None)
            return tensor if infinite is None else tensor + infinite
        if isinstance(held, _Several):
            values = [self._given(each) for each in held.values]
            return values if held.as_list else tuple(values)
        return held


class _Held:
    def __init__(self, name: str) -> None:
        self.name = name


class _Several:
    def __init__(self, values: tuple[Any, ...], as_list: bool) -> None:
        self.values, self.as_list = values, as_list


def tensors_in(result: Any) -> Iterator[Tensor]:
    """The tensors of a result, complex ones as real."""
    if isinstance(result, Tensor):
        yield torch.view_as_real(result.resolve_conj()) if result.is_complex() else result
    elif isinstance(result, list | tuple):
        for each in result:
            yield from tensors_in(each)


def entries() -> list[Any]:
    """The entries of the database, in float32."""
    from torch.testing._internal.common_methods_invocations import op_db  # takes seconds to load

    return [entry for entry in op_db if torch.float32 in entry.dtypes]


def entry_name(entry: Any) -> str:
    """``norm.nuc`` for a variant, else the operator's name."""
    return f"{entry.name}.{entry.variant_test_name}" if entry.variant_test_name else str(entry.name)


def means_something(entry: Any) -> bool:
    """Whether it may stand in a training graph at all."""
    name = entry_name(entry)
    return name.startswith(_USED) or not (
        name.startswith(_MEANINGLESS) or name.endswith(("_copy", "_scatter_copy")) or name.startswith("__r")
    )


def judged_operator(entry: Any) -> list[Verdict]:
    """A verdict for each usable sample of an entry; empty where it has none."""
    torch.manual_seed(0)
    usable: list[Any] = []
    for count, sample in enumerate(entry.sample_inputs("cpu", torch.float32, requires_grad=True)):
        if count >= _LOOKED_AT:
            break
        if _is_usable(entry.op, sample):
            usable.append(sample)
    chosen = spread(usable, SAMPLES)
    if not chosen:
        return []
    together = _verdict(entry.op, chosen)
    if together.status == "right" or len(chosen) == 1:
        return [together] * len(chosen)
    return [_verdict(entry.op, [sample]) for sample in chosen]


def spread(samples: list[Any], count: int) -> list[Any]:
    """At most ``count`` of ``samples``, spread evenly from the first to the last."""
    if len(samples) <= count:
        return samples
    return [samples[round(index * (len(samples) - 1) / (count - 1))] for index in range(count)]


def _verdict(operator: Callable[..., Any], samples: list[Any]) -> Verdict:
    return judged(Definition("operator", OperatorNet(operator, samples), (4,), 3), X, Y)


def _is_usable(operator: Callable[..., Any], sample: Any) -> bool:
    """Whether torch itself computes something finite of it, and none but finite gradients of all inputs at once."""
    try:
        net = OperatorNet(operator, [sample])
        inputs = [parameter for name, parameter in net.named_parameters() if name.startswith("input_")]
        if not inputs or sum(parameter.numel() for parameter in net.parameters()) > _MOST_ELEMENTS:
            return False
        y = net(torch.randn(2, 4))
        y.sum().backward()
        gradients = [parameter.grad for parameter in inputs if parameter.grad is not None]
        return bool(torch.isfinite(y).all()) and all(bool(torch.isfinite(g).all()) for g in gradients)
    except Exception:  # whatever the database offers and torch refuses
        return False
