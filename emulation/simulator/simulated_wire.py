"""What values lose on the wire, and how many bytes they take: the codecs, in a federation without messages.

Updates go through the device's codec, with its error feedback; new global values through the coordinator's codec of
deltas, with its own. Both are the code of the real programs (`wire.chunks`, `session.error_feedback`,
`wire.deltas`), so values lose here what they lose there, and a transfer has the bytes that it has there: those of
its messages, batches included, with the header of every chunk. What MQTT adds is for who counts it: see `Traffic`.

Nothing is lost on the way here. Small messages (plans, requests, reports) are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lamina.broker.wire import batches
from lamina.broker.wire.chunks import LayerValue, Purpose, pack, split, unpack
from lamina.broker.wire.codecs import codec
from lamina.broker.wire.deltas import pack_deltas
from lamina.coordinator.settings import Wire
from lamina.edge_agent.session.error_feedback import ErrorFeedback
from lamina.emulation.simulator.rows import Row
from lamina.models.spec import ModelSpec


@dataclass(slots=True)
class Traffic:
    """What went one way.

    Attributes:
        payload_bytes: of all messages, headers of chunks included.
        messages: that they came in; each adds MQTT's own header, and its topic.
    """

    payload_bytes: int = 0
    messages: int = 0

    def add(self, lengths: Iterable[int]) -> None:
        """Count messages of so many bytes."""
        for length in lengths:
            self.payload_bytes += length
            self.messages += 1


class SimulatedWire:
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
        self._moves: dict[int, list[int]] = {}  # layers that moved in this round, and the lengths of their messages
        self._advance: dict[int, list[int]] = {}  # of the last round in which one moved
        self._subscribed: set[str] = set()  # devices, to the advance
        self._values: dict[int, list[int]] = {}  # of the present versions, once somebody asked for them
        self._owed: dict[int, Row] = {}  # by the coordinator
        self._sent: list[dict[str, list[int]]] = [{} for _ in spec.layers]  # in this round, by device
        self._up = Traffic()
        self.down = Traffic()

    @property
    def up(self) -> Traffic:
        """What devices sent."""
        self._count_sent()
        return self._up

    def begin(self, round_: int, cohort: Iterable[str], values: Iterable[Row]) -> None:
        """A plan reaches the cohort, whose devices fetch what they lack.

        Args:
            round_: of the plan.
            cohort: of the cycle.
            values: of every layer, (vector_size,).
        """
        self._count_sent()
        self._round, present, cohort = round_, list(values), sorted(cohort)
        if self._moves:
            self._advance, self._moves = self._moves, {}
            for _ in self._subscribed:  # those that leave the cohort hear of it with the advance
                self.down.add(self._batched(self._advance.values()))
        self._subscribed &= set(cohort)
        for device in cohort:
            self._feedback[device].settle(round_, self._versions)
            self._fetch(device, present)

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
        self._sent[layer][device] = self._lengths(value)
        return decoded

    def next_value(self, layer: int, base: Row, average: Row) -> Row:
        """What devices come to for a layer's new value, (vector_size,)."""
        self._versions[layer] += 1
        self._values.pop(layer, None)
        spec = self._layers[layer]
        if not (name := self._wire.delta_codec_of(spec.vector_size)):
            value = self._packed("global", layer, average, self._wire.global_codec)
            self._moves[layer] = self._values[layer] = self._lengths(value)
            return unpack(value, spec)
        target = average + self._owed[layer] if layer in self._owed else average
        [(change, result)] = pack_deltas(
            epoch=1, round=self._round, layers=[layer], versions=[self._versions[layer]], layer_specs=[spec],
            bases=[base], targets=[target], codecs=[name],
        )  # fmt: skip
        self._owed[layer] = target - result
        self._moves[layer] = self._lengths(change)
        return result

    def _count_sent(self) -> None:
        """Layers of one device share messages, so this is done when all of a round are known."""
        for device in sorted({device for sent in self._sent for device in sent}):
            self._up.add(self._batched(sent[device] for sent in self._sent if device in sent))
        for sent in self._sent:
            sent.clear()

    def _fetch(self, device: str, present: Sequence[Row]) -> None:
        """What a device takes, of the last advance and of the values, until it has the present versions."""
        held, advances = self._held[device], False
        for layer, version in enumerate(self._versions):
            if held[layer] == version:
                continue
            if layer in self._advance and held[layer] == version - 1:
                advances = True
            else:
                self.down.add(self._whole(layer, present[layer]))
            held[layer] = version
        if advances and device not in self._subscribed:
            self._subscribed.add(device)
            self.down.add(self._batched(self._advance.values()))

    def _whole(self, layer: int, value: Row) -> list[int]:
        if layer not in self._values:
            self._values[layer] = self._lengths(self._packed("global", layer, value, self._wire.global_codec))
        return self._values[layer]

    def _batched(self, transfers: Iterable[list[int]]) -> list[int]:
        """The lengths of messages, once several transfers share one where they fit."""
        lengths = [length for transfer in transfers for length in transfer]
        if not self._wire.batched:
            return lengths
        shared = [lengths[part] for part in batches.parts(lengths, self._wire.chunk_bytes)]
        return [part[0] if len(part) == 1 else batches.size_of(part) for part in shared]

    def _packed(self, purpose: Purpose, layer: int, vector: Row, name: str, weight: float = 1.0) -> LayerValue:
        return pack(
            purpose, epoch=1, round=self._round, layer=layer, version=self._versions[layer],
            layer_spec=self._layers[layer], vector=vector, codec=name, weight=weight,
        )  # fmt: skip

    def _lengths(self, value: LayerValue) -> list[int]:
        return [len(message) for message in split(value, self._wire.chunk_bytes)]
