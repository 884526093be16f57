"""The manifest of a bundle: the model's spec, its graphs per cut, and what each costs.

A bundle is a folder of files named by their SHA-256, and ``manifest.json``, whose own digest names the bundle.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Annotated, Literal

import msgspec

from lamina.models.metrics import ACCURACY, MetricSpec
from lamina.models.spec import ModelSpec

FORMAT = 1

ONNXRUNTIME = "onnxruntime"
"""The engine that every device has; its graphs consist of standard operators, and run on any ONNX engine."""

ONNXRUNTIME_TRAINING = "onnxruntime-training"
"""ONNX Runtime's training build, with operators of its own for gradients; for x86-64 Linux and macOS only."""

ENGINES = (ONNXRUNTIME, ONNXRUNTIME_TRAINING)


PARALLEL = "parallel"
"""The form of a training graph for several threads; its operators are standard ones."""

EXTERNAL_LOCATION = "values"
"""The file that a graph names for a value which is in no file: it is given when a session is made."""

BLOCKS = {"blocked8": 8, "blocked16": 16}
"""Forms for processors whose registers hold so many channels: see `lamina.models.graph.rules.blocked`."""


class FileEntry(msgspec.Struct, frozen=True):
    """One file of a bundle. A manifest may come from the network, so decoding one takes no other names than these.

    Attributes:
        sha256: hex digest of its content, and its name in the bundle's folder (with ``suffix``).
        size_bytes: its length.
        suffix: ``.onnx`` or ``.safetensors``.
    """

    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]
    suffix: Literal[".onnx", ".safetensors"]

    @property
    def file_name(self) -> str:
        """Name in the bundle's folder."""
        return self.sha256 + self.suffix


class Metrics(msgspec.Struct, frozen=True):
    """A bundle's metrics.

    Attributes:
        graph: from the outputs of the inference graph, by its names, and ``y``, to ``sums`` and ``counts``.
        figures: the metrics in the order of their stretches; the first is the loss.
        judge: name of that one by which the best model is chosen.
    """

    graph: FileEntry
    figures: tuple[MetricSpec, ...]
    judge: str

    @property
    def size(self) -> int:
        """Elements of sums, and of counts."""
        return sum(figure.size for figure in self.figures)

    def named_at(self, place: int) -> str:
        """Name of the metric whose stretch has this place."""
        stops = accumulate(figure.size for figure in self.figures)
        return next(figure.name for figure, stop in zip(self.figures, stops, strict=True) if stop > place)

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower value is the better one, of the figure by which the best model is chosen."""
        return next((one.better == "lower" for one in self.figures if one.name == self.judge), False)


class Piece(msgspec.Struct, frozen=True):
    """A part of the frozen input side, run forward only: blocks ``[first_block, stop_block)``.

    Its parameters and statistics are external initialisers, named as in the spec; they are given at session creation.
    Graph input ``x`` (N, ...), graph output ``boundary`` (N, ...).
    """

    first_block: int
    stop_block: int
    graph: FileEntry


class Cost(msgspec.Struct, frozen=True):
    """The memory that training a sub-model takes above the idle runtime, predicted (see `lamina.models.peaks`).

    Attributes:
        resident_mib: all the time.
        transient_mib: now and then, on top.
        arena: for a step, on top, by the samples in it: ascending pairs (samples, MiB).
    """

    resident_mib: float
    transient_mib: float
    arena: tuple[tuple[int, float], ...]

    def peak_mib(self, samples: int) -> float:
        """The peak with so many samples in memory at once."""
        return self.resident_mib + self.transient_mib + self._arena_mib(samples)

    def _arena_mib(self, samples: int) -> float:
        """Interpolate the arena on the straight line through the two points around it, or the last two."""
        if len(self.arena) < 2:
            return self.arena[0][1] if self.arena else 0.0
        at = next((at for at, (known, _) in enumerate(self.arena) if known >= samples), len(self.arena) - 1)
        (before, low), (after, high) = self.arena[max(at, 1) - 1 : max(at, 1) + 1]
        return low + (high - low) * (samples - before) / (after - before)


class GraphsOfEngine(msgspec.Struct, frozen=True):
    """The graphs of a sub-model that are different for an engine with operators of its own, or in another form.

    Attributes:
        graph: the training-step graph.
        accumulating: the graph of a micro-batch.
        cost: as the sub-model's, of the step in another form; ``None`` where it can't be told.
        cost_in_parts: the same of a step in micro-batches.
    """

    graph: FileEntry
    accumulating: FileEntry
    cost: Cost | None = None
    cost_in_parts: Cost | None = None


class SubModel(msgspec.Struct, frozen=True):
    """What a device trains from a cut onwards.

    The training graph's inputs: ``x`` (N, ...) the activation at the cut, ``y`` (N, ...) the targets, the 0-d float32
    hyperparameters named in the manifest, ``anchor`` where it is anchored, and the resident vectors: ``parameters``,
    ``statistics`` (absent where the sub-model has none), and the optimiser's state. Outputs: ``loss`` (mean over the
    batch) and ``correct`` (count, int64; 0 where no sample is right or wrong), both 0-d, and each resident vector's
    next value, ``<name>_next``. Where there are large tensors, the parameters and the optimiser's vectors come in
    segments (`lamina.models.segments`).

    A batch that memory can't hold is trained in parts. The accumulating graph takes a micro-batch: inputs ``x``, ``y``,
    ``share`` (0-d float32, its part of the batch), ``seed`` where the manifest names it, ``parameters``,
    ``statistics``, and ``gradients``, the sum so far; outputs ``loss``, ``correct``, ``statistics_next`` and
    ``gradients_next``. The updating graph then takes the step's other inputs, and ``gradients``.

    Attributes:
        cut: index of the first layer that is trained.
        graph: the training-step graph.
        parameters: trainable parameters kept (the paper's p).
        activations: the paper's a, at the manifest's batch size.
        capacity: (p + a) over that of the whole model.
        peak_mib: measured peak of memory above the idle runtime, session and resident vectors included,
            at the manifest's batch size, with the frozen input side run first.
        accumulating: the graph of a micro-batch; ``None`` where the bundle has none.
        updating: the optimiser's graph, which goes with it.
        of_engines: what is different for other engines than ``onnxruntime``, by the engine's name, if the bundle was
            built for them.
        cost: memory that the whole step takes, predicted; ``None`` in a bundle that does not say.
        cost_in_parts: the same of a step in micro-batches.
        recomputing: as ``accumulating``, with activations that are computed twice; ``None`` where that saves nothing.
        cost_recomputing: the same of a step with it.
        forms: the same two graphs written otherwise, faster on some boards, by the form's name (`PARALLEL`, `BLOCKS`).
            They compute the same up to rounding. A form that would make no difference is left out.
    """

    cut: int
    graph: FileEntry
    parameters: int
    activations: int
    capacity: float
    peak_mib: float
    accumulating: FileEntry | None = None
    updating: FileEntry | None = None
    of_engines: dict[str, GraphsOfEngine] = {}
    cost: Cost | None = None
    cost_in_parts: Cost | None = None
    recomputing: FileEntry | None = None
    cost_recomputing: Cost | None = None
    forms: dict[str, GraphsOfEngine] = {}

    def on(self, engine: str) -> SubModel:
        """The same with the graphs for ``engine``, where it has some."""
        return self._with(self.of_engines.get(engine))

    def written(self, form: str) -> SubModel:
        """The same with the graphs of ``form``, where it has some."""
        return self._with(self.forms.get(form))

    def _with(self, own: GraphsOfEngine | None) -> SubModel:
        return self if own is None else msgspec.structs.replace(self, graph=own.graph, accumulating=own.accumulating)


class Manifest(msgspec.Struct, frozen=True):
    """A bundle, read aloud.

    Attributes:
        spec: the model.
        batch_size: samples a step, for which peaks were measured.
        sub_models: one for each cut of the spec, in the same order.
        pieces: the frozen input sides, one for each of the spec's `spans`: a frozen backbone's, if there is one, and
            then from each cut to the next.
        inference: the whole network in inference mode, ``x`` to ``logits``; its values are external initialisers.
        values: initial values of every tensor, safetensors.
        optimiser: name of the optimiser inside the training graphs.
        optimiser_state: names of its resident vectors, each as long as ``parameters``.
        hyperparameters: names of the 0-d inputs, with defaults; ``lr`` is always there.
        optimiser_scalars: names of the optimiser's resident vectors of one element.
        anchored: whether the optimiser takes ``anchor``, the parameters that the round began from, as long as
            ``parameters``.
        constants: the frozen tensors that graphs read from this file, which has to lie beside them; safetensors.
        unread: all else that the module's state dictionary holds, and no graph reads; safetensors.
        aliases: further names of tensors in the state dictionary, by which a module knows one twice.
        transient: names in ``constants`` that the state dictionary lacks.
        metrics: what the model is judged by; left out: the share of samples whose class is the largest output.
        format: version of this structure.
    """

    spec: ModelSpec
    batch_size: int
    sub_models: tuple[SubModel, ...]
    pieces: tuple[Piece, ...]
    inference: FileEntry
    values: FileEntry
    optimiser: str
    optimiser_state: tuple[str, ...]
    hyperparameters: dict[str, float]
    optimiser_scalars: tuple[str, ...] = ()
    anchored: bool = False
    constants: FileEntry | None = None
    unread: FileEntry | None = None
    aliases: dict[str, str] = {}
    transient: tuple[str, ...] = ()
    metrics: Metrics | msgspec.UnsetType = msgspec.UNSET
    format: int = FORMAT

    @property
    def judge(self) -> str:
        """Name of the figure by which the best model is chosen."""
        return self.metrics.judge if self.metrics else ACCURACY

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower one of these is the better one."""
        return self.metrics.lower_is_better if self.metrics else False

    @property
    def figure_names(self) -> tuple[str, ...]:
        """Names of the metrics besides accuracy."""
        return tuple(one.name for one in self.metrics.figures if one.name != ACCURACY) if self.metrics else ()

    def sub_model(self, cut: int) -> SubModel:
        """The sub-model trained from layer ``cut`` onwards (KeyError where there is none)."""
        for sub_model in self.sub_models:
            if sub_model.cut == cut:
                return sub_model
        raise KeyError(cut)

    def pieces_before(self, cut: int) -> tuple[Piece, ...]:
        """The forward-only pieces whose outputs lead from a sample to the activation at ``cut``."""
        block = self.spec.block_at(cut)
        return tuple(piece for piece in self.pieces if piece.stop_block <= block)
