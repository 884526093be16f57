"""The initial values of the networks in the zoo."""

from __future__ import annotations

from torch import nn


def start_he(module: nn.Module) -> None:
    """He's normal values for kernels, which keep the variance through rectifiers; zero for biases.

    Source: He et al. 2015, "Delving deep into rectifiers", equation 10.
    """
    for part in _kernel_layers(module):
        nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        _zero_bias(part)


def start_glorot(module: nn.Module) -> None:
    """Glorot's uniform values for kernels; zero for biases.

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks",
    equation 16.
    """
    for part in _kernel_layers(module):
        nn.init.xavier_uniform_(part.weight)
        _zero_bias(part)


def _kernel_layers(module: nn.Module) -> list[nn.Conv1d | nn.Conv2d | nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Linear)]


def _zero_bias(part: nn.Conv1d | nn.Conv2d | nn.Linear) -> None:
    if part.bias is not None:
        nn.init.zeros_(part.bias)
