"""What the author of a network is told to write instead of what can't become a graph."""

from __future__ import annotations

ON_VALUES = (
    "what it does depends on the values of a tensor, and a graph has no branches: write torch.where(condition, a, b), "
    "or a mask, in place of `if`, `while`, float(), bool(), .item() and results that are as long as values say"
)
ON_BATCH = (
    "it works for one batch size only, and devices train with others: don't write the batch size as a number or let a "
    "decision depend on it, and keep the samples in dimension 0: x.flatten(1) or x.reshape(x.shape[0], -1), not len(x)"
)
NUMPY = "what NumPy computes can't be traced: compute with torch"

# Operators whose result is a number of Python's, or as long as values say.
OF_VALUES = (
    *("_local_scalar_dense", "_unique", "_unique2", "item", "masked_select", "nonzero", "repeat_interleave"),
    *("unique_consecutive", "unique_dim", "bincount", "histc"),
)
