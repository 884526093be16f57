"""What may shape a gradient before the optimiser has it, and by what names it is asked for; graphs: `optimisers.pulls`.

A training graph has a term only if its bundle was built with it. Nothing here needs torch or ONNX.
"""

from __future__ import annotations

from typing import NamedTuple


class GradientTerm(NamedTuple):
    """A term, and its names.

    Attributes:
        setting: of the table ``[local]``; 0 leaves the term out.
        hyperparameter: the training graph's input for it.
        argument: of `models.build.build_bundle`.
        flag: of ``lamina bundle``.
        help: for the flag.
    """

    setting: str
    hyperparameter: str
    argument: str
    flag: str
    help: str


TERMS = (
    GradientTerm("proximal", "mu", "proximal", "--proximal", "with FedProx's pull, for local.proximal"),
    GradientTerm(
        "clip_norm", "clip_norm", "clipped", "--clip", "with clipping of gradients by norm, for local.clip_norm"
    ),
)
