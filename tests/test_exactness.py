"""The gradients of every network of the zoo are torch's."""

import numpy as np
import pytest
from torch import nn

from benchmarks.exactness import NETWORKS, distance, gradient_error, gradients, without_kinks
from models.definition import Definition, load_definition
from models.graph.tracing import trace
from models.source import split_options, zoo_names

QUICK = ("digits_cnn", "sensor_cnn", "tiny_transformer")
ALL = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]


def test_the_whole_zoo_is_measured() -> None:
    assert {split_options(source)[0] for source in NETWORKS.values()} == set(zoo_names())


@pytest.mark.parametrize("name", ALL)
def test_without_kinks_gradients_are_exact_to_1e_5(name: str) -> None:
    smooth = without_kinks(load_definition(NETWORKS[name]))
    assert not kinks(smooth)
    assert gradient_error(smooth, batch_size=4) < 1e-5


def test_every_kink_is_smoothed() -> None:
    module = nn.Sequential(
        nn.ReLU(), nn.ReLU6(), nn.MaxPool1d(2), nn.MaxPool1d(3, 2, 1), nn.Hardtanh(), nn.Flatten(), nn.Linear(8, 2)
    )
    definition = Definition("kinks", module, (2, 16), 2)
    assert len(kinks(definition)) == 5
    assert not kinks(without_kinks(definition))


def kinks(definition: Definition) -> list[str]:
    operators = [str(operator.target) for operator in trace(definition, training=True).operators]
    return [name for name in operators if any(part in name for part in ("relu", "hardtanh", "max", "abs", "clamp"))]


def test_a_wrong_gradient_is_seen() -> None:
    exact, ours, rounded = gradients(load_definition("digits_cnn"))
    assert distance(ours, exact) < 1e-5
    wrong = ours.copy()
    wrong[np.argmax(np.abs(ours))] *= -1
    assert distance(wrong, exact) > 1e-3
    assert 0 < distance(rounded, exact) < 1e-5
