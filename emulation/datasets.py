"""Reads the samples that an emulation trains and tests on: a built-in data set, or what a path holds.

==========================  ========================================================================================
``digits``                  scikit-learn's handwritten digits, 8x8; a fifth of them held out
``digit-tokens``            the same as texts of 64 tokens, for networks that read
a folder                    CIFAR-10 or CIFAR-100 as published for Python, or IDX files (MNIST and its family)
a file ``.npz``             arrays of one's own: see `lamina.emulation.readers.npz`
a table, another folder     what an agent reads: see `lamina.models.readers`
``module:function``         what the function returns, as an agent takes it
==========================  ========================================================================================

Where a source has no test set, a fifth of every class is held out, drawn from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lamina.emulation.readers.cifar import is_cifar, read_cifar
from lamina.emulation.readers.digits import read_digit_tokens, read_digits
from lamina.emulation.readers.idx import is_idx, read_idx_folder
from lamina.emulation.readers.npz import read_npz
from lamina.emulation.readers.raw import Array, Raw, Samples, inputs_of, records
from lamina.emulation.readers.sources import TEST_SHARE, read_source
from lamina.emulation.scaling import scale
from lamina.models.errors import DataError, did_you_mean
from lamina.models.readers.kinds import is_readable, kind_of
from lamina.models.readers.settings import DataSettings, Source
from lamina.models.samples import LabelledSamples
from lamina.models.sources import is_function, load_samples

BUILT_IN = {"digits": read_digits, "digit-tokens": read_digit_tokens}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples, ready for a network.

    Attributes:
        name: for people.
        x_train: (N, *sample_shape), float32, or int64 for tokens; records (N,) of several inputs.
        y_train: targets, (N, ...): class indices are int64; ``None`` where there are none.
        x_test: held-out samples.
        y_test: their targets.
        classes: number of classes; 0 where targets are no class indices.
        ids: whose each training sample is, (N,), where the source knows.
        class_names: of class 0, 1 and so on, where the source has names.
        stretches: of windows, the rows that each training sample covers; see `lamina.models.samples`.
    """

    name: str
    x_train: Array
    y_train: Array | None
    x_test: Array
    y_test: Array | None
    classes: int
    ids: Array | None = None
    class_names: tuple[str, ...] = ()
    stretches: Array | None = None

    def part(self, indices: Array) -> Dataset:
        """The same with some of the training samples."""
        y, ids, stretches = (
            None if array is None else array[indices] for array in (self.y_train, self.ids, self.stretches)
        )
        return replace(self, x_train=self.x_train[indices], y_train=y, ids=ids, stretches=stretches)

    def samples_of(self, indices: Array) -> LabelledSamples:
        """Some of the training samples, as a device has them."""
        part = self.part(indices)
        return LabelledSamples(inputs_of(part.x_train), part.y_train, self.name, stretches=part.stretches)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.x_train.shape[1:]

    @property
    def labels(self) -> Array | None:
        """The class of every training sample, (N,); ``None`` where a sample has none, or several."""
        y = self.y_train
        return y if y is not None and y.ndim == 1 and self.classes else None


def load_dataset(source: Source | Path, *, seed: int = 0) -> Dataset:
    """Read ``source``, check it, split it where it has no test set, and scale it (see `lamina.emulation.scaling`).

    Args:
        source: a built-in name, a path, or a table of `DataSettings`.
        seed: of the split.

    Raises:
        DataError: there is no such source, its format is unknown, or its samples can't be used.
    """
    name = source.path if isinstance(source, DataSettings) else str(source)
    raw = read_source(source) if isinstance(source, DataSettings) else _read(name)
    _check_training(name, raw)
    train, test, ids = _split(raw, seed) if raw.test is None else (raw.train, raw.test, raw.ids)
    _check_test(name, train, test)
    classes = _classes(name, raw.classes, train, test)
    x_train, x_test = scale(train.x, test.x)
    return Dataset(
        *(Path(name).stem or name, x_train, _stored(train.y), x_test, _stored(test.y)),
        *(classes, ids, raw.class_names, train.stretches),
    )


def split_off(labels: Array, share: float, seed: int | Sequence[int]) -> tuple[Array, Array]:
    """Indices of the samples that stay and of those held out: ``share`` of every class, at least one.

    A class of a single sample stays whole. Both results ascend.
    """
    rng = np.random.default_rng(seed)
    held: list[Array] = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held.append(members[: max(1, round(share * len(members))) if len(members) > 1 else 0])
    out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), out), out


def drawn_off(samples: int, share: float, seed: int | Sequence[int]) -> tuple[Array, Array]:
    """Divide samples as `split_off` does, where they have no class: a share of all, one at least."""
    order = np.random.default_rng(seed).permutation(samples)
    held = min(max(1, round(share * samples)), samples - 1)
    return np.sort(order[held:]), np.sort(order[:held])


def _stored(y: Array | None) -> Array | None:
    """Class indices as int64, all other targets as they are."""
    return y.astype(np.int64) if y is not None and y.ndim == 1 and y.dtype.kind in "iub" else y


def _read(name: str) -> Raw:
    path = Path(name)
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if path.suffix == ".npz" and path.is_file():
        return read_npz(path)
    if path.is_dir():
        return _read_folder(path)
    if is_readable(name):
        return read_source(DataSettings(name))
    if is_function(name):
        return _called(name)
    if path.is_file():
        raise DataError(f"{path}: a data set is an .npz file, a table or a folder, and this is none of them")
    where = f"no file, no folder (seen from {Path.cwd()}), and not built in"
    raise DataError(f"there is no data set {name!r}: {where}; {did_you_mean(name, BUILT_IN)}")


def _called(name: str) -> Raw:
    """What a function of the user's returns."""
    found = load_samples(name)
    parts = {key: np.asarray(part[:]) for key, part in found.parts.items()}
    x = records(parts) if isinstance(found.x, Mapping) else parts[""]
    names = found.class_names
    return Raw(Samples(x, None if found.y is None else np.asarray(found.y[:])), None, None, len(names) or None, names)


def _read_folder(path: Path) -> Raw:
    if is_cifar(path):
        return read_cifar(path)
    if is_idx(path):
        return read_idx_folder(path)
    settings = DataSettings(str(path))
    try:
        kind_of(settings)
    except DataError as error:
        raise DataError(
            f"{error}; it is neither a CIFAR folder (data_batch_1 to 5, test_batch) nor one of IDX files "
            "(train-images-idx3-ubyte) either"
        ) from error
    return read_source(settings)


def _split(raw: Raw, seed: int) -> tuple[Samples, Samples, Array | None]:
    x, y = raw.train.x, raw.train.y
    labels = _stored(y)
    if labels is not None and labels.ndim == 1 and labels.dtype == np.int64:
        stay, out = split_off(labels, TEST_SHARE, seed)
    else:
        stay, out = drawn_off(len(x), TEST_SHARE, seed)
    return raw.train.part(stay), raw.train.part(out), None if raw.ids is None else raw.ids[stay]


def _check_training(name: str, raw: Raw) -> None:
    _check(f"{name}, training set", raw.train)
    if raw.ids is not None and raw.ids.shape != raw.train.x.shape[:1]:
        raise DataError(f"{name}: ids must name one owner a training sample, and has the shape {raw.ids.shape}")


def _check_test(name: str, train: Samples, test: Samples) -> None:
    _check(f"{name}, test set", test)
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise DataError(
            f"{name}: training samples are {train.x.dtype} {train.x.shape[1:]}, "
            f"test samples {test.x.dtype} {test.x.shape[1:]}"
        )


def _check(where: str, samples: Samples) -> None:
    """The rules are those for the samples of an agent."""
    LabelledSamples(inputs_of(samples.x), samples.y, where)


def _classes(name: str, announced: int | None, train: Samples, test: Samples) -> int:
    needed = max(LabelledSamples(inputs_of(samples.x), samples.y, name).classes for samples in (train, test))
    if announced is not None and needed > announced:
        raise DataError(f"{name}: it announces {announced} classes, and a label is {needed - 1}")
    return announced or needed
