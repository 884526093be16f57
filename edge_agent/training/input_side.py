"""Brings samples to the cut on a board that could not hold the whole network, piece by piece.

The frozen layers before the cut are run forward only. For all distinct samples that a round visits,

    samples ──piece 1──► file ──piece 2──► ... ──piece k──► file, which training reads

each piece is loaded, run in micro-batches and freed before the next one is loaded, so that memory holds one piece and
one micro-batch. As the layers are frozen, their norms in inference mode, the result is that of one forward pass.

What was computed stays on disk while the frozen values stay the same: a round computes only samples that none before
it has visited. A frozen backbone is the piece before the first layer, and its values never change: where it alone is
run, each sample is computed once.

Source: the multi-step forward of EmbracingFL, layer-wise partial training for unequal devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.edge_agent.training.activation_cache import ActivationCache, ActivationCacheFull, Element, Rows
from lamina.edge_agent.training.engine import Engine
from lamina.models.arrays import Indices
from lamina.models.manifest import Piece
from lamina.models.samples import LabelledSamples
from lamina.models.spec import ModelSpec

MICRO_BATCH = 8  # samples at once: a quarter of the memory that 32 take, for a few per cent of time

Stop = Callable[[], bool]
"""Whether to leave off, asked between micro-batches and between steps."""

_NOT_THERE = -1
_Pieces = Sequence[tuple[Piece, Path]]


class InputSide:
    """The frozen layers before a cut, and what they made of the samples so far.

    Args:
        spec: the model.
        pieces: from the samples to the cut, each with its graph's file; one at least.
        data: the device's samples.
        folder: on the disk that is to hold the activations.
        engine: that is to run the pieces.
        threads: processor cores that it may use.
        micro_batch: samples at once.
        element: in which activations are kept.

    Raises:
        ConfigError: the folder can't be written to.
    """

    def __init__(
        self,
        spec: ModelSpec,
        pieces: _Pieces,
        data: LabelledSamples,
        folder: Path,
        engine: Engine,
        *,
        threads: int = 1,
        micro_batch: int = MICRO_BATCH,
        element: Element = "float32",
    ) -> None:
        self._spec = spec
        self._pieces = tuple(pieces)
        self._data = data
        self._folder = folder
        self._engine = engine
        self._threads = threads
        self._micro_batch = micro_batch
        self._element = element
        self._places = np.full(len(data), _NOT_THERE, np.int64)  # (N,) each sample's row in the cache
        self._cache = self._cache_after(self._pieces[-1][0])

    def compute(self, samples: Indices, values: Mapping[str, Rows], stop: Stop = lambda: False) -> bool:
        """Have the activations of these samples ready.

        Args:
            samples: (M,), with or without repeats.
            values: the frozen layers' tensors by name; others may be among them.
            stop: asked between micro-batches.

        Returns:
            Whether they are all ready: not where ``stop`` said so.

        Raises:
            ActivationCacheFull: the disk has no room for them, not even for them alone.
        """
        try:
            return self._compute(samples, values, stop)
        except ActivationCacheFull:
            self.forget()  # it may be what earlier rounds left that fills it
            return self._compute(samples, values, stop)

    def activations(self, samples: Indices) -> Rows:
        """What enters the cut for these samples (B,), all of them computed: (B, ...)."""
        return self._cache.read(self._places[samples])

    def forget(self) -> None:
        """Drop all activations, because a frozen value has changed."""
        self._places[...] = _NOT_THERE
        self._cache.clear()

    def use(self, data: LabelledSamples) -> None:
        """Take other samples, whose activations are all still to be computed."""
        self.forget()
        self._data = data
        self._places = np.full(len(data), _NOT_THERE, np.int64)

    def close(self) -> None:
        """Give the disk's room back."""
        self._cache.close()

    def _compute(self, samples: Indices, values: Mapping[str, Rows], stop: Stop) -> bool:
        missing = np.unique(samples[self._places[samples] == _NOT_THERE])  # (M,) ascending
        start = len(self._cache)
        try:
            return not len(missing) or self._fill(self._cache, self._pieces, missing, values, stop)
        finally:  # what is done stays done, though it was stopped
            done = len(self._cache) - start
            self._places[missing[:done]] = start + np.arange(done)

    def _fill(
        self, target: ActivationCache, pieces: _Pieces, samples: Indices, values: Mapping[str, Rows], stop: Stop
    ) -> bool:
        """Append to ``target`` what the last of the pieces makes of these samples, from the first one on."""
        *earlier, last = pieces
        if not earlier:
            return self._run(
                last,
                lambda rows: self._data.inputs(samples[rows], self._spec),
                len(samples),
                target,
                values,
                stop,
            )
        with self._cache_after(earlier[-1][0]) as before:
            return self._fill(before, earlier, samples, values, stop) and self._run(
                last, before.read, len(samples), target, values, stop
            )

    def _run(
        self,
        piece: tuple[Piece, Path],
        read: Callable[[Indices], NDArray[Any]],
        count: int,
        target: ActivationCache,
        values: Mapping[str, Rows],
        stop: Stop,
    ) -> bool:
        """Append to ``target`` what one piece makes of the rows 0 to ``count`` that ``read`` gives."""
        forward = self._engine.forward(piece[1], self._values_of(piece[0], values), threads=self._threads)
        for first in range(0, count, self._micro_batch):
            if stop():
                return False
            target.append(forward(read(np.arange(first, min(first + self._micro_batch, count)))))
        return True

    def _values_of(self, piece: Piece, values: Mapping[str, Rows]) -> dict[str, Rows]:
        """What a piece's graph asks for: every tensor of its layers."""
        blocks = self._spec.blocks[piece.first_block : piece.stop_block]
        layers = self._spec.layers[blocks[0].first : blocks[-1].stop]
        return {
            tensor.name: values[tensor.name] for layer in layers for tensor in (*layer.parameters, *layer.statistics)
        }

    def _cache_after(self, piece: Piece) -> ActivationCache:
        """An empty cache for the activations that leave a piece."""
        return ActivationCache(self._folder, self._spec.blocks[piece.stop_block].input_shape, self._element)
