"""Draws the plots of docs/explanation: python -m scripts.documents.plots RUN, where RUN is what `lamina emulate` left.

The plots of FedLAMA are those of the run; that of EmbracingFL is drawn from ResNet20 itself.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from matplotlib.figure import Figure

from lamina.models.capacity import capacity
from lamina.models.definition import load_definition
from lamina.models.layout import derive_spec

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
_BATCH = 32


def main(run: Path) -> None:
    """Draw them all."""
    IMAGES.mkdir(exist_ok=True)
    for name in ("crossing", "intervals"):
        [found] = run.rglob(f"{name}.png")
        shutil.copy(found, IMAGES / f"fedlama-{name}.png")
    draw_capacities().savefig(IMAGES / "embracingfl-capacity.png", dpi=110)


def draw_capacities() -> Figure:
    """What a device keeps of ResNet20 that trains from a block on: parameters, activations, and the paper's ratio."""
    spec = derive_spec(load_definition("resnet20"))
    kept = [(spec.layers[cut].name, capacity(spec, cut, _BATCH)) for cut in spec.cuts]
    whole = kept[0][1]
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(kept))
    for label, shares, style in (
        ("parameters", [one.parameters / whole.parameters for _, one in kept], "-s"),
        ("activations", [one.activations / whole.activations for _, one in kept], "-o"),
        ("capacity (both)", [one.ratio for _, one in kept], "--^"),
    ):
        axes.plot(places, shares, style, label=label)
    axes.set_xticks(list(places), [name for name, _ in kept], rotation=40, ha="right")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("first layer that is trained")
    axes.set_ylabel("share of the whole network")
    axes.set_title(f"ResNet20, batches of {_BATCH}")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))
