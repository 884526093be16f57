"""A keyword spotter whose front end is part of the network: sound goes in, and no board needs a signal library."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

RATE = 8000
"""Samples a second."""

WINDOW, HOP, BINS, BANDS = 256, 128, 129, 20
"""A spectrum of 32 ms every 16 ms, in 20 bands of equal width on the mel scale."""


class LogMel(nn.Module):
    """Spectra as a convolution by fixed cosines and sines, then bands, then a logarithm. Nothing in it is trained."""

    def __init__(self) -> None:
        super().__init__()
        time = torch.arange(WINDOW) / WINDOW
        angles = 2 * math.pi * torch.arange(BINS)[:, None] * time  # (BINS, WINDOW)
        hann = torch.hann_window(WINDOW)
        waves = torch.cat([torch.cos(angles), torch.sin(angles)]) * hann
        self.register_buffer("waves", waves[:, None])  # (2 BINS, 1, WINDOW)
        self.register_buffer("bands", _mel_bands())  # (BANDS, BINS)

    def forward(self, sound: Tensor) -> Tensor:
        """Sound (N, 1, T) to the logarithm of its energy in every band: (N, BANDS, frames)."""
        spectrum = nn.functional.conv1d(sound, self.waves, stride=HOP)  # (N, 2 BINS, frames)
        power = spectrum[:, :BINS] ** 2 + spectrum[:, BINS:] ** 2
        return torch.log(torch.matmul(self.bands, power) + 1e-4)


def _mel_bands() -> Tensor:
    """Triangles that overlap by half, (BANDS, BINS)."""
    highest = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, highest, BANDS + 2) / 2595) - 1)  # hertz
    bins = torch.linspace(0, RATE / 2, BINS)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)


def build() -> nn.Module:
    """Front end, two convolutions over time, and a word for each recording of a second."""
    module = nn.Sequential(
        LogMel(),
        nn.Conv1d(BANDS, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(4),
        nn.Conv1d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(24, 3),
    )
    module.input_shape, module.classes, module.class_names = (1, RATE), 3, ("up", "down", "stop")
    return module
