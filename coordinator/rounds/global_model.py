"""The layers' global values, and how devices come to the next ones; see `lamina.broker.wire.deltas`.

A layer's next value is what devices decode, of a delta or of a value, never what was to be sent: so nothing builds up
between them and the coordinator. What the codec of deltas loses is owed, and goes with the next delta of that layer.

While a round is open its layers move one after the other, and none of it shows: the plan's values stay what devices may
ask for, until `move` lets all of it take effect at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.broker.wire.chunks import LayerValue, pack, unpack
from lamina.broker.wire.deltas import check_of, digest_of, pack_deltas
from lamina.coordinator.settings import Wire
from lamina.models.arrays import Vector
from lamina.models.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class _Move:
    """A layer's next value, its check, and how devices come to it."""

    value: Vector
    check: int
    encoded: LayerValue


class GlobalModel:
    """Every layer's value, and what is on its way to the next one.

    Args:
        spec: of the network.
        wire: names the codecs.
        epoch: of the federation.
        values: every layer's (vector_size,), as devices decode it; kept up to date in place.
        versions: of the values.
        owed: what the codec of deltas has lost so far, by layer (vector_size,); kept up to date in place.

    Attributes:
        versions: of the values.
        checks: of the values.
    """

    def __init__(
        self,
        spec: ModelSpec,
        wire: Wire,
        epoch: int,
        values: list[Vector],
        versions: Sequence[int],
        owed: dict[int, Vector],
    ) -> None:
        self._spec, self._wire, self._epoch = spec, wire, epoch
        self._values, self._owed = values, owed
        self.versions = list(versions)
        self.checks = [check_of(value) for value in values]
        self._digests: dict[int, bytes] = {}  # of the present values, of those that were asked for
        self._moves: dict[int, _Move] = {}
        self._advance: dict[int, LayerValue] = {}  # of the last round in which a layer moved
        self._wholes: dict[int, LayerValue] = {}  # values that are no deltas' sum, but came from their codec

    @property
    def advance(self) -> list[LayerValue]:
        """What leads devices from the versions before to the present ones, layers ascending."""
        return [self._advance[layer] for layer in sorted(self._advance)]

    @property
    def digests(self) -> bytes:
        """Every layer's digest, one behind the other, as a signed plan carries them."""
        for layer, value in enumerate(self._values):
            if layer not in self._digests:
                self._digests[layer] = digest_of(value)
        return b"".join(self._digests[layer] for layer in range(len(self._values)))

    @property
    def advanced(self) -> tuple[int, ...]:
        """The layers of the advance, ascending."""
        return tuple(sorted(self._advance))

    def whole(self, layer: int, round_: int) -> LayerValue:
        """A layer's value, ready to be published in a round."""
        return self._wholes.get(layer) or self._encoded(layer, self._values[layer], self.versions[layer], round_)

    def prepare(self, exact: Mapping[int, Vector], round_: int) -> None:
        """Have layers move, when the open round ends, as near to these values (vector_size,) as their codecs get."""
        codecs = {layer: self._wire.delta_codec_of(vector.size) for layer, vector in exact.items()}
        encodings = self._by_deltas({layer: exact[layer] for layer, codec in codecs.items() if codec}, codecs, round_)
        encodings |= {
            layer: self._by_value(layer, exact[layer], round_) for layer, codec in codecs.items() if not codec
        }
        self._moves |= {layer: _Move(value, check_of(value), encoded) for layer, (encoded, value) in encodings.items()}

    def move(self) -> None:
        """Let what was prepared take effect."""
        moves, self._moves = self._moves, {}
        for layer, move in moves.items():
            self.versions[layer] += 1
            self._digests.pop(layer, None)
            self._values[layer], self.checks[layer] = move.value, move.check
            if move.encoded.purpose == "global":
                self._wholes[layer] = move.encoded
        if moves:
            self._advance = {layer: move.encoded for layer, move in moves.items()}

    def _by_deltas(
        self, exact: Mapping[int, Vector], codecs: Mapping[int, str], round_: int
    ) -> dict[int, tuple[LayerValue, Vector]]:
        """Return, by layer, a delta and what it leads to."""
        layers = list(exact)
        targets = [exact[layer] + self._owed[layer] if layer in self._owed else exact[layer] for layer in layers]
        encodings = pack_deltas(
            epoch=self._epoch,
            round=round_,
            layers=layers,
            versions=[self.versions[layer] + 1 for layer in layers],
            layer_specs=[self._spec.layers[layer] for layer in layers],
            bases=[self._values[layer] for layer in layers],
            targets=targets,
            codecs=[codecs[layer] for layer in layers],
        )
        for layer, target, (_, value) in zip(layers, targets, encodings, strict=True):
            self._owed[layer] = target - value
        return dict(zip(layers, encodings, strict=True))

    def _by_value(self, layer: int, exact: Vector, round_: int) -> tuple[LayerValue, Vector]:
        """A value, encoded, and what it is decoded to."""
        self._owed.pop(layer, None)
        encoded = self._encoded(layer, exact, self.versions[layer] + 1, round_)
        return encoded, unpack(encoded, self._spec.layers[layer])

    def _encoded(self, layer: int, vector: Vector, version: int, round_: int) -> LayerValue:
        return pack(
            "global",
            epoch=self._epoch,
            round=round_,
            layer=layer,
            version=version,
            layer_spec=self._spec.layers[layer],
            vector=vector,
            codec=self._wire.global_codec,
        )
