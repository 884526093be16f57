"""Counts what devices say from the program's start on: when last, and how many bytes, by device and by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


class Activity:
    """Counts of one coordinator, of the devices that it knows; of strangers nothing is kept.

    Args:
        layers: the names of the layers, in order.

    Attributes:
        seen_at: when each device was last heard of, in seconds of the coordinator's clock.
        device_bytes: payload bytes of updates, by device.
        layer_bytes: payload bytes of updates, by layer index.
    """

    def __init__(self, layers: Sequence[str]) -> None:
        self._index = {name: index for index, name in enumerate(layers)}
        self.seen_at: dict[str, float] = {}
        self.device_bytes: Counter[str] = Counter()
        self.layer_bytes: Counter[int] = Counter()

    def heard(self, device: str, at: float) -> None:
        """A known device has said something."""
        self.seen_at[device] = at

    def sent_chunk(self, device: str, size_bytes: int, layer: str) -> None:
        """A known device has sent a message of one layer."""
        self.device_bytes[device] += size_bytes
        if layer in self._index:
            self.layer_bytes[self._index[layer]] += size_bytes

    def sent_batch(self, device: str, size_bytes: int, layers: Mapping[int, int]) -> None:
        """A known device has sent a message of several layers.

        Args:
            device: its name.
            size_bytes: of the message.
            layers: the elements of each layer, by index; they share the bytes in proportion.
        """
        self.device_bytes[device] += size_bytes
        elements = sum(layers.values())
        for layer, share in layers.items():
            self.layer_bytes[layer] += round(size_bytes * share / elements)
