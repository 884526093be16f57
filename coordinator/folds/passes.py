"""The pass that adds a delta to a sum, or reads a mean from it, is chosen here: compiled, or in plain NumPy.

Both give the same bits (`folds.grid` says what a pass does). `folds.compiled` does all in one go, where numba is
installed (``pip install lamina-fl[fast]``); `folds.numpy_passes` needs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

from lamina.coordinator.folds.numpy_passes import AddPass, MeanPass, add_in_blocks, mean_in_blocks

_WORTH_LOADING = 1 << 16  # elements of a delta from which on the compiled pass is worth loading
_WORTH_LOADING_FIRST = 1 << 20  # elements that a round folds, in layers of whatever size
_COMPILED = "lamina.coordinator.folds.compiled"


def add_pass(size: int, compiled: bool | None = None) -> AddPass:
    """The pass for vectors of ``size`` elements.

    Args:
        size: of the vector.
        compiled: True and False insist; None takes the compiled one where `worth_compiling`.

    Raises:
        ImportError: numba is insisted on, and isn't installed.
    """
    if not (worth_compiling(size, _WORTH_LOADING) if compiled is None else compiled):
        return add_in_blocks
    from lamina.coordinator.folds.compiled import add_compiled  # numba takes a second to load

    return add_compiled


def mean_pass(size: int, compiled: bool | None = None) -> MeanPass:
    """The pass for vectors of ``size`` elements; ``compiled`` as in `add_pass`."""
    if not (worth_compiling(size, _WORTH_LOADING) if compiled is None else compiled):
        return mean_in_blocks
    from lamina.coordinator.folds.compiled import mean_compiled

    return mean_compiled


def worth_compiling(elements: int, worth_loading: int) -> bool:
    """Whether to take the compiled pass, which gives the same bits: once it is loaded, always.

    Until then from ``worth_loading`` elements on, where numba is installed: it takes a second and 125 MiB.
    """
    return _COMPILED in sys.modules or (elements >= worth_loading and find_spec("numba") is not None)


def load_if_worth_it(elements: int) -> None:
    """Load the compiled pass, which takes a second, before a federation that folds so many elements a round begins."""
    if worth_compiling(elements, _WORTH_LOADING_FIRST):
        import_module(_COMPILED)
