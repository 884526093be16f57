"""Data sets: the formats that are read, what is refused, and how samples are split and scaled."""

import gzip
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.emulation.datasets import load_dataset, split_off
from lamina.emulation.readers.cifar import read_cifar
from lamina.emulation.readers.idx import read_idx
from lamina.emulation.scaling import scale
from lamina.models.errors import DataError


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


# -- built in


def test_digits_are_scaled_to_one_and_a_fifth_is_held_out() -> None:
    digits = load_dataset("digits")
    assert digits.x_train.shape[1:] == (1, 8, 8)
    assert digits.x_train.dtype == np.float32
    assert (digits.x_train.min(), digits.x_train.max()) == (0.0, 1.0)
    assert len(digits.y_train) + len(digits.y_test) == 1797
    assert len(digits.y_test) == 359  # a fifth of every class, rounded
    assert digits.classes == 10


def test_the_same_seed_holds_out_the_same_digits() -> None:
    first, same, other = (load_dataset("digits", seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.x_test, same.x_test)
    assert not np.array_equal(first.x_test, other.x_test)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'digits'"):
        load_dataset("digit")


# -- .npz


def test_bytes_become_standardised_images_with_a_channel(tmp_path: Path) -> None:
    x = np.array([[[0, 255], [255, 0]], [[0, 0], [255, 255]]], np.uint8)  # (2, 2, 2)
    path = save(tmp_path / "a.npz", x_train=x, y_train=[0, 1], x_test=x[:1], y_test=[1])
    data = load_dataset(path)
    # mean 0.5 and deviation 0.5 over the training set: 0 becomes -1, 255 becomes 1
    assert data.x_train.tolist() == [[[[-1, 1], [1, -1]]], [[[-1, -1], [1, 1]]]]
    assert data.x_test.tolist() == [[[[-1, 1], [1, -1]]]]
    assert data.x_train.dtype == np.float32
    assert (data.name, data.classes, data.sample_shape) == ("a", 2, (1, 2, 2))


def test_only_the_training_set_decides_the_scale() -> None:
    train, test = np.full((2, 1, 1), 0, np.uint8), np.full((1, 1, 1), 255, np.uint8)
    train[1] = 51  # 0 and 0.2: mean 0.1, deviation 0.1
    assert scale(train, test)[1].item() == pytest.approx((1 - 0.1) / 0.1)


def test_colour_images_get_their_channels_first_and_scaled_one_by_one() -> None:
    x = np.zeros((2, 4, 5, 3), np.uint8)
    x[1, ..., 0] = 255
    scaled, _ = scale(x, x)
    assert scaled.shape == (2, 3, 4, 5)
    assert scaled[:, 0].mean(axis=(1, 2)).tolist() == [-1, 1]
    assert not scaled[:, 1:].any()  # constant channels become 0


def test_channels_that_come_first_stay_there() -> None:
    x = np.zeros((2, 3, 4, 5), np.uint8)
    assert scale(x, x)[0].shape == (2, 3, 4, 5)


def test_tokens_stay_as_they_are(tmp_path: Path) -> None:
    x = np.array([[7, 300, 0], [1, 2, 3]], np.int16)
    data = load_dataset(save(tmp_path / "t.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[0, 1]))
    assert data.x_train.dtype == np.int64
    assert data.x_train.tolist() == x.tolist()


def test_floats_stay_as_they_are() -> None:
    x = np.array([[0.25, 3.0]])
    scaled, _ = scale(x, x)
    assert scaled.dtype == np.float32
    assert scaled.tolist() == x.tolist()


def test_one_set_is_split_and_its_owners_with_it(tmp_path: Path) -> None:
    y = np.repeat([0, 1], 10)
    path = save(tmp_path / "a.npz", x=np.arange(20.0)[:, None], y=y, ids=np.arange(20))
    data = load_dataset(path)
    assert np.bincount(data.y_test).tolist() == [2, 2]  # a fifth of each class
    assert data.ids is not None
    assert data.ids.tolist() == data.x_train[:, 0].tolist()
    assert sorted([*data.x_train[:, 0], *data.x_test[:, 0]]) == list(range(20))


def test_announced_classes_count_although_no_sample_has_them(tmp_path: Path) -> None:
    names = np.array(["cat", "dog", "emu"])
    x, y = np.ones((4, 2)), np.array([0, 0, 1, 1])
    assert load_dataset(save(tmp_path / "a.npz", x=x, y=y, classes=names)).classes == 3
    assert load_dataset(save(tmp_path / "b.npz", x=x, y=y, classes=5)).classes == 5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"d_train": np.ones(3)}, "it holds d_train; name the arrays x_train"),
        ({"x": np.ones((4, 2)), "y": np.zeros(3, int)}, "x has 4 samples and y 3 labels"),
        ({"x": np.ones((4, 2)), "y": np.array(["a", "b", "a", "b"])}, "y must be numbers, and is <U1: number the"),
        ({"x": np.ones(4), "y": np.zeros(4, int)}, "x must be samples of shape"),
        ({"x": np.full((4, 2), np.nan), "y": np.zeros(4, int)}, "not finite"),
        (
            {"x": np.array([["a"], ["b"]]), "y": np.zeros(2, int)},
            "floating point, integers or bool, and is <U1",
        ),
        ({"x": np.ones((4, 2)), "y": np.arange(4) // 2 + 1, "classes": 2}, "announces 2 classes, and a label is 2"),
        ({"x": np.ones((4, 2)), "y": np.zeros(4, int), "ids": np.zeros(3)}, "one owner a training sample"),
        (
            {"x_train": np.ones((2, 3)), "y_train": [0, 1], "x_test": np.ones((2, 4)), "y_test": [0, 1]},
            r"float64 \(3,\), test samples float64 \(4,\)",
        ),
    ],
)
def test_unusable_arrays_are_refused_in_one_line(tmp_path: Path, arrays: Any, message: Any) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(save(tmp_path / "a.npz", **arrays))
    assert "a.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_python_objects_in_an_archive_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([[object()]]), y=[0])
    with pytest.raises(DataError, match="plain numpy arrays"):
        load_dataset(tmp_path / "a.npz")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match="plain numpy arrays"):
        load_dataset(tmp_path / "a.npz")


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text("1,2")
    with pytest.raises(DataError, match=r"an \.npz file, a table or a folder"):
        load_dataset(tmp_path / "a.dat")


# -- the split


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 5))
def test_a_split_takes_each_sample_once_and_a_share_of_every_class(labels: Any, seed: Any) -> None:
    y = np.array(labels)
    stay, out = split_off(y, 0.2, seed)
    assert sorted([*stay, *out]) == list(range(len(y)))
    for label in set(labels):
        size = labels.count(label)
        assert np.count_nonzero(y[out] == label) == (max(1, round(0.2 * size)) if size > 1 else 0)


# -- IDX


def idx(array):
    array = np.asarray(array, np.uint8)
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder, pack=lambda content: content, suffix="", test="t10k"):
    x, y = np.arange(12).reshape(3, 2, 2) * 20, [0, 1, 2]
    for name, images in (("train", x), (test, x[::-1])):
        (folder / f"{name}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (folder / f"{name}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(y)))
    return folder


@pytest.mark.parametrize(("pack", "suffix"), [(bytes, ""), (gzip.compress, ".gz")])
def test_idx_files_are_read_plain_and_gzipped(tmp_path: Path, pack: Any, suffix: Any) -> None:
    data = load_dataset(idx_folder(tmp_path, pack, suffix))
    assert data.x_train.shape == (3, 1, 2, 2)
    assert np.array_equal(data.x_test, data.x_train[::-1])
    assert data.y_train.tolist() == [0, 1, 2]


def test_emnist_names_are_known(tmp_path: Path) -> None:
    assert load_dataset(idx_folder(tmp_path, test="test")).classes == 3


def test_idx_extents_are_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 5, 6]))
    assert read_idx(path).tolist() == [[5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG", "two zero bytes"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0]), "IDX type 0x0d"),
        (idx([1, 2, 3])[:-1], r"announces \[3\], and 2 bytes follow"),
        (idx([1, 2, 3]) + b"!", r"announces \[3\], and 4 bytes follow"),
        (bytes([0, 0, 8, 3, 0, 0]), "announces"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, content: Any, message: Any) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_idx(tmp_path / "a")


def test_a_truncated_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx([1, 2, 3]))[:-6])
    with pytest.raises(DataError, match="can't be unpacked"):
        read_idx(tmp_path / "a.gz")


def test_a_missing_idx_file_is_named(tmp_path: Path) -> None:
    (idx_folder(tmp_path) / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no file of train-labels"):
        load_dataset(tmp_path)


def test_two_candidates_for_an_idx_file_are_named(tmp_path: Path) -> None:
    (idx_folder(tmp_path) / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    with pytest.raises(DataError, match="several files of train-labels"):
        load_dataset(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a CIFAR folder"):
        load_dataset(tmp_path)


# -- CIFAR


def cifar_batch(label, protocol=2):
    """Two images as the published batches hold them: rows of 3072 bytes, keys as bytes."""
    data = np.full((2, 3072), 100 + label, np.uint8)
    data[:, 1024:2048] = 7  # the green plane
    return pickle.dumps({b"data": data, b"labels": [label, label], b"batch_label": b"one"}, protocol=protocol)


def cifar_folder(folder):
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(cifar_batch(number))
    (folder / "test_batch").write_bytes(cifar_batch(9))
    return folder


def test_cifar_batches_are_joined_in_order_with_planes_as_channels(tmp_path: Path) -> None:
    raw = read_cifar(cifar_folder(tmp_path))
    assert raw.train.x.shape == (10, 3, 32, 32)
    assert raw.train.y.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert raw.train.x[2, :, 0, 0].tolist() == [102, 7, 102]
    assert raw.test is not None
    assert raw.test.y.tolist() == [9, 9]
    assert load_dataset(tmp_path).classes == 10


def test_cifar_100_gives_its_fine_labels(tmp_path: Path) -> None:
    for name in ("train", "test"):
        batch = {b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [4, 99], b"coarse_labels": [0, 1]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    (tmp_path / "meta").write_bytes(b"")
    data = load_dataset(tmp_path)
    assert (data.y_train.tolist(), data.classes) == ([4, 99], 100)


class Mischief:
    def __reduce__(self):
        return os.mkdir, ("mischief",)


@pytest.mark.parametrize(
    "payload", [Mischief(), eval, np.load, {b"data": Mischief()}], ids=["object", "builtin", "function", "inside"]
)
def test_a_pickle_that_names_anything_but_arrays_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = cifar_folder(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps(payload))
    with pytest.raises(DataError, match=r"data_batch_3.*refused"):
        read_cifar(folder)
    assert not (tmp_path / "mischief").exists()


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    (cifar_folder(tmp_path) / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4: this file"):
        read_cifar(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps({b"data": 1})])
def test_a_damaged_batch_is_refused(tmp_path: Path, content: Any) -> None:
    (cifar_folder(tmp_path) / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch: not a CIFAR batch"):
        read_cifar(tmp_path)


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    batch = pickle.dumps({b"data": np.zeros((2, 784), np.uint8), b"labels": [0, 0]}, protocol=2)
    (cifar_folder(tmp_path) / "test_batch").write_bytes(batch)
    with pytest.raises(DataError, match="3072 unsigned bytes"):
        read_cifar(tmp_path)
