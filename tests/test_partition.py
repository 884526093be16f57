"""Partitions: every sample goes to exactly one device, as evenly or unevenly as was asked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.emulation.partition import dirichlet, iid, natural, quantity, shards, time
from lamina.models.errors import DataError

label_lists = st.lists(st.integers(0, 5), min_size=20, max_size=120)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_each_once(parts: Sequence[Any], samples: int) -> None:
    assert sorted(index for part in parts for index in part) == list(range(samples))
    assert all(list(part) == sorted(part) for part in parts)


# -- even


@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 9))
def test_iid_deals_evenly(samples: Any, devices: Any, seed: Any) -> None:
    if samples < devices:
        with pytest.raises(DataError, match="too few"):
            iid(samples, devices, rng(seed))
        return
    parts = iid(samples, devices, rng(seed))
    assert_each_once(parts, samples)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_same_seed_partitions_alike() -> None:
    labels = rng(1).integers(0, 4, 200)
    for split in (
        lambda seed: iid(200, 5, rng(seed)),
        lambda seed: dirichlet(labels, 5, 0.5, rng(seed)),
        lambda seed: shards(labels, 5, 2, rng(seed)),
        lambda seed: natural(labels, 3, rng(seed)),
    ):
        first, same, other = (list(map(list, split(seed))) for seed in (7, 7, 8))
        assert first == same
        assert first != other


# -- Dirichlet


def slow_dirichlet(labels: list[int], devices: int, alpha: float, stream: np.random.Generator, least: int) -> Any:
    """The procedure word by word, with the same draws: a class at a time, the full left out, until all have enough."""
    while True:
        parts: list[list[int]] = [[] for _ in range(devices)]
        for label in sorted(set(labels)):
            members = [index for index, other in enumerate(labels) if other == label]
            members = list(stream.permutation(members))
            drawn = list(stream.dirichlet([alpha] * devices))
            p = [share if len(part) < len(labels) / devices else 0.0 for share, part in zip(drawn, parts, strict=True)]
            total, reached, start = sum(p), 0.0, 0
            if not total > 0:
                break
            for device in range(devices):
                reached += p[device]
                stop = int(reached / total * len(members))
                parts[device] += members[start:stop]
                start = stop
        else:
            if min(map(len, parts)) >= least:
                return [sorted(part) for part in parts]


@settings(max_examples=60, deadline=None)
@given(label_lists, st.integers(1, 5), st.sampled_from([0.3, 1.0, 10.0]), st.integers(0, 50))
def test_dirichlet_equals_its_slow_twin(labels: Any, devices: Any, alpha: Any, seed: Any) -> None:
    fast = dirichlet(np.array(labels), devices, alpha, rng(seed), least=2)
    assert [list(part) for part in fast] == slow_dirichlet(labels, devices, alpha, rng(seed), 2)


@settings(max_examples=60, deadline=None)
@given(label_lists, st.integers(1, 4), st.floats(0.3, 100), st.integers(0, 50))
def test_dirichlet_gives_each_sample_once_and_each_device_enough(
    labels: Any, devices: Any, alpha: Any, seed: Any
) -> None:
    parts = dirichlet(np.array(labels), devices, alpha, rng(seed), least=2)
    assert_each_once(parts, len(labels))
    assert min(len(part) for part in parts) >= 2


def test_dirichlet_gives_nothing_more_to_a_device_that_has_its_share() -> None:
    labels = np.repeat(np.arange(10), 100)  # 10 devices: a share is 100 samples
    for part in dirichlet(labels, 10, 0.3, rng(2)):
        before_the_last_class = part[labels[part] < labels[part].max()]
        assert len(before_the_last_class) < 100


def test_a_small_alpha_makes_devices_differ_and_a_large_one_alike() -> None:
    labels = np.repeat(np.arange(10), 200)

    def largest_class_share(alpha: float) -> float:
        parts = dirichlet(labels, 8, alpha, rng(0))
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert largest_class_share(0.1) > 0.4
    assert largest_class_share(1000.0) < 0.15  # even would be 0.1


def test_the_published_setting_is_within_reach() -> None:
    labels = rng(0).permutation(np.repeat(np.arange(10), 5000))  # CIFAR-10: 128 devices, alpha 0.1
    parts = dirichlet(labels, 128, 0.1, rng(0))
    assert_each_once(parts, 50_000)
    assert min(len(part) for part in parts) >= 10


@pytest.mark.parametrize(
    ("samples", "devices", "alpha", "message"),
    [
        (30, 4, 0.5, "30 samples are too few for 4 devices with 10 at least"),
        (100, 0, 0.5, "at least one device"),
        (100, 4, 0.0, "alpha must be positive"),
        (100, 10, 0.001, "fewer devices or a larger alpha"),
    ],
)
def test_an_impossible_dirichlet_is_refused(samples: Any, devices: Any, alpha: Any, message: Any) -> None:
    with pytest.raises(DataError, match=message):
        dirichlet(np.arange(samples) % 2, devices, alpha, rng())


# -- shards


@given(label_lists, st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_shards_give_each_sample_once(labels: Any, devices: Any, per_device: Any, seed: Any) -> None:
    assert_each_once(shards(np.array(labels), devices, per_device, rng(seed)), len(labels))


def test_two_shards_hold_two_classes_at_most_where_shards_fit_classes() -> None:
    labels = rng(0).permutation(np.repeat(np.arange(10), 20))  # 10 devices, 20 shards of 10: none straddles two classes
    for part in shards(labels, 10, 2, rng(1)):
        assert len(part) == 20
        assert len(np.unique(labels[part])) <= 2


def test_more_shards_than_samples_are_refused() -> None:
    with pytest.raises(DataError, match="5 samples are too few for 3 devices with 2"):
        shards(np.arange(5), 3, 2, rng())


# -- natural


def test_each_owner_stays_whole_and_owners_are_dealt_evenly() -> None:
    ids = np.array(["ann", "bob", "cem", "ann", "dee", "cem"])
    parts = natural(ids, 2, rng(3))
    assert_each_once(parts, 6)
    held = [set(ids[part]) for part in parts]
    assert [len(owners) for owners in held] == [2, 2]
    assert not held[0] & held[1]


def test_as_many_devices_as_owners_hold_one_each() -> None:
    ids = np.array([4, 4, 9, 2, 9])
    assert sorted(sorted(set(ids[part])) for part in natural(ids, 3, rng())) == [[2], [4], [9]]


def test_fewer_owners_than_devices_are_refused() -> None:
    with pytest.raises(DataError, match="2 owners, too few for 3 devices"):
        natural(np.array([1, 1, 2]), 3, rng())


# -- by time, by quantity


@given(st.integers(1, 200), st.integers(1, 20))
def test_time_gives_each_device_a_stretch(samples: int, devices: int) -> None:
    if samples < devices:
        with pytest.raises(DataError, match="too few"):
            time(samples, devices)
        return
    parts = time(samples, devices)
    assert_each_once(parts, samples)
    assert np.concatenate(parts).tolist() == list(range(samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_quantity_gives_some_a_hundred_times_the_samples_of_others() -> None:
    parts = quantity(20_000, 16, 100.0, rng())
    assert_each_once(parts, 20_000)
    sizes = sorted(map(len, parts))
    assert 95 <= sizes[-1] / sizes[0] <= 105
    assert sizes != [len(part) for part in parts]  # who is rich is drawn


@given(st.integers(1, 3000), st.integers(1, 12), st.floats(1, 200), st.integers(0, 5))
def test_quantity_gives_every_device_a_sample_or_says_how_many_it_takes(
    samples: int, devices: int, spread: float, seed: int
) -> None:
    total = sum(spread ** (place / max(devices - 1, 1)) for place in range(devices))
    if samples < 0.5 * total or samples < devices:
        with pytest.raises(DataError, match=r"a smaller partition\.spread"):
            quantity(samples, devices, spread, rng(seed))
    elif samples > 2 * total:
        parts = quantity(samples, devices, spread, rng(seed))
        assert_each_once(parts, samples)
        assert min(map(len, parts)) >= 1


def test_quantity_without_a_spread_is_even() -> None:
    assert {len(part) for part in quantity(40, 8, 1.0, rng())} == {5}
