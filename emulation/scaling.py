"""Scales samples for a network, by the type of their elements.

=================  =================================================================================================
unsigned bytes     pixels: a channel axis where there is none, channels first, divided by 255, then every channel
                   shifted and scaled by the mean and the standard deviation that it has over the training set
other integers     tokens: int64, as they are
floats             float32, as they are
bool               as they are: 0 or 1 for the network
records            each of their inputs by itself
=================  =================================================================================================
"""

from __future__ import annotations

import numpy as np

from lamina.emulation.readers.raw import Array, records

_CHANNELS = (1, 3)  # grey, colour


def scale(train: Array, test: Array) -> tuple[Array, Array]:
    """Both sets, ready for a network; what is measured is measured on the training set alone."""
    if train.dtype.names:
        scaled = {name: scale(train[name], test[name]) for name in train.dtype.names}
        first, second = (records({name: both[place] for name, both in scaled.items()}) for place in (0, 1))
        return first, second
    if train.dtype == bool:
        return train, test
    if train.dtype == np.uint8:
        return _standardise(*(_pixels(x) for x in (train, test)))
    dtype = np.int64 if np.issubdtype(train.dtype, np.integer) else np.float32
    return train.astype(dtype), test.astype(dtype)


def _pixels(x: Array) -> Array:
    """Return images as float32 from 0 to 1; (N, H, W), (N, H, W, C) and (N, C, H, W) all become (N, C, H, W)."""
    if x.ndim == 3:
        x = x[:, np.newaxis]  # (N, 1, H, W)
    elif x.ndim == 4 and x.shape[1] not in _CHANNELS and x.shape[3] in _CHANNELS:
        x = x.transpose(0, 3, 1, 2)  # (N, C, H, W)
    return np.divide(x, np.float32(255), dtype=np.float32)


def _standardise(train: Array, test: Array) -> tuple[Array, Array]:
    axes = (0, 2, 3) if train.ndim == 4 else None  # each channel of an image, or all features together
    mean = train.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)  # (1, C, 1, 1)
    train, test = train - mean, test - mean
    variance = np.square(train).mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = np.sqrt(np.where(variance > 0, variance, 1)).astype(np.float32)  # a constant channel becomes 0, not nan
    return train / deviation, test / deviation
