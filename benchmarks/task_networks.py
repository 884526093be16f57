"""A small network for each built-in task, and data for it: such as come with scikit-learn, or are drawn.

It is a file such as a user writes: `lamina bundle benchmarks/task_networks.py:forecasting` makes a bundle of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lamina.models.tasks.own import Own
from lamina.models.tasks.regression import Regression

Array = NDArray[Any]

HOURS, AHEAD, SENSORS = 48, 24, 8
TAGS, WORDS, LENGTH = 4, 24, 10


class Data(NamedTuple):
    """Samples of a task, and whose they are: devices hold whole owners, or classes in unlike proportions."""

    x: Array
    y: Array | None
    owners: Array | None = None


def _module(module: Any, **attributes: object) -> nn.Module:
    for name, value in attributes.items():
        setattr(module, name, value)
    return module  # type: ignore[no-any-return]


def _layers(*widths: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


class Flat(nn.Module):
    """Layers on flattened samples, whose outputs have a shape."""

    def __init__(self, *widths: int, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.layers, self.shape = _layers(*widths), shape

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        outputs: Tensor = self.layers(x.flatten(1))
        return outputs.reshape(-1, *self.shape) if self.shape else outputs


class Segmenter(nn.Module):
    """Ink or paper, for each pixel of a noisy digit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))  # type: ignore[no-any-return]


class Tagger(nn.Module):
    """A tag for each word, from the words before it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rnn, self.last = nn.Embedding(WORDS, 12), nn.GRU(12, 20, batch_first=True), nn.Linear(20, TAGS)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - torch's
        states, _ = self.rnn(self.table(x))
        return self.last(states)  # type: ignore[no-any-return]


class MeanAndSpread(nn.Module):
    """A number, and how sure the network is of it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.mean, self.spread = _layers(10, 24, 16), nn.Linear(16, 1), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # noqa: D102 - torch's
        hidden = torch.relu(self.body(x))
        return {"mean": self.mean(hidden).squeeze(1), "spread": self.spread(hidden).squeeze(1).clamp(-4, 4)}


def single_label() -> nn.Module:
    """Ten digits."""
    return _module(Flat(64, 48, 32, 10), input_shape=(1, 8, 8), classes=10)


def binary() -> nn.Module:
    """Whether a tumour is benign."""
    return _module(_layers(30, 16, 1), input_shape=(30,), task="binary")


def multi_label() -> nn.Module:
    """Four attributes of a digit."""
    return _module(Flat(64, 48, 32, 4), input_shape=(1, 8, 8), task="multi_label")


def regression() -> nn.Module:
    """How a disease progresses."""
    return _module(Flat(10, 24, 16, 1), input_shape=(10,), task="regression")


def forecasting() -> nn.Module:
    """A sensor's next day."""
    return _module(Flat(HOURS, 48, 32, AHEAD, shape=(AHEAD, 1)), input_shape=(HOURS, 1), task="regression")


def quantiles() -> nn.Module:
    """Three quantiles of each hour of it."""
    module = Flat(HOURS, 48, 32, AHEAD * 3, shape=(AHEAD, 1, 3))
    return _module(module, input_shape=(HOURS, 1), task=Regression(quantiles=(0.1, 0.5, 0.9)))


def reconstruction() -> nn.Module:
    """A digit once more."""
    return _module(Flat(64, 32, 12, 32, 64, shape=(1, 8, 8)), input_shape=(1, 8, 8), task="reconstruction")


def dense() -> nn.Module:
    """Which pixels are ink."""
    return _module(Segmenter(), input_shape=(1, 8, 8), task="dense")


def tokens() -> nn.Module:
    """A tag for each word."""
    return _module(Tagger(), input_shape=(LENGTH,), input_dtype="int64", task="tokens")


def nll(outputs: Mapping[str, Tensor], y: Tensor) -> Tensor:
    """The negative log likelihood of a normal distribution, but for a constant."""
    error = (y - outputs["mean"]).square()
    return (error * torch.exp(-outputs["spread"]) + outputs["spread"]).mean()


def mae(outputs: Mapping[str, Tensor], y: Tensor) -> tuple[Tensor, int]:
    """The sum of absolute errors, and their number."""
    return (outputs["mean"] - y).abs().sum(), y.numel()


def own() -> nn.Module:
    """A loss and a metric of the user's own."""
    mae.higher_is_better = False  # type: ignore[attr-defined]  # as a user says it
    task = Own(target_shape=())
    return _module(MeanAndSpread(), input_shape=(10,), loss=nll, metrics={"mae": mae}, task=task)


# -- data


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images[:, None] / 16).astype(np.float32), digits.target.astype(np.int64)


def _standardised(x: Array) -> Array:
    scaled: Array = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    return scaled


def _attributes() -> Data:
    """Of a digit: even, above four, with a loop, prime."""
    x, y = _digits()
    sets = ((0, 2, 4, 6, 8), (5, 6, 7, 8, 9), (0, 6, 8, 9), (2, 3, 5, 7))
    return Data(x, np.stack([np.isin(y, each) for each in sets], 1).astype(np.float32), y)


def _cancer() -> Data:
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return Data(_standardised(found.data), found.target.astype(np.int64))


def _diabetes() -> Data:
    from sklearn.datasets import load_diabetes

    found = load_diabetes()
    x, y = _standardised(found.data), _standardised(found.target)
    return Data(x, y, np.digitize(x[:, 0], np.quantile(x[:, 0], np.linspace(0, 1, SENSORS + 1)[1:-1])))  # by age


def _days() -> Data:
    """Hourly readings of sensors that differ in level, swing and the hour of their peak."""
    rng = np.random.default_rng(0)
    x, y, owners = [], [], []
    for sensor in range(SENSORS):
        level, swing, peak = rng.normal(0, 0.5), rng.uniform(0.6, 1.4), rng.uniform(0, 6)
        hours = np.arange(24 * 60)
        drift = np.convolve(rng.normal(0, 0.15, len(hours)), np.exp(-np.arange(24) / 6))[: len(hours)]
        series = level + swing * np.sin((hours - peak) * 2 * np.pi / 24) + 0.4 * drift
        for start in range(0, len(hours) - HOURS - AHEAD, 6):
            x.append(series[start : start + HOURS, None])
            y.append(series[start + HOURS : start + HOURS + AHEAD, None])
            owners.append(sensor)
    return Data(np.array(x, np.float32), np.array(y, np.float32), np.array(owners))


def _noisy() -> Data:
    x, y = _digits()
    noise = np.random.default_rng(0).normal(0, 0.35, x.shape)
    return Data((x + noise).astype(np.float32), (x[:, 0] > 0.5).astype(np.int64), y)


def _sentences() -> Data:
    """Every word has a tag, which the word before it changes; owners use unlike words."""
    rng = np.random.default_rng(0)
    of_word, change = rng.integers(0, TAGS, WORDS), rng.integers(0, 2, WORDS)
    owners = rng.integers(0, SENSORS, 1600)
    liking = rng.dirichlet(np.full(WORDS, 0.4), SENSORS)
    x = np.stack([rng.choice(WORDS, LENGTH, p=liking[owner]) for owner in owners])
    before = np.concatenate([np.zeros((len(x), 1), int), x[:, :-1]], 1)
    return Data(x, (of_word[x] + change[before]) % TAGS, owners)


TASKS: dict[str, Callable[[], Data]] = {
    "single_label": lambda: Data(*_digits()),
    "binary": _cancer,
    "multi_label": _attributes,
    "regression": _diabetes,
    "forecasting": _days,
    "quantiles": _days,
    "reconstruction": lambda: Data(_digits()[0], None, _digits()[1]),
    "dense": _noisy,
    "tokens": _sentences,
    "own": _diabetes,
}
"""By the name of the function that builds the network."""

SOURCES = {
    "single_label": "digits",
    "binary": "breast cancer",
    "multi_label": "digits: 4 attributes",
    "regression": "diabetes",
    "forecasting": "drawn: next day of a sensor",
    "quantiles": "the same, three quantiles",
    "reconstruction": "digits",
    "dense": "digits with noise, ink or paper",
    "tokens": "drawn: tags of words",
    "own": "diabetes, mean and spread",
}
