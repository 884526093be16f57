"""A device's samples: what is read, what is refused, and the order in which rounds visit them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.edge_agent.data import sample_order
from lamina.models.errors import DataError
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

LAYER = LayerSpec("dense", (TensorSpec("weight", (2, 3), "kernel"),))
IMAGES = ModelSpec("images", (LAYER,), (BlockSpec("dense", 0, 1, (2,)),), (0,), classes=3)
TOKENS = ModelSpec("tokens", (LAYER,), (BlockSpec("dense", 0, 1, (2,), "int64"),), (0,), classes=3)

X = np.array([[0, 255], [51, 102]], np.uint8)
Y = np.array([2, 0])
ALL = np.array([0, 1])
GOLDEN = [4, 0, 1, 2, 3, 2, 0]  # epochs of five: one, and the beginning of another


def test_pixels_become_fractions() -> None:
    samples = LabelledSamples(X, Y).samples(ALL, "float32")
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, np.float32([[0, 1], [0.2, 0.4]]))


def test_tokens_stay_whole() -> None:
    for kind in (np.uint8, np.int16, np.int64):
        samples = LabelledSamples(X.astype(kind), Y).samples(ALL, "int64")
        assert samples.dtype == np.int64
        assert samples.tolist() == [[0, 255], [51, 102]]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floating_point_keeps_its_scale(kind: type) -> None:
    samples = LabelledSamples(X.astype(kind), Y).samples(np.array([1]), "float32")
    assert samples.dtype == np.float32
    assert samples.tolist() == [[51, 102]]


def test_a_batch_is_contiguous_whatever_the_samples_are() -> None:
    columns = np.asfortranarray(np.arange(8, dtype=np.float32).reshape(4, 2))
    samples = LabelledSamples(columns, np.zeros(4, int)).samples(np.array([3, 1, 3]), "float32")
    assert samples.flags.c_contiguous
    assert samples.tolist() == [[6, 7], [2, 3], [6, 7]]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, int), "there are no samples in it"),
        (np.zeros((3, 2)), np.zeros(2, int), "x has 3 samples and y 2 labels"),
        (np.zeros(3), np.zeros(3, int), r"x must be samples of shape \(N, ...\), and has the shape \(3,\)"),
        (np.full((3, 2), "a"), np.zeros(3, int), "x must be floating point, integers or bool, and is <U1"),
        (np.zeros((3, 2)), np.array(["a", "b", "a"]), "y must be numbers, and is <U1: number the classes"),
        (np.zeros((3, 2)), np.array([{}, {}, {}], object), "y must be numbers, and is object"),
        (np.zeros((3, 2)), np.array([0, np.inf, 0]), "target 1 has values that are not finite float32 numbers"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((2, 2))}, np.zeros(3, int), "x.b has 2 samples, and another input 3"),
        ({}, np.zeros(3, int), "x holds no named array"),
        (np.array([[0, 1], [1e300, 2]]), np.zeros(2, int), "sample 1 has values that are not finite float32"),
        (np.array([[0, 1], [2, -3]]), np.zeros(2, int), "sample 1 has values below 0, and integers are token ids"),
        (np.array([[0, 1], [2, np.nan]]), np.zeros(2, int), "sample 1 has values that are not finite float32 numbers"),
    ],
)  # fmt: skip
def test_what_can_not_be_learnt_from_is_refused(x: np.ndarray, y: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LabelledSamples(x, y)


def test_a_sample_that_is_not_finite_is_found_beyond_the_first_block() -> None:
    x = np.zeros((5000, 1), np.float32)
    x[4999] = np.inf
    with pytest.raises(DataError, match="sample 4999 has values"):
        LabelledSamples(x, np.zeros(5000, int))


@pytest.mark.parametrize(
    ("x", "y", "spec", "message"),
    [
        (np.zeros((2, 3)), Y, IMAGES, r"samples have the shape \(3,\), and model images takes \(2,\)"),
        (X.astype(np.int32), Y, IMAGES, "samples are int32, and model images takes float32: convert"),
        (X.astype(np.float32), Y, TOKENS, "samples are float32, and model tokens takes int64: give token ids"),
        (X, np.array([1, 3]), IMAGES, "target 1 has the value 3, and the classes are 0 to 2 .model images."),
        (X, np.zeros((2, 2)), IMAGES, r"its targets are float64, and model images takes class indices, one a sample"),
        (X, np.zeros((2, 2), int), IMAGES, r"its targets have the shape \(2,\), .* for several labels a sample"),
        (X, np.array([0.5, 1]), IMAGES, "are float64, .*: for numbers give the network task = .regression."),
        (X, np.array([0.0, 1]), IMAGES, r"are float64, .*: give y.astype\(int\)"),
        (X, np.eye(2, 3, dtype=int), IMAGES, "it looks one-hot, so give y.argmax"),
        (X, np.array([0, 2**64 - 1], np.uint64), IMAGES, "target 1 has the value"),
        (X, np.array([0, -2]), IMAGES, "target 1 has the value -2, and the classes are 0 to 2"),
        (X, None, IMAGES, "it has no targets y, and model images takes class indices"),
        ({"a": X}, Y, IMAGES, "its inputs are a, and model images takes one array"),
    ],
)
def test_samples_that_do_not_suit_the_model_are_refused(
    x: np.ndarray, y: np.ndarray, spec: ModelSpec, message: str
) -> None:
    with pytest.raises(DataError, match=f"train.npz: .*{message}"):
        LabelledSamples(x, y, "train.npz").check(spec)


def test_suitable_samples_pass() -> None:
    LabelledSamples(X, Y).check(IMAGES)
    LabelledSamples(X, Y).check(TOKENS)
    LabelledSamples(X.astype(np.float64), Y).check(IMAGES)
    LabelledSamples(X.astype(np.int16), Y).check(TOKENS)
    LabelledSamples(X, Y.reshape(2, 1)).check(IMAGES)
    LabelledSamples(X, np.array([True, False])).check(IMAGES)


def test_an_archive_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    data = load_samples(str(tmp_path / "train.npz"))
    assert (len(data), data.classes, data.sample_shape) == (2, 3, (2,))


def test_the_samples_of_a_pair_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    data = load_samples(f"{tmp_path}/x.npy, {tmp_path}/y.npy")
    assert isinstance(data.x, np.memmap)
    assert data.samples(ALL, "int64").tolist() == X.tolist()


def test_a_function_gives_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sensors_of_test.py").write_text(
        "def samples():\n    return [[0.5], [1.5]], [0, 1]\ndef broken():\n    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load_samples("sensors_of_test:samples").samples(ALL, "float32").tolist() == [[0.5], [1.5]]
    with pytest.raises(DataError, match="sensors_of_test:broken: ZeroDivisionError: division by zero"):
        load_samples("sensors_of_test:broken")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("train.dat", r"there is no such folder; give samples.npz, a pair x.npy,y.npy, .*, or module:function"),
        ("train.csv", r"train.csv: no such file \(seen from "),
        ("x.npy", "give samples.npz, a pair"),
        ("nowhere.npz", r"nowhere.npz: no such file \(seen from "),
        ("nowhere.npy,y.npy", r"nowhere.npy: no such file \(seen from "),
        ("no_such_module:f", "No module named 'no_such_module'"),
        ("math:samples", "module math has no function 'samples'"),
        ("time:gmtime", r"must return \(x, y\), and returned a struct_time"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_samples(source)


def test_an_archive_without_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=X, labels=Y)
    with pytest.raises(DataError, match="it has no array 'y', only x, labels"):
        load_samples(str(tmp_path / "train.npz"))


def test_a_single_array_is_no_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", X)
    (tmp_path / "train.npy").rename(tmp_path / "train.npz")
    with pytest.raises(DataError, match="it is a single array"):
        load_samples(str(tmp_path / "train.npz"))


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=np.array([{}, {}], object), y=Y)
    with pytest.raises(DataError, match=r"can.t be read as \.npz"):
        load_samples(str(tmp_path / "train.npz"))


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 torn"])
def test_a_damaged_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"can.t be read as \.npz"):
        load_samples(str(tmp_path / "train.npz"))


def test_the_order_of_samples_is_fixed() -> None:
    """Golden values: another order would part the simulator, and devices of other versions, from this one."""
    assert sample_order(0, "pi-1", 0, 5, 7).tolist() == GOLDEN
    assert sample_order(0, "pi-1", 1, 5, 7).tolist() != GOLDEN
    assert sample_order(0, "pi-2", 0, 5, 7).tolist() != GOLDEN
    assert sample_order(1, "pi-1", 0, 5, 7).tolist() != GOLDEN


@given(st.integers(-3, 2**70), st.integers(1, 20), st.integers(1, 30), st.integers(0, 6))
def test_rounds_go_on_where_the_last_one_ended(seed: int, n: int, count: int, rounds: int) -> None:
    visited = [int(index) for round_ in range(rounds) for index in sample_order(seed, "a", round_, n, count)]
    assert len(visited) == rounds * count
    for start in range(0, len(visited) - n + 1, n):  # whole epochs
        assert sorted(visited[start : start + n]) == list(range(n))


def test_all_orders_occur_about_equally_often() -> None:
    found = Counter(tuple(sample_order(seed, "a", 0, 3, 3).tolist()) for seed in range(600))
    assert len(found) == 6
    assert min(found.values()) > 60  # 100 on average, with a standard deviation of 9
