"""Reads the handwritten digits of scikit-learn: 1,797 of them, 8x8, with no file to fetch.

Source: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI).
"""

from __future__ import annotations

import numpy as np

from lamina.emulation.readers.raw import Raw, Samples

_LARGEST = 16.0  # pixels count the set bits of 4x4 tiles


def read_digits() -> Raw:
    """All digits: x (1797, 1, 8, 8) float32 from 0 to 1, y (1797,)."""
    from sklearn.datasets import load_digits  # takes a second to import, which only this data set should cost

    x, y = load_digits(return_X_y=True)
    return Raw(Samples((x / _LARGEST).astype(np.float32).reshape(-1, 1, 8, 8), y), classes=10)


def read_digit_tokens() -> Raw:
    """The same digits as texts: x (1797, 64) int64, a token a pixel, row by row; the token is its value, 0 to 16.

    A stand-in for texts where there is no file to fetch: a network that reads them in order, such as an LSTM, has to
    make out the digit from 64 tokens of 17 kinds. (Pixel by pixel, as in Le, Jaitly and Hinton, arXiv 1504.00941.)
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return Raw(Samples(x.astype(np.int64), y), classes=10)
