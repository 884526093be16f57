"""Batches and crops of a virtual device: from its own seeds, and nothing else."""

import numpy as np

from lamina.edge_agent.data import sample_order
from lamina.emulation.simulator.samples import PADDING, Augmentation, batches

HELD = np.array([3, 5, 8, 13, 21])


def test_the_order_is_that_of_a_board() -> None:
    found = batches(7, "device-1", 2, HELD, 3, 4)
    np.testing.assert_array_equal(found.ravel(), HELD[sample_order(7, "device-1", 2, 5, 12)])
    assert found.shape == (3, 4)


def test_every_sample_is_seen_equally_often() -> None:
    seen = np.concatenate([batches(0, "d", round_, HELD, 1, 5).ravel() for round_ in range(4)])
    assert np.bincount(seen)[HELD].tolist() == [4] * 5


def test_crops_do_not_depend_on_how_a_round_is_cut_into_batches() -> None:
    x = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
    whole = Augmentation(1, "d", 0, 6).apply(x)
    halves = Augmentation(1, "d", 0, 6)
    np.testing.assert_array_equal(np.concatenate([halves.apply(x[:2]), halves.apply(x[2:])]), whole)


def test_a_crop_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    x = np.random.default_rng(0).standard_normal((20, 1, 6, 6)).astype(np.float32)
    found = Augmentation(1, "d", 0, 20).apply(x)
    padded = np.pad(x, ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    mirrored = 0
    for image, crop in zip(padded, found, strict=True):
        windows = [image[:, i : i + 6, j : j + 6] for i in range(9) for j in range(9)]
        plain = any(np.array_equal(window, crop) for window in windows)
        flipped = any(np.array_equal(window[:, :, ::-1], crop) for window in windows)
        assert plain or flipped
        mirrored += not plain
    assert 0 < mirrored < 20


def test_devices_rounds_and_seeds_crop_differently() -> None:
    x = np.random.default_rng(0).standard_normal((9, 1, 6, 6)).astype(np.float32)
    crops = [Augmentation(*key, 9).apply(x).tobytes() for key in ((1, "d", 0), (1, "d", 1), (1, "e", 0), (2, "d", 0))]
    assert len(set(crops)) == 4
