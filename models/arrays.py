"""Names the arrays that are handed from one module to another."""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
"""One layer's value or delta, flat: its parameters, then its statistics; or another flat run of float32."""

Indices = npt.NDArray[np.int64]
"""Places of samples or elements in another array."""

Shapes = tuple[tuple[int, ...], ...]
"""The shapes of a layer's tensors, in their order."""
