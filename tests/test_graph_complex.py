"""Spectra and other complex numbers train as torch trains them, as pairs of real numbers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.layout import derive_spec
from tests.graph_oracle import assert_trains_as_torch_does, training_graph

Body = Callable[["Signal", Tensor], Tensor]


class Signal(nn.Module):
    """A dense layer, a function of its 24 outputs, and a dense layer of the features that it yields."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.first, self.body = nn.Linear(24, 24), body
        self.turn = nn.Parameter(torch.randn(6, 2))
        self.register_buffer("window", torch.hann_window(8))
        self.last = nn.Linear(self.features(torch.zeros(2, 24)).shape[1], 3)

    def features(self, x: Tensor) -> Tensor:
        return self.body(self, self.first(x)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))


def mel(module: Signal, h: Tensor) -> Tensor:
    power = torch.stft(h, 8, 4, window=module.window.to(h.dtype), return_complex=True).abs().square()
    filters = torch.linspace(0, 1, 15, dtype=h.dtype).reshape(5, 3)
    return (power.transpose(1, 2) @ filters).clamp_min(1e-5).log()


def short_window(module: Signal, h: Tensor) -> Tensor:
    return torch.view_as_real(
        torch.stft(h, 10, 3, 6, torch.hann_window(6, dtype=h.dtype), center=False, normalized=True, return_complex=True)
    )


def whole_spectrum(module: Signal, h: Tensor) -> Tensor:
    spectrum = torch.stft(h, 8, onesided=False, return_complex=True, window=module.window.to(h.dtype))
    return torch.cat([spectrum.real, spectrum.imag], 1)


def mixed(module: Signal, h: Tensor) -> Tensor:
    """A layer that mixes by two transforms, of which the real part is kept."""
    return torch.fft.fft2(h.reshape(-1, 4, 6)).real


def filtered(module: Signal, h: Tensor) -> Tensor:
    """The lowest frequencies, turned and scaled, and back."""
    spectrum = torch.fft.rfft(h, norm="ortho")
    turned = spectrum[:, :6] * torch.view_as_complex(module.turn)
    kept = torch.zeros_like(spectrum)
    kept[:, :6] = turned
    return torch.fft.irfft(kept, n=24, norm="ortho")


def in_two_dimensions(module: Signal, h: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(h.reshape(-1, 4, 6))
    return torch.fft.irfft2(spectrum * 0.5 + spectrum.conj() * 0.1, s=(4, 6))


def there_and_back(module: Signal, h: Tensor) -> Tensor:
    spectrum = torch.fft.fft(torch.complex(h[:, :12], h[:, 12:]))
    back = torch.fft.ifft(spectrum / (spectrum.abs() + 1))
    return torch.cat([back.real, back.imag, (2 * spectrum + 1j).angle().sin()], 1)


def rotary(module: Signal, h: Tensor) -> Tensor:
    pairs = torch.view_as_complex(h.reshape(-1, 12, 2))
    angles = torch.linspace(0, 3, 12, dtype=h.dtype)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles))


@pytest.mark.parametrize(
    "body", [mel, short_window, whole_spectrum, mixed, filtered, in_two_dimensions, there_and_back, rotary]
)
def test_what_is_computed_of_complex_numbers_trains_as_torch_trains_it(body: Body) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(1).standard_normal((4, 24), np.float32)
    assert_trains_as_torch_does(Definition("signal", Signal(body), (24,), 3), x)


def test_what_complex_numbers_cannot_do_is_refused_with_the_authors_line() -> None:
    def unknown(module: Signal, h: Tensor) -> Tensor:
        return torch.fft.rfft(h).tanh().abs()

    definition = Definition("signal", Signal(unknown), (24,), 3)
    with pytest.raises(ModelError, match=r"test_graph_complex\.py.* of complex numbers is not supported: compute with"):
        training_graph(definition, derive_spec(definition), 0)


def test_a_spectrum_longer_than_its_frames_is_padded_as_torch_pads_it() -> None:
    def padded(module: Signal, h: Tensor) -> Tensor:
        return torch.fft.rfft(F.silu(h), n=30).abs()

    torch.manual_seed(0)
    x = np.random.default_rng(1).standard_normal((4, 24), np.float32)
    assert_trains_as_torch_does(Definition("signal", Signal(padded), (24,), 3), x)
