"""A small network for each task, and data that it can learn; a file such as a user writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.tasks.binary import Binary
from lamina.models.tasks.dense import Dense
from lamina.models.tasks.regression import Regression
from lamina.models.tasks.single_label import SingleLabel
from lamina.models.tasks.tokens import TokenLabels

FEATURES = 6
Data = tuple[Any, Any]


def mlp(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, outputs))


class Forecaster(nn.Module):
    """The next 3 values of 2 series, from 8 of them."""

    def __init__(self, quantiles: int = 0) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 12), nn.Linear(12, 8)
        self.last = nn.Linear(8, 6 * max(quantiles, 1))
        self.shape = (3, 2, quantiles) if quantiles else (3, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.second(torch.tanh(self.first(x.flatten(1)))))
        return self.last(hidden).reshape(-1, *self.shape)


class Tagger(nn.Module):
    """A tag for each of 5 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.last = nn.Embedding(9, 6), nn.GRU(6, 7, batch_first=True), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(self.table(x))
        return self.last(states)


class Segmenter(nn.Module):
    """A class for each pixel of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.last = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.second(torch.relu(self.norm(self.first(x))))))


class TwoHeads(nn.Module):
    """A mean and a log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.spread = mlp(4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.body(x))
        return {"mean": self.mean(hidden), "spread": self.spread(hidden)}


class SensorAndMask(nn.Module):
    """A reading's mean, where some of its numbers are missing; the mask is read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, sensor: Tensor, mask: Tensor) -> Tensor:
        joined = torch.cat([(sensor * mask.unsqueeze(-1)).flatten(1), 1 - mask], 1)
        return self.last(torch.tanh(self.second(torch.tanh(self.first(joined)))))


class ImageAndKind(nn.Module):
    """A class of an image, and of what is known besides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.table = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Embedding(4, 5)
        self.join, self.last = nn.Linear(12 + 5 + 1, 9), nn.Linear(9, 3)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        image = torch.tanh(self.norm(self.conv(x["image"]))).flatten(1)
        known = torch.cat([self.table(x["kind"]), x["weight"].unsqueeze(1)], 1)
        return self.last(torch.tanh(self.join(torch.cat([image, known], 1))))


def single_label() -> Definition:
    return Definition("plain", mlp(3), (FEATURES,), 3)


def class_weights() -> Definition:
    return Definition("weighted", mlp(3), (FEATURES,), 3, task=SingleLabel(class_weights=(0.5, 1.0, 2.5)))


def binary() -> Definition:
    return Definition("binary", mlp(1), (FEATURES,), task="binary")


def binary_by_its_loss() -> Definition:
    return Definition("binary", mlp(1), (FEATURES,), 1, loss="binary_cross_entropy")


def binary_weighted() -> Definition:
    return Definition("binary", mlp(1), (FEATURES,), task=Binary(class_weights=(1.0, 3.0)))


def regression_by_its_loss() -> Definition:
    return Definition("regression", mlp(1), (FEATURES,), 1, loss="squared_error")


def multi_label() -> Definition:
    return Definition("multi", mlp(4), (FEATURES,), task="multi_label")


def forecast(*, loss: str = "mse") -> Definition:
    return Definition("forecast", Forecaster(), (8, 2), task="regression", loss=loss)


def quantiles() -> Definition:
    return Definition("quantiles", Forecaster(3), (8, 2), task=Regression(quantiles=(0.1, 0.5, 0.9)))


def reconstruction() -> Definition:
    return Definition("reconstruction", mlp(FEATURES), (FEATURES,), task="reconstruction")


def tagging() -> Definition:
    return Definition("tagging", Tagger(), (5,), input_dtype="int64", task="tokens")


def tagging_weighted() -> Definition:
    task = TokenLabels(ignored=-1, class_weights=(1.0, 2.0, 0.5, 1.0))
    return Definition("tagging", Tagger(), (5,), input_dtype="int64", task=task)


def dense() -> Definition:
    return Definition("dense", Segmenter(), (1, 4, 4), task=Dense(ignored=255))


def nll(outputs: dict[str, Tensor], y: Tensor) -> Tensor:
    """The negative log likelihood of a normal distribution, but for a constant."""
    return ((y - outputs["mean"]).square() * torch.exp(-outputs["spread"]) + outputs["spread"]).mean()


def mae(outputs: dict[str, Tensor], y: Tensor) -> tuple[Tensor, int]:
    return (outputs["mean"] - y).abs().sum(), y.numel()


mae.higher_is_better = False  # type: ignore[attr-defined]  # as a user says it


def own() -> nn.Module:
    """As a user writes it: attributes of the module."""
    module: Any = TwoHeads()
    module.input_shape, module.loss, module.metrics = (FEATURES,), nll, {"mae": mae}
    module.task = _own_task()
    return module  # type: ignore[no-any-return]


def _own_task() -> object:
    from lamina.models.tasks.own import Own

    return Own(target_shape=(2,))


def sensor_and_mask() -> nn.Module:
    module: Any = SensorAndMask()
    module.input_shape, module.task = {"sensor": (3, 3), "mask": (3,)}, "regression"
    return module  # type: ignore[no-any-return]


def image_and_kind() -> nn.Module:
    module: Any = ImageAndKind()
    module.input_shape, module.classes = {"image": (1, 4, 4), "kind": (), "weight": ()}, 3
    module.input_dtype = {"kind": "int64"}
    return module  # type: ignore[no-any-return]


# -- data


def _features(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal((count, FEATURES)).astype(np.float32)


def _labels(rng: np.random.Generator, count: int, classes: int = 3) -> Data:
    y = rng.integers(0, classes, count)
    return (_features(rng, count) + 2 * np.eye(classes, FEATURES)[y]).astype(np.float32), y


def _numbers(rng: np.random.Generator, count: int, outputs: int) -> Data:
    x = _features(rng, count)
    y = np.tanh(x[:, :outputs]) + 0.5 * x[:, 1 : outputs + 1]
    return x, y if outputs > 1 else y[:, 0]


def _series(rng: np.random.Generator, count: int) -> Data:
    time = rng.uniform(0, 6, (count, 1, 1)) + np.arange(11).reshape(1, 11, 1) * 0.4
    both = np.sin(time + np.array([0.0, 1.0])) + 0.05 * rng.standard_normal((count, 11, 2))
    return both[:, :8].astype(np.float32), both[:, 8:]


def _tags(rng: np.random.Generator, count: int, ignored: int) -> Data:
    x = rng.integers(0, 9, (count, 5))
    y = np.where(rng.random((count, 5)) < 0.2, ignored, (x + np.roll(x, 1, 1)) % 4)
    return x, y


def _segments(rng: np.random.Generator, count: int) -> Data:
    y = np.repeat(np.repeat(rng.integers(0, 3, (count, 2, 2)), 2, 1), 2, 2)
    x = (y[:, None] + 0.3 * rng.standard_normal((count, 1, 4, 4))).astype(np.float32)
    return x, np.where(rng.random(y.shape) < 0.1, 255, y).astype(np.uint8)


def _masked(rng: np.random.Generator, count: int) -> Data:
    sensor, mask = rng.standard_normal((count, 3, 3)).astype(np.float32), rng.random((count, 3)) < 0.7
    y = (sensor * mask[..., None]).sum(1)[:, :2]
    return {"sensor": sensor, "mask": mask}, y


def _images(rng: np.random.Generator, count: int) -> Data:
    kind, y = rng.integers(0, 4, count), rng.integers(0, 3, count)
    image = rng.integers(0, 60, (count, 1, 4, 4)) + 60 * ((y + kind) % 3).reshape(-1, 1, 1, 1)
    return {"image": image.astype(np.float32) / 100, "kind": kind, "weight": rng.random(count)}, y


DATA: dict[str, Callable[[np.random.Generator, int], Data]] = {
    "single_label": _labels,
    "class_weights": _labels,
    "binary": lambda rng, count: _labels(rng, count, 2),
    "binary_by_its_loss": lambda rng, count: _labels(rng, count, 2),
    "binary_weighted": lambda rng, count: _labels(rng, count, 2),
    "regression_by_its_loss": lambda rng, count: _numbers(rng, count, 1),
    "multi_label": lambda rng, count: (x := _features(rng, count), (x[:, :4] + x[:, 1:5] > 0).astype(np.uint8)),
    "forecast": _series,
    "quantiles": _series,
    "reconstruction": lambda rng, count: (_features(rng, count)[:, :2] @ np.eye(2, FEATURES, dtype=np.float32), None),
    "tagging": lambda rng, count: _tags(rng, count, -100),
    "tagging_weighted": lambda rng, count: _tags(rng, count, -1),
    "dense": _segments,
    "own": lambda rng, count: _numbers(rng, count, 2),
    "sensor_and_mask": _masked,
    "image_and_kind": _images,
}


def data(name: str, seed: int, count: int = 40) -> Data:
    """Samples and targets for the network of that name."""
    return DATA[name](np.random.default_rng(seed), count)
