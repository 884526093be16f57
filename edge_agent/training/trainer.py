"""Takes training steps with ONNX Runtime. It is the one file that imports onnxruntime.

A bundle's training graph computes forward, loss, backward and optimiser, with standard operators only. What it changes
are its *resident vectors*: the parameters, the statistics and the optimiser's state, each a graph input, with its next
value an output. They live here in two sets of numpy arrays that the engine reads and writes in place:

    step 1:  set A ──graph──► set B
    step 2:  set B ──graph──► set A

so a step copies none of them. The frozen pieces of the input side are plain forward graphs: `FrozenForward`.

The learner does not import this file: it knows the engine by the seam in `lamina.edge_agent.training.engine`. An agent
loads it, and with it ONNX Runtime, when it is given its first task (`lamina.edge_agent.training.onnx_runtime`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from lamina.edge_agent.training.engine import StepResult
from lamina.edge_agent.training.installed import engine_name
from lamina.models.arrays import Vector
from lamina.models.engine_facts import LOAD_ERRORS, REORDERING
from lamina.models.errors import ModelError, first_line
from lamina.models.manifest import Manifest
from lamina.models.segments import names_of, sizes_of, spread, vector_of

_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3  # of the log: what the graph optimiser warns of says nothing to an operator
Arrays = dict[str, NDArray[Any]]


class _Resident:
    """The resident vectors of a sub-model, in two sets, and the scalars that go into its graphs.

    Args:
        manifest: of the bundle.
        cut: first layer to train.
    """

    def __init__(self, manifest: Manifest, cut: int) -> None:
        spec = manifest.spec
        size = spec.size - spec.parameter_offsets[cut]
        statistics_size = spec.statistics_offsets[-1] - spec.statistics_offsets[cut]
        self._optimiser_sizes = dict.fromkeys(manifest.optimiser_state, size)
        self._optimiser_sizes |= dict.fromkeys(manifest.optimiser_scalars, 1)
        self._sizes = {"parameters": size} | self._optimiser_sizes
        if statistics_size:
            self._sizes["statistics"] = statistics_size
        self._defaults = manifest.hyperparameters
        self._hyperparameters = {name: np.array(value, np.float32) for name, value in self._defaults.items()}  # 0-d
        self._loss, self._correct = np.zeros((), np.float32), np.zeros((), np.int64)
        self._no_statistics = np.zeros(0, np.float32)
        self._vectors = {name: np.zeros(length, np.float32) for name, length in self._sizes.items()}
        self._spare = {name: np.zeros(length, np.float32) for name, length in self._sizes.items()}
        self._anchor = {"anchor": np.zeros(size, np.float32)} if manifest.anchored else {}

    @property
    def anchor(self) -> Vector | None:
        """What FedProx pulls towards, (P,), to write; ``None`` where the graph has no such term."""
        return self._anchor.get("anchor")

    @property
    def parameters(self) -> Vector:
        """The trained layers' parameters now, (P,): to read and write; the next step leaves this array behind."""
        return self._vectors["parameters"]

    @property
    def statistics(self) -> Vector:
        """The trained layers' statistics now, (S,), perhaps empty: as `parameters`."""
        return self._vectors.get("statistics", self._no_statistics)

    @property
    def vectors(self) -> dict[str, Vector]:
        """All resident vectors now, by name: as `parameters`."""
        return dict(self._vectors)

    @property
    def optimiser_state(self) -> dict[str, Vector]:
        """The optimiser's vectors now, by name, each (P,) or (1,): as `parameters`."""
        return {name: self._vectors[name] for name in self._optimiser_sizes}

    def _set(self, hyperparameters: Mapping[str, float]) -> None:
        if unknown := sorted(hyperparameters.keys() - self._defaults.keys()):
            known = ", ".join(sorted(self._defaults))
            raise ModelError(f"the training graph has no hyperparameter {unknown[0]!r}; it has {known}")
        for name, place in self._hyperparameters.items():
            place[...] = hyperparameters.get(name, self._defaults[name])


class Trainer(_Resident):
    """Trains the layers from a cut onwards, one step a call.

    Args:
        manifest: of the bundle.
        cut: first layer to train.
        graph: the cut's training graph.
        threads: processor cores that a step may use.
        spinning: see `lamina.edge_agent.training.engine.ExecutionMode`.

    Raises:
        ModelError: the graph can't be loaded, or is not what the manifest says.
    """

    def __init__(self, manifest: Manifest, cut: int, graph: Path, *, threads: int = 1, spinning: bool = False) -> None:
        super().__init__(manifest, cut)
        self._session = _open(graph, threads, spinning=spinning)
        sizes = self._sizes | {name: len(vector) for name, vector in self._anchor.items()}
        _check(self._session, graph, {"x", "y", *self._defaults}, sizes, {"loss", "correct", *map(_next, self._sizes)})
        self._binding = self._bound(self._vectors, self._spare)
        self._spare_binding = self._bound(self._spare, self._vectors)

    def step(self, x: NDArray[Any], y: NDArray[Any], hyperparameters: Mapping[str, float]) -> StepResult:
        """One step of the optimiser on one batch.

        Args:
            x: (B, ...) the activations at the cut, or the samples, C-contiguous; any B.
            y: (B, ...) targets, as the task takes them.
            hyperparameters: the graph's, by name; those not named take their default.

        Raises:
            ModelError: the graph lacks a hyperparameter of that name.
            ValueError: the batch does not fit the graph.
        """
        self._set(hyperparameters)
        _run(self._session, self._binding, x, y)
        self._vectors, self._spare = self._spare, self._vectors
        self._binding, self._spare_binding = self._spare_binding, self._binding
        return StepResult(float(self._loss), int(self._correct))

    def _bound(self, source: Mapping[str, Vector], target: Mapping[str, Vector]) -> ort.IOBinding:
        """A binding that reads one set of resident vectors and writes the other, without copies."""
        shapes = {place.name: place.shape for place in self._session.get_inputs()}
        outputs: Arrays = {_next(name): place for name, place in spread(target, shapes).items()}
        outputs |= {"loss": self._loss, "correct": self._correct}
        return _bound(self._session, spread({**self._hyperparameters, **source, **self._anchor}, shapes), outputs)


class PartsTrainer(_Resident):
    """Trains the layers from a cut onwards, where memory can't hold a batch at once: micro-batch by micro-batch.

    The sum of the gradients is written where it is read: the graph only adds to it.

    Args:
        manifest: of the bundle.
        cut: first layer to train.
        accumulating: the cut's graph for a micro-batch.
        updating: the cut's optimiser.
        threads: processor cores that a step may use.
        spinning: see `lamina.edge_agent.training.engine.ExecutionMode`.
        ordered: whether the accumulating graph's operators have to run in the order that its memory was predicted by.

    Raises:
        ModelError: a graph can't be loaded, or is not what the manifest says.
    """

    def __init__(
        self,
        manifest: Manifest,
        cut: int,
        accumulating: Path,
        updating: Path,
        *,
        threads: int = 1,
        spinning: bool = False,
        ordered: bool = False,
    ) -> None:
        super().__init__(manifest, cut)
        self._gradients = np.zeros(self._sizes["parameters"], np.float32)
        self._share = np.zeros((), np.float32)
        self._accumulating = _open(accumulating, threads, spinning=spinning, ordered=ordered)
        self._updating = _open(updating, threads)
        self._drawn = {name: place for name, place in self._hyperparameters.items() if name == "seed"}
        moving = {name: size for name, size in self._sizes.items() if name not in self._optimiser_sizes}
        moved = {_next(name) for name in moving if name != "parameters"} | {"gradients_next"}
        sizes = moving | {"gradients": len(self._gradients)}
        _check(self._accumulating, accumulating, {"x", "y", "share", *self._drawn}, sizes, {"loss", "correct", *moved})

    def gather(self, x: NDArray[Any], y: NDArray[Any], share: float) -> StepResult:
        """Forward and backward on a micro-batch.

        Args:
            x: (b, ...) as for `Trainer.step`.
            y: (b, ...) targets, as the task takes them.
            share: of the batch.

        Raises:
            ValueError: the micro-batch does not fit the graph.
        """
        self._share[...] = share
        inputs: Arrays = {
            "share": self._share,
            "gradients": self._gradients,
            "parameters": self.parameters,
            **self._drawn,
        }
        outputs: Arrays = {"loss": self._loss, "correct": self._correct, "gradients_next": self._gradients}
        if "statistics" in self._sizes:
            inputs["statistics"], outputs["statistics_next"] = self.statistics, self._spare["statistics"]
        _run(self._accumulating, _bound(self._accumulating, inputs, outputs), x, y)
        self._swap(["statistics"])
        return StepResult(float(self._loss), int(self._correct))

    def update(self, hyperparameters: Mapping[str, float]) -> None:
        """One step of the optimiser by what was gathered, which is then forgotten.

        Args:
            hyperparameters: as for `Trainer.step`.
        """
        self._set(hyperparameters)
        moving = ["parameters", *self._optimiser_sizes]
        given = {name: place for name, place in self._hyperparameters.items() if name not in self._drawn}
        inputs: Arrays = {**given, **{name: self._vectors[name] for name in moving}, **self._anchor}
        outputs = {_next(name): self._spare[name] for name in moving}
        binding = _bound(self._updating, {**inputs, "gradients": self._gradients}, outputs)
        self._updating.run_with_iobinding(binding)
        self._swap(moving)
        self._gradients[...] = 0

    def _swap(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._vectors:
                self._vectors[name], self._spare[name] = self._spare[name], self._vectors[name]


class FrozenForward:
    """A frozen piece of the network, run forward only.

    Args:
        graph: from ``x`` to ``boundary``; its values are external initialisers.
        values: exactly those that the graph names. They are not copied; leave them unchanged while this lives.
        threads: processor cores that it may use.

    Raises:
        ModelError: the graph can't be loaded with these values.
    """

    def __init__(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> None:
        self._values = dict(values)  # the engine reads their memory
        self._session = _open(graph, threads, self._values)

    def __call__(self, x: NDArray[Any]) -> Vector:
        """The activations (B, ...) that leave the piece, for those or the samples (B, ...) that enter it."""
        [boundary] = self._session.run(["boundary"], {"x": x})
        return np.asarray(boundary, np.float32)


class WholeForward:
    """A network, or a graph of metrics, run forward on whatever it is given of its inputs.

    Args:
        graph: its file.
        values: those that are not inside it, and maybe others. They are not copied; leave them unchanged.
        threads: processor cores that it may use.

    Raises:
        ModelError: the graph can't be loaded.
    """

    def __init__(self, graph: Path, values: Mapping[str, Vector] | None = None, *, threads: int = 1) -> None:
        self._values = dict(values or {})  # the engine reads their memory
        self._graph, self._session = graph, _open(graph, threads, self._values)
        self._inputs = {place.name for place in self._session.get_inputs()}
        self._outputs = [place.name for place in self._session.get_outputs()]

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """The outputs by name.

        Raises:
            ModelError: the arrays do not fit the graph.
        """
        given = {name: value for name, value in feeds.items() if name in self._inputs}
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, given), strict=True))
        except LOAD_ERRORS as error:
            raise ModelError(f"graph {self._graph}: {first_line(error)}") from error


def warm_up() -> None:
    """Allocate what the engine's first session costs: some 9 MB."""
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    ort.InferenceSession(_IDENTITY, options, providers=_PROVIDERS).run(["y"], {"x": np.zeros(1, np.float32)})


# The smallest model that there is: y = Identity(x), float32 (1,), opset 18.
_IDENTITY = (
    b'\x08\n:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02'
    b"\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x12"
)


def _open(
    graph: Path,
    threads: int,
    values: Mapping[str, Vector] | None = None,
    *,
    spinning: bool = False,
    ordered: bool = False,
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # planning all activations as one block raises the peak by half
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.force_spinning_stop", "1")  # between two steps
    if values:
        wrapped = [ort.OrtValue.ortvalue_from_numpy(value) for value in values.values()]
        options.add_external_initializers(list(values), wrapped)
    try:
        disabled = {"disabled_optimizers": [*REORDERING]} if ordered else {}
        return ort.InferenceSession(str(graph), options, providers=_PROVIDERS, **disabled)
    except LOAD_ERRORS as error:
        raise ModelError(f"graph {graph} can't be loaded by {engine_name()}: {error}") from error


def _next(name: str) -> str:
    return f"{name}_next"


def _bound(session: ort.InferenceSession, inputs: Arrays, outputs: Arrays) -> ort.IOBinding:
    """A binding that reads and writes these arrays where they are."""
    binding = session.io_binding()
    for name, place in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(place))
    for name, place in outputs.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(place))
    return binding


def _run(session: ort.InferenceSession, binding: ort.IOBinding, x: NDArray[Any], y: NDArray[Any]) -> None:
    binding.bind_cpu_input("x", x)
    binding.bind_cpu_input("y", y)
    try:
        session.run_with_iobinding(binding)
    except RuntimeError as error:
        raise ValueError(f"no step on x {x.shape} {x.dtype} and y {y.shape} {y.dtype}: {error}") from error


def _check(
    session: ort.InferenceSession, graph: Path, others: Set[str], sizes: Mapping[str, int], outputs: Set[str]
) -> None:
    """See that the graph has the inputs ``sizes``, vectors of that length, and ``others``, and these outputs."""
    for what, expected, found in (
        ("inputs", {*others, *sizes}, {vector_of(place.name) for place in session.get_inputs()}),
        ("outputs", outputs, {_whole(place.name) for place in session.get_outputs()}),
    ):
        if found != expected:
            raise ModelError(f"graph {graph}: its {what} must be {sorted(expected)}, and are {sorted(found)}")
    shapes = {place.name: place.shape for place in session.get_inputs() if vector_of(place.name) in sizes}
    for name in sizes:
        own = [each for each in shapes if vector_of(each) == name]
        if {*own} != {*names_of(name, own)}:
            raise ModelError(f"graph {graph}: the segments of {name} must be numbered from 0 on, and are {own}")
    for name, shape in shapes.items():
        if not all(isinstance(extent, int) for extent in shape):
            raise ModelError(f"graph {graph}: {name} must have a fixed shape, not {shape}")
    for name, size in sizes_of(shapes).items():
        if size != sizes[name]:
            raise ModelError(f"graph {graph}: {name} must have {sizes[name]} elements, not {size}")


def _whole(name: str) -> str:
    """The output, or the one that it is a segment of."""
    return _next(vector_of(name)) if "." in name else name
