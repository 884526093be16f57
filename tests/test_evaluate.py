"""Evaluation data: the same door as training data, and the same scale."""

from pathlib import Path

import numpy as np
import pytest

from lamina.coordinator.records.evaluate import Evaluator
from lamina.coordinator.service.round_log import weighted_mean
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import load_definition
from lamina.models.errors import DataError
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples, resolved_source

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (60, 1, 8, 8), np.uint8)
LABELS = RNG.integers(0, 10, 60)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "digits"
    build_bundle(load_definition("digits_cnn"), folder, batch_size=8)
    return read_bundle(folder)


def accuracy(bundle: Bundle, x: np.ndarray) -> float:
    spec = bundle.manifest.spec
    rng = np.random.default_rng(1)  # biases, too: without them the scale of the samples would not show
    values = [rng.normal(0, 0.3, layer.vector_size).astype(np.float32) for layer in spec.layers]
    return Evaluator(bundle, LabelledSamples(x, LABELS), 7).accuracy(values)


def test_bytes_score_as_the_fractions_that_devices_make_of_them(bundle: Bundle) -> None:
    assert accuracy(bundle, PIXELS) == accuracy(bundle, PIXELS.astype(np.float32) / np.float32(255))
    assert accuracy(bundle, PIXELS) != accuracy(bundle, PIXELS.astype(np.float32))  # or this test could not fail


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.eye(10)[LABELS], r"give y.argmax"),
        (LABELS.astype(str), "y must be numbers"),
        (LABELS + 1, "has the value 10, and the classes are 0 to 9"),
    ],
)
def test_labels_that_mean_nothing_are_refused(bundle: Bundle, y: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", x=PIXELS, y=y)
    with pytest.raises(DataError, match=rf"test.npz: .*{message}"):
        Evaluator(bundle, load_samples(str(tmp_path / "test.npz")), 8)


def test_paths_of_a_source_are_seen_from_the_file_that_names_it() -> None:
    home = Path("/runs")
    assert resolved_source("test.npz", home) == "/runs/test.npz"
    assert resolved_source("x.npy, y.npy", home) == "/runs/x.npy,/runs/y.npy"
    assert resolved_source("/data/test.npz", home) == "/data/test.npz"
    assert resolved_source("sensors:samples", home) == "sensors:samples"


def test_a_figure_of_a_round_weighs_devices_by_their_samples() -> None:
    assert weighted_mean([1.0, 4.0], [10, 20]) == 3.0  # (10 * 1 + 20 * 4) / 30
    assert weighted_mean([], []) is None
