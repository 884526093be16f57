"""The gradients of every network of the zoo are torch's, and so is where some steps lead."""

from collections.abc import Iterable

import numpy as np
import pytest
from torch import nn

from benchmarks.exactness import NETWORKS, Compared, distance
from benchmarks.smoothing import without_kinks
from lamina.models.definition import Definition, load_definition
from lamina.models.graph.tracing import trace
from lamina.models.source import split_options, zoo_names

QUICK = ("digits_cnn", "sensor_cnn")


def params(names: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.exhaustive) for name in names]


@pytest.fixture(scope="module", params=params(NETWORKS))
def smooth(request: pytest.FixtureRequest) -> tuple[Definition, Compared]:
    """A network without kinks, whose graphs are written once for all tests of it."""
    definition = without_kinks(load_definition(NETWORKS[request.param]))
    return definition, Compared(definition, batch_size=4)


def test_the_whole_zoo_is_measured() -> None:
    assert {split_options(source)[0] for source in NETWORKS.values()} == set(zoo_names())


def test_without_kinks_gradients_are_exact_to_1e_5(smooth: tuple[Definition, Compared]) -> None:
    definition, compared = smooth
    assert not kinks(definition)
    assert compared.of_gradients().ours < 1e-5


@pytest.mark.parametrize("name", params(["resnet20", "digits_cnn"]))
def test_with_rectifiers_gradients_are_within_twice_what_torch_reaches_in_float32(name: str) -> None:
    found = Compared(load_definition(NETWORKS[name]), batch_size=4).of_gradients(5)
    assert found.ours <= 2 * found.torchs


@pytest.mark.slow
@pytest.mark.parametrize("smooth", params(["digits_cnn", "ds_cnn", "text_lstm", "tiny_transformer"]), indirect=True)
def test_after_50_steps_parameters_are_exact_to_1e_5_or_to_what_torch_reaches_in_float32(
    smooth: tuple[Definition, Compared],
) -> None:
    found = smooth[-1].after_steps(50)
    assert found.ours <= max(1e-5, 2 * found.torchs)
    assert found.ours < 1e-4


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
    exact, ours, rounded = Compared(load_definition("digits_cnn")).gradients()
    assert distance(ours, exact) < 1e-5
    wrong = ours.copy()
    wrong[np.argmax(np.abs(ours))] *= -1
    assert distance(wrong, exact) > 1e-3
    assert 0 < distance(rounded, exact) < 1e-5
