"""Error feedback: what a biased codec lost of a device's updates, to be sent with the next ones.

A biased codec (`wire.codecs`) loses the same part of the same update again and again, so a model trained with it
stops short, or astray. Error feedback (Seide et al., 2014; Karimireddy et al., arXiv 1901.09847) keeps what was lost:

    wanted = delta + owed        what should reach the global value
    sent   = decode(encode(wanted))
    owed   = wanted - sent       once the update is known to be folded

kept for each layer alone. What holds at all times, whatever is lost or repeated, is

    (sum of what was folded) + owed = (sum of the deltas of the rounds that were folded)

A round whose update was not folded is therefore forgotten as a whole, as it is without any codec: the device trains on
from the global value, which knows nothing of it. So ``owed`` may only move when it is known what became of an update.

| what happens                                              | ``owed`` of the layer                                |
| --------------------------------------------------------- | ---------------------------------------------------- |
| it is not due (relaxed for a cycle), or not trained       | stays: nothing was sent                              |
| its update goes out                                       | stays, until a later round's plan tells the outcome  |
| ... and again, after the link was lost                    | stays; the same delta and ``owed`` give the same bytes |
| the plan: its version moved                               | what the codec lost of the update                    |
| the plan: its version stands, or the update is named as   |                                                      |
| one not folded (late, lost or refused)                    | stays: the round is lost                             |
| a round diverged, or was abandoned                        | stays: nothing was sent                              |
| rounds were missed, another cohort trained, the device    |                                                      |
| begins afresh from the global values                      | stays: it is owed to the global value, not the drift |
| the codec of the layer is no longer biased                | goes out with the next update; nothing is left       |
| the plans go back (the coordinator lost rounds)           | zero, for all layers: what it was owed to is gone    |
| another epoch, bundle or cut; a start without saved state | zero                                                 |

One outcome can't be known: a plan names the updates that the round just before it did not fold. A device that hears of
an older one of its rounds only by the version takes its update for folded. If it was not, ``sent`` is lost, once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lamina.models.arrays import Vector


@dataclass(frozen=True, slots=True, eq=False)
class _Sent:
    """An update whose outcome isn't known: of which round, based on which version, and what the codec lost of it."""

    round: int
    version: int
    lost: Vector | None


class ErrorFeedback:
    """What a device owes, by layer. Memory: two vectors for each layer whose codec is biased."""

    def __init__(self) -> None:
        self._owed: dict[int, Vector] = {}
        self._sent: dict[int, _Sent] = {}
        self._settled = -1  # the last round whose plan was heard

    def wanted(self, layer: int, delta: Vector) -> Vector:
        """What should reach the global value, now that training has made ``delta`` (n,) of the layer."""
        owed = self._owed.get(layer)
        return delta if owed is None else delta + owed

    def sent(self, layer: int, round_: int, version: int, lost: Vector | None) -> None:
        """An update has been encoded, to be sent; the same one again changes nothing.

        Args:
            layer: its index.
            round_: of the plan that it belongs to. One that is past already (the delivery was void) is passed over.
            version: that it is based on.
            lost: what was wanted minus what will be decoded, (n,); ``None`` where the codec is not biased.
        """
        if round_ >= self._settled:
            self._sent[layer] = _Sent(round_, version, lost)

    def settle(self, round_: int, versions: Sequence[int], unfolded: Collection[int] = ()) -> None:
        """Learn from a plan what became of the updates before it. The same plan again changes nothing.

        Args:
            round_: of the plan.
            versions: of every layer at its start.
            unfolded: layers due in the round before, whose update by this device was not folded.
        """
        if round_ < self._settled or any(versions[layer] < sent.version for layer, sent in self._sent.items()):
            self.forget()
        self._settled = round_
        for layer, sent in [(layer, sent) for layer, sent in self._sent.items() if sent.round < round_]:
            del self._sent[layer]
            if versions[layer] > sent.version and not (sent.round == round_ - 1 and layer in unfolded):
                self._owe(layer, sent.lost)

    def forget(self) -> None:
        """Owe nothing."""
        self._owed.clear()
        self._sent.clear()

    def vectors(self, biased: Iterable[int], due: Collection[int], sizes: Sequence[int]) -> dict[str, Vector]:
        """What is to be saved when a round's updates are out, by name and in place.

        Args:
            biased: layers trained here whose codec is biased.
            due: layers whose updates went out.
            sizes: length of every layer's vector.
        """
        vectors = {}
        for layer in biased:
            vectors[f"owed.{layer}"] = self._owed.get(layer, np.zeros(sizes[layer], np.float32))
            if layer in due:
                sent = self._sent.get(layer)
                lost = None if sent is None else sent.lost
                vectors[f"lost.{layer}"] = np.zeros(sizes[layer], np.float32) if lost is None else lost
        return vectors

    def restore(self, vectors: Mapping[str, Vector], round_: int, versions: Sequence[int]) -> None:
        """Go on from what `vectors` gave after that round, which was based on these versions."""
        self.forget()
        self._settled = round_
        for name, vector in vectors.items():
            kind, layer = name.split(".")
            if kind == "owed":
                self._owed[int(layer)] = vector
            else:
                self._sent[int(layer)] = _Sent(round_, versions[int(layer)], vector)

    def _owe(self, layer: int, lost: Vector | None) -> None:
        if lost is None:
            self._owed.pop(layer, None)
        else:
            self._owed[layer] = lost
