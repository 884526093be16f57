"""Similarity of two networks' representations of the same samples: two measures of activations, both from 0 to 1.

Linear CKA: Kornblith et al., "Similarity of Neural Network Representations Revisited" (ICML 2019, arXiv 1905.00414,
section 3). SVCCA: Raghu et al., "SVCCA: Singular Vector Canonical Correlation Analysis for Deep Learning Dynamics and
Interpretability" (NIPS 2017, arXiv 1706.05806).

Activations are matrices (N, p): a row a sample, a column a feature, and N samples alike in both. Neither measure
changes when features are rotated, or all scaled by one factor. SVCCA changes under no invertible map of the features
that are kept, so it needs several times more samples than features; CKA does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]

KEPT_VARIANCE = 0.99


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of centred X (N, p) and Y (N, q).

    Where one of them does not vary at all: 1 if the other does not either, else 0.

    Raises:
        ValueError: they are no matrices of the same samples.
    """
    x, y = _centred(x, y)
    # by whichever is smaller: the products of features, or those of samples
    if max(x.shape[1], y.shape[1]) <= len(x):
        across, own_x, own_y = (float(np.square(product).sum()) for product in (y.T @ x, x.T @ x, y.T @ y))
    else:
        gram_x, gram_y = x @ x.T, y @ y.T  # (N, N)
        across, own_x, own_y = (float((a * b).sum()) for a, b in ((gram_x, gram_y), (gram_x, gram_x), (gram_y, gram_y)))
    if own_x == 0 or own_y == 0:
        return float(own_x == own_y)
    return across / float(np.sqrt(own_x * own_y))


def svcca(x: ArrayLike, y: ArrayLike, kept_variance: float = KEPT_VARIANCE) -> float:
    """The mean canonical correlation of the directions in X (N, p) and Y (N, q) that hold most of their variance.

    Args:
        x: activations.
        y: others of the same samples.
        kept_variance: share of the variance that the directions kept hold together.

    Raises:
        ValueError: they are no matrices of the same samples.
    """
    x, y = _centred(x, y)
    first, second = _main_directions(x, kept_variance), _main_directions(y, kept_variance)
    if not first.shape[1] or not second.shape[1]:
        return float(first.shape[1] == second.shape[1])
    # Both bases are orthonormal, so canonical correlations are singular values of their product.
    correlations = np.linalg.svd(first.T @ second, compute_uv=False)  # (min(p', q'),)
    return float(np.clip(correlations, 0, 1).mean())


def _main_directions(x: Matrix, kept_variance: float) -> Matrix:
    """An orthonormal basis (N, p') of the leading directions of centred ``x``."""
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    variance = np.square(singular)
    if not variance.sum() > 0:
        return left[:, :0]
    shares = np.cumsum(variance) / variance.sum()
    kept = int(np.searchsorted(shares, kept_variance - 1e-12)) + 1
    directions: Matrix = left[:, :kept]
    return directions


def _centred(x: ArrayLike, y: ArrayLike) -> tuple[Matrix, Matrix]:
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"activations are (N, p) and (N, q), of the same samples, not {first.shape} and {second.shape}"
        )
    return first - first.mean(0), second - second.mean(0)
