"""What do values lose on the wire, and how many bytes do they take? The codecs, in a federation without messages.

Updates go through the device's codec, with its error feedback; new global values through the coordinator's codec of
deltas, with its own. Both are the code of the real programs (`broker.chunks`, `edge_agent.error_feedback`,
`broker.deltas`), so values lose here what they lose there, and a transfer has the bytes that it has there: those of
its messages, with the header of every chunk. What MQTT adds is for who counts it: see `Traffic`.

Nothing is lost on the way here. Small messages (plans, reports) are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from broker.chunks import LayerValue, Purpose, pack, split, unpack
from broker.codecs import codec
from broker.deltas import pack_delta
from coordinator.settings import Wire
from edge_agent.error_feedback import ErrorFeedback
from emulation.simulator.rows import Row
from models.spec import ModelSpec


@dataclass(slots=True)
class Traffic:
    """What went one way.

    Attributes:
        payload_bytes: of all messages, headers of chunks included.
        messages: that they came in; each adds MQTT's own header, and its topic.
    """

    payload_bytes: int = 0
    messages: int = 0

    def add(self, messages: Iterable[bytes]) -> None:
        """Count the messages of a transfer."""
        for message in messages:
            self.payload_bytes += len(message)
            self.messages += 1


class Crossing:
    """The wire of one simulated federation.

    Layers are independent of each other, so several may be averaged at once.

    Args:
        spec: of the network.
        wire: names the codecs.
        devices: all that may be drawn.
    """

    def __init__(self, spec: ModelSpec, wire: Wire, devices: Iterable[str]) -> None:
        self._layers = spec.layers
        self._wire = wire
        self._round = 0
        self._versions = [0] * len(spec.layers)
        self._feedback = {device: ErrorFeedback() for device in devices}
        self._held: dict[str, list[int | None]] = {device: [None] * len(spec.layers) for device in self._feedback}
        self._deltas: dict[int, list[bytes]] = {}  # of the present versions
        self._values: dict[int, list[bytes]] = {}  # as well, once somebody asked for them
        self._owed: dict[int, Row] = {}  # by the coordinator
        self._up = [Traffic() for _ in spec.layers]
        self.down = Traffic()

    @property
    def up(self) -> Traffic:
        """What devices sent."""
        return Traffic(sum(part.payload_bytes for part in self._up), sum(part.messages for part in self._up))

    def begin(self, round_: int, cohort: Iterable[str], values: Iterable[Row]) -> None:
        """A plan reaches the cohort, whose devices fetch what they lack.

        Args:
            round_: of the plan.
            cohort: of the cycle.
            values: of every layer, (vector_size,).
        """
        self._round, present = round_, list(values)
        for device in cohort:
            self._feedback[device].settle(round_, self._versions)
            for layer, version in enumerate(self._versions):
                held = self._held[device][layer]
                if held != version:
                    self.down.add(self._served(layer, held, present[layer]))
                    self._held[device][layer] = version

    def update(self, layer: int, device: str, delta: Row, weight: float) -> Row:
        """What the coordinator decodes of a device's update, (vector_size,).

        One that holds NaN or infinity never leaves its device; it comes back as it is, to be refused.
        """
        feedback, spec, version = self._feedback[device], self._layers[layer], self._versions[layer]
        wanted = feedback.wanted(layer, delta)
        if not np.isfinite(wanted).all():
            return wanted
        name = self._wire.update_codec_of(spec.vector_size)
        value = self._packed("update", layer, wanted, name, weight)
        decoded = unpack(value, spec)
        feedback.sent(layer, self._round, version, wanted - decoded if codec(name).biased else None)
        self._up[layer].add(self._messages(value))
        return decoded

    def next_value(self, layer: int, base: Row, average: Row) -> Row:
        """What devices come to for a layer's new value, (vector_size,)."""
        self._versions[layer] += 1
        self._values.pop(layer, None)
        spec = self._layers[layer]
        if not (name := self._wire.delta_codec_of(spec.vector_size)):
            value = self._packed("global", layer, average, self._wire.global_codec)
            self._values[layer] = self._messages(value)
            return unpack(value, spec)
        target = average + self._owed[layer] if layer in self._owed else average
        change, result = pack_delta(
            epoch=1, round=self._round, layer=layer, version=self._versions[layer], layer_spec=spec,
            base=base, target=target, codec=name,
        )  # fmt: skip
        self._owed[layer] = target - result
        self._deltas[layer] = self._messages(change)
        return result

    def _served(self, layer: int, held: int | None, value: Row) -> list[bytes]:
        """The messages that bring a device from the version that it holds to the present one."""
        if layer in self._deltas and held == self._versions[layer] - 1:
            return self._deltas[layer]
        if layer not in self._values:
            self._values[layer] = self._messages(self._packed("global", layer, value, self._wire.global_codec))
        return self._values[layer]

    def _packed(self, purpose: Purpose, layer: int, vector: Row, name: str, weight: float = 1.0) -> LayerValue:
        return pack(
            purpose, epoch=1, round=self._round, layer=layer, version=self._versions[layer],
            layer_spec=self._layers[layer], vector=vector, codec=name, weight=weight,
        )  # fmt: skip

    def _messages(self, value: LayerValue) -> list[bytes]:
        return split(value, self._wire.chunk_kib * 1024)
