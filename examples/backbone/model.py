"""A convolutional backbone, pretrained and frozen, with a head that the federation trains."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

VALUES = Path(__file__).with_name("values.safetensors")


class Frozen(nn.Sequential):
    """Layers that nobody trains. They stay in inference mode, so their norms and dropout never change."""

    def train(self, mode: bool = True) -> Frozen:
        """Be in inference mode, whatever is asked for."""
        super().train(False)
        return self


class BackboneClassifier(nn.Module):
    """A frozen backbone and a head, for 8x8 grey images."""

    input_shape, classes = (1, 8, 8), 5

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Frozen(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 5) of pixels between 0 and 1."""
        return self.head(self.backbone(x))  # type: ignore[no-any-return]  # torch's modules return Any


def build() -> BackboneClassifier:
    """The network, with its pretrained values where `../pretrain.py` has made them."""
    module = BackboneClassifier()
    module.backbone.requires_grad_(False)
    if VALUES.exists():
        module.load_state_dict(load_file(VALUES))
    return module
