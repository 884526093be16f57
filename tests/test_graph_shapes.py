"""Rules hold for shapes that nobody thought of: extents, kernels, strides, margins, groups drawn at random."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

from lamina.models.definition import Definition
from lamina.models.layout import derive_spec
from tests.graph_oracle import distance, flat, graph_steps, tensors_of, torch_steps, trained, training_graph

FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.generate],
)


def check(make: Callable[[], nn.Module], shape: tuple[int, ...], sizes: tuple[int, ...] = (3, 2)) -> None:
    """Two steps, of batches of different sizes in one session, end where torch's end in float64."""
    torch.manual_seed(0)
    module = nn.Sequential(make(), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    module(torch.randn(2, *shape))
    definition = Definition("drawn", module, shape, 3, cuts=())
    spec, start = derive_spec(definition), tensors_of(module)
    rng = np.random.default_rng(0)
    steps = [(rng.standard_normal((size, *shape), np.float32), rng.integers(0, 3, size)) for size in sizes]
    state = graph_steps(training_graph(definition, spec, 0), spec, 0, start, steps)
    exact = torch_steps(definition, spec, 0, steps, torch.float64)
    assert distance(state.parameters, exact.parameters, flat(start, trained(spec))) < 1e-5
    np.testing.assert_allclose(state.statistics, exact.statistics, rtol=1e-5, atol=1e-6)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    """A convolution, perhaps transposed, over one or two dimensions, and the shape of an image that it takes."""
    rank = draw(st.sampled_from([1, 2]))
    transposed = draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    inputs, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))

    def every(most: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(1, most)) for _ in range(rank))

    kernel, stride, dilation = every(4), every(3), every(2)
    padding = tuple(draw(st.integers(0, extent - 1)) for extent in kernel)
    spans = [reach * (extent - 1) + 1 for reach, extent in zip(dilation, kernel, strict=True)]
    image = tuple(draw(st.integers(max(span, 2), span + 5)) for span in spans)
    kind = [[nn.Conv1d, nn.Conv2d], [nn.ConvTranspose1d, nn.ConvTranspose2d]][transposed][rank - 1]
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    bias = draw(st.booleans())
    return lambda: kind(inputs, outputs, kernel, **options, bias=bias), (inputs, *image)


@pytest.mark.exhaustive
@FEW
@given(convolutions())
def test_convolutions_of_any_geometry(drawn: tuple[Callable[[], nn.Module], tuple[int, ...]]) -> None:
    check(*drawn)


@st.composite
def pools(draw: st.DrawFn) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    padding = tuple(draw(st.integers(0, extent // 2)) for extent in kernel)
    image = tuple(draw(st.integers(extent, extent + 5)) for extent in kernel)
    ceil_mode = draw(st.booleans())
    counted = draw(st.booleans())
    pool = draw(
        st.sampled_from(
            [
                lambda: nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode),
                lambda: nn.AvgPool2d(kernel, stride, padding, ceil_mode, counted),
                lambda: nn.AdaptiveAvgPool2d(kernel),
            ]
        )
    )
    return lambda: nn.Sequential(nn.Conv2d(2, 3, 1), pool()), (2, *image)


@pytest.mark.exhaustive
@FEW
@given(pools())
def test_poolings_of_any_geometry(drawn: tuple[Callable[[], nn.Module], tuple[int, ...]]) -> None:
    check(*drawn)


@pytest.mark.exhaustive
@FEW
@given(
    channels=st.integers(1, 4),
    image=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    kind=st.sampled_from(["batch", "group", "instance", "layer"]),
    sizes=st.tuples(st.integers(2, 5), st.integers(2, 5)),
)
def test_norms_of_any_shape(channels: int, image: tuple[int, int], kind: str, sizes: tuple[int, int]) -> None:
    wide = 2 * channels
    norms: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: nn.BatchNorm2d(wide, momentum=0.2),
        "group": lambda: nn.GroupNorm(channels, wide),
        "instance": lambda: nn.InstanceNorm2d(wide, affine=True),
        "layer": lambda: nn.LayerNorm((wide, *image)),
    }
    check(lambda: nn.Sequential(nn.Conv2d(2, wide, 3, padding=1), norms[kind]()), (2, *image), sizes)


class Attending(nn.Module):
    """Attention of every element of a sequence to those before it, or to all."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(width, 3 * width)
        self.heads, self.causal = heads, causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        of_heads = self.query_key_value(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(*of_heads, is_causal=self.causal).transpose(1, 2)


class Recurring(nn.Module):
    """The outputs of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


@pytest.mark.exhaustive
@settings(FEW, max_examples=5)
@given(
    length=st.integers(1, 7),
    width=st.integers(1, 4),
    heads=st.integers(1, 3),
    way=st.sampled_from(["attention", "causal", "lstm", "gru", "both ways"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_sequences_of_any_length(length: int, width: int, heads: int, way: str, sizes: tuple[int, int]) -> None:
    wide = width * heads
    layers: dict[str, Callable[[], nn.Module]] = {
        "attention": lambda: Attending(wide, heads, causal=False),
        "causal": lambda: Attending(wide, heads, causal=True),
        "lstm": lambda: Recurring(nn.LSTM(wide, width, batch_first=True)),
        "gru": lambda: Recurring(nn.GRU(wide, width, batch_first=True)),
        "both ways": lambda: Recurring(nn.LSTM(wide, width, bidirectional=True, batch_first=True)),
    }
    check(layers[way], (length, wide), sizes)
