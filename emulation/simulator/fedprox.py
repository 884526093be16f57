"""FedProx: a pull towards the global value that a device started at keeps it from running away on its own data.

Li et al., "Federated Optimization in Heterogeneous Networks" (MLSys 2020, arXiv 1812.06127, equation 2). To a device's
loss it adds mu/2 ||x - u||^2, so to its gradient

    g = g + mu (x - u)

with u the layer's last global value. It helps where devices make many steps on unlike data; mu between 0.001 and 1.
"""

from __future__ import annotations

from torch import Tensor


def pull(gradient: Tensor, local: Tensor, base: Tensor, mu: float, trained: Tensor) -> None:
    """Add the pull's gradient, in place; all are slices (n,) of a row.

    Args:
        gradient: of the loss.
        local: x.
        base: u.
        mu: how strong; 0 changes nothing.
        trained: 1 for parameters, 0 for statistics, which are not trained and not pulled.
    """
    if mu:
        gradient.addcmul_(local - base, trained, value=mu)
