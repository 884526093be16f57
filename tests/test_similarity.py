"""Similarity of activations: known values, what must not change it, and the textbook's formula."""

import numpy as np
import pytest

from lamina.emulation.similarity import linear_cka, svcca


def samples(seed: int, columns: int, rows: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns))


def rotation(seed: int, size: int) -> np.ndarray:
    return np.linalg.qr(samples(seed, size, size))[0]


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_a_network_is_like_itself(measure) -> None:
    x = samples(0, 5)
    assert measure(x, x) == pytest.approx(1)


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_rotation_shift_and_scale_do_not_matter(measure) -> None:
    x, y = samples(0, 5), samples(0, 5) @ samples(1, 4, 5)
    assert measure(x, 3 * y @ rotation(2, 4) + 7) == pytest.approx(measure(x, y))


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_the_order_of_the_two_does_not_matter(measure) -> None:
    x, y = samples(0, 5), samples(1, 3)
    assert measure(x, y) == pytest.approx(measure(y, x))


def test_cka_of_orthogonal_columns_is_0() -> None:
    assert linear_cka([[1.0], [-1.0], [1.0], [-1.0]], [[1.0], [1.0], [-1.0], [-1.0]]) == 0


def test_cka_by_hand() -> None:
    # X one column a, Y columns a and b, a and b orthogonal, each of squared length 4:
    # ||Y^T X||^2 = 4^2, ||X^T X|| = 4, ||Y^T Y|| = sqrt(4^2 + 4^2): 16 / (4 * 4 sqrt 2) = 1 / sqrt 2
    a, b = [1.0, -1.0, 1.0, -1.0], [1.0, 1.0, -1.0, -1.0]
    assert linear_cka(np.transpose([a]), np.transpose([a, b])) == pytest.approx(2**-0.5)


def test_cka_by_samples_is_cka_by_features() -> None:
    x, y = samples(0, 30, 20), samples(1, 25, 20)
    x, y = x - x.mean(0), y - y.mean(0)
    by_features = np.square(y.T @ x).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert linear_cka(x, y) == pytest.approx(by_features)


def test_svcca_sees_through_any_invertible_map_and_cka_does_not() -> None:
    x = samples(0, 3)
    stretched = x @ np.diag([1, 2, 4])
    assert svcca(x, stretched) == pytest.approx(1)
    assert linear_cka(x, stretched) < 0.9


def test_svcca_by_hand() -> None:
    # a and b are orthogonal; the correlations of {a, b} with {a, c} are 1 (a with a) and 0 (b with c): mean 1/2
    a, b, c = [1, -1, 1, -1.0], [1, 1, -1, -1.0], [1, -1, -1, 1.0]
    assert svcca(np.transpose([a, b]), np.transpose([a, c])) == pytest.approx(0.5)


def test_svcca_drops_directions_of_little_variance() -> None:
    x = samples(0, 2)
    noise = 1e-3 * samples(1, 4)
    assert svcca(np.hstack([x, noise]), x) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_constant_activations_are_like_each_other_only(measure) -> None:
    constant = np.ones((200, 3))
    assert measure(constant, constant) == 1
    assert measure(constant, samples(0, 3)) == 0


@pytest.mark.parametrize("measure", [linear_cka, svcca])
def test_other_samples_are_a_mistake(measure) -> None:
    with pytest.raises(ValueError, match="same samples"):
        measure(samples(0, 2), samples(0, 2, 100))
