"""Whole numbers, truth values and fractions of 64 bits go through the rules as torch computes with them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.models.definition import Definition
from tests.graph_oracle import assert_trains_as_torch_does

Counted = Callable[[Tensor], Tensor]


class OfTokens(nn.Module):
    """Whole numbers that a function makes of tokens (N, 6): looked up where they are small, and added as they are."""

    def __init__(self, function: Counted) -> None:
        super().__init__()
        self.function, self.table, self.last = function, nn.Embedding(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(x).reshape(x.shape[0], -1)
        rows = self.table(y.to(torch.int64).abs() % 8).mean(1)
        return self.last(rows) + y.to(rows.dtype).mean(1, keepdim=True) * 0.1


ON_WHOLE_NUMBERS: dict[str, Counted] = {
    "rounding": lambda x: x.floor() + x.ceil() * 2 + x.round() * 3 + x.trunc(),
    "rectifier and sign": lambda x: (x - 3).relu() + (x - 3).sign() + (-x).abs(),
    "a margin": lambda x: F.pad(x, (1, 2), value=3),
    "bits": lambda x: (x & 3) + (x | 1) + (x ^ 2) + (x << 1) + (x >> 1) + ~x,
    "quotients": lambda x: (x - 3) // 2 + (x - 3) % 4 + torch.div(x - 3, 2, rounding_mode="trunc") + (3 - x) % -4,
    "joined with fractions": lambda x: torch.cat([x, torch.full_like(x, 0.5, dtype=torch.float32)], 1),
    "joined with an empty vector": lambda x: torch.cat([torch.zeros(0, dtype=torch.int64), x], 1),
    "extrema": lambda x: x.amax(1) + x.max() + x.min(1)[0] + x.max(1)[1] + torch.maximum(x, x.flip(1)).sum(1),
    "turned over the batch": lambda x: x.roll(1, 0),
    "order": lambda x: x.sort(1)[0] + x.topk(6, 1)[0] + x.argmin(1, keepdim=True),
    "large numbers": lambda x: (x + 2**40).argmax(1) + (x + 2**40).amax(1) % 7,
    "no odd numbers": lambda x: x.isnan().long() + x.isinf() + x.isfinite(),
    "not": lambda x: (x.logical_not() | (x > 4)).long() + torch.logical_and(x, x > 1),
    "bounds": lambda x: x.clamp(1, 4) + x.clamp_min(2) + x.clamp(max=torch.tensor(3)),
}
ON_TRUTHS: dict[str, Counted] = {
    "extrema": lambda x: (x > 2).amax(1) | (x > 5).max() | torch.maximum(x > 3, x < 1).any(1) | (x > 6).max(1)[0],
    "both": lambda x: torch.minimum(x > 1, x < 5),
    "order": lambda x: (x > 2).sort(1)[0],
    "a margin": lambda x: F.pad(x > 2, (1, 1), value=True),
    "sums": lambda x: (x > 2).sum(1) + (x > 1).cumsum(1).amax(1) + (x > 3).long().prod(1),
    "first place": lambda x: (x > 2).int().argmax(1),
}


@pytest.mark.parametrize("function", [*ON_WHOLE_NUMBERS.values(), *ON_TRUTHS.values()],
                         ids=[*ON_WHOLE_NUMBERS, *(f"truths, {name}" for name in ON_TRUTHS)])  # fmt: skip
def test_whole_numbers_and_truth_values(function: Counted) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 8, (4, 6))
    assert_trains_as_torch_does(Definition("tokens", OfTokens(function), (6,), 3, "int64"), x)


class Between(nn.Module):
    """A function between two dense layers."""

    def __init__(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.function, self.shape = function, shape
        self.first = nn.Linear(24, 24)
        self.last = nn.Linear(function(torch.ones(2, *shape)).flatten(1).shape[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x).reshape(-1, *self.shape)).flatten(1))


def in_double(h: Tensor) -> Tensor:
    wide = h.double()
    mixed = torch.log1p(wide.abs()) + torch.expm1(wide * 0.1) + F.gelu(wide) + F.layer_norm(wide, (24,))
    return (mixed + wide.std(-1, keepdim=True) + torch.linspace(0, 1, 24, dtype=torch.float64)).to(h.dtype)


def rests(h: Tensor) -> Tensor:
    return h + torch.remainder(h * 3, 0.7) * 0.1 + torch.fmod(h * 3, 0.7) * 0.1 + torch.remainder(h, -0.3) * 0.1


def unit_powers(h: Tensor) -> Tensor:
    return F.lp_pool1d(h.abs() + 0.1, 1.5, 3) + F.lp_pool1d(h, 2.0, 3)


def laid_out_by_channels(h: Tensor) -> Tensor:
    """A single mean for each channel, of an image whose channels lie last in memory."""
    return F.adaptive_avg_pool2d(h.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).permute(0, 2, 1, 3), 1)


def as_strides(h: Tensor) -> Tensor:
    frames = h.as_strided((h.shape[0], 6, 8), (24, 3, 1))
    return frames * torch.linspace(0, 1, 8, dtype=h.dtype)


def on_a_turned_grid(h: Tensor) -> Tensor:
    turned = torch.tensor([[1.0, 0.2, 0.0], [-0.1, 0.9, 0.1]], dtype=h.dtype)
    grid = F.affine_grid(h.mean((1, 2, 3)).reshape(-1, 1, 1) * turned + turned, list(h.shape), align_corners=False)
    return F.grid_sample(h, grid, align_corners=False)


def smaller(h: Tensor) -> Tensor:
    return F.interpolate(h, size=(2, 2), mode="bicubic", antialias=True) + F.interpolate(
        h, scale_factor=0.6, mode="bilinear", antialias=True
    )


def far(h: Tensor) -> Tensor:
    return torch.cdist(h.reshape(-1, 24), torch.linspace(-1, 1, 96, dtype=h.dtype).reshape(4, 24))


def by_place(h: Tensor) -> Tensor:
    at = torch.tensor([5, 0, 5])
    filled = h.index_fill(1, torch.tensor([1, -2]), 0.5)
    reduced = h.index_reduce(1, torch.tensor([0, 2, 0]), h[:, 3:6], "mean")
    bins = torch.bucketize(h.detach(), torch.linspace(-1, 1, 5, dtype=h.dtype)).to(h.dtype)
    return torch.cat([torch.take(h[:, at], torch.tensor([0, 3])).expand(h.shape[0], 2), filled, reduced, bins], 1)


FUNCTIONS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "fractions of 64 bits": ((24,), in_double),
    "rests": ((24,), rests),
    "powers of a window": ((4, 6), unit_powers),
    "channels last in memory": ((6, 2, 2), laid_out_by_channels),
    "strides": ((24,), as_strides),
    "a turned grid": ((2, 3, 4), on_a_turned_grid),
    "resampling against aliases": ((2, 3, 4), smaller),
    "distances": ((24,), far),
    "places": ((24,), by_place),
    "inverse hyperbolic cosine": ((24,), lambda h: (h.abs() + 1.1).acosh()),
}


@pytest.mark.filterwarnings("ignore:index_reduce")  # is said to be in beta
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_between_layers(name: str) -> None:
    torch.manual_seed(0)
    shape, function = FUNCTIONS[name]
    x = np.random.default_rng(0).standard_normal((4, 24), np.float32)
    assert_trains_as_torch_does(Definition("between", Between(function, shape), (24,), 3), x)


class Bags(nn.Module):
    """Bags of tokens of one length, side by side, and what padding leaves out."""

    def __init__(self, mode: str, padding_idx: int | None) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(8, 5, mode=mode, padding_idx=padding_idx), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.bag(x))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 0], ids=["whole", "padded"])
def test_bags_of_one_length(mode: str, padding_idx: int | None) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).integers(0, 8, (4, 6))
    x[0] = 0  # nothing but padding
    assert_trains_as_torch_does(Definition("bags", Bags(mode, padding_idx), (6,), 3, "int64"), x)


class Masked(nn.Module):
    """Torch's own encoder with a causal mask, given as most people give it."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, activation="gelu")
        self.encoder, self.last = nn.TransformerEncoder(layer, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.last(self.encoder(x, mask=mask.to(x.dtype))[:, -1])


def test_a_mask_that_torch_looks_at_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((4, 6, 4), np.float32)
    assert_trains_as_torch_does(Definition("masked", Masked(), (6, 4), 3), x)
