"""An assignment is all that a learner is made of: what to learn, from which samples, and by what means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lamina.edge_agent.session.personal import PersonalValues
from lamina.edge_agent.training.activation_cache import Element
from lamina.edge_agent.training.engine import Engine
from lamina.models.manifest import FileEntry, Manifest
from lamina.models.samples import LabelledSamples


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """One device's part in learning a model.

    Attributes:
        manifest: of the bundle.
        cut: first layer that is trained.
        path: where a file of the bundle lies.
        data: the device's samples.
        cache_folder: on the disk that is to hold activations.
        engine: that is to train.
        threads: processor cores that training may use.
        micro_batch: samples at once, where memory can't hold a batch; 0: a batch at once.
        checkpoints: whether a micro-batch's forward pass is computed again for its backward pass.
        cache_element: element type in which the input side's activations are kept on the disk.
        personal: personal layers, by their indices.
        own: their values; what the device trains of them is noted there.
        further: names of the algorithm's vectors in every layer's value (`models.further`).
        held_out: the share of the samples that is never trained on, to judge models by; 0: no model is judged.
        kept: samples that are not among ``data``, by which models are judged, too.
    """

    manifest: Manifest
    cut: int
    path: Callable[[FileEntry], Path]
    data: LabelledSamples
    cache_folder: Path
    engine: Engine
    threads: int = 1
    micro_batch: int = 0
    checkpoints: bool = False
    cache_element: Element = "float32"
    further: tuple[str, ...] = ()
    personal: tuple[int, ...] = ()
    own: PersonalValues = field(default_factory=PersonalValues)
    held_out: float = 0.0
    kept: LabelledSamples | None = None
