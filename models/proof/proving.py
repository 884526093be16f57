"""Compares every graph of a bundle with what torch itself makes of the user's module, before the bundle is written.

    training graphs    loss, gradients, statistics and the optimiser's move after one step, in every form that this
                       processor runs, with one sample (where the network allows it), two, and the bundle's batch
    pieces, inference  outputs in inference mode

torch runs the module itself, eagerly, with its own autograd; what a trace has dropped or frozen shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from lamina.models.definition import Definition, initial_values
from lamina.models.engine_facts import LOAD_ERRORS, REORDERING, block_size
from lamina.models.errors import ModelError
from lamina.models.graph.objectives import output_names
from lamina.models.graph.sections import run_section, start_of, starts
from lamina.models.graph.tracing import trace
from lamina.models.manifest import BLOCKS, FileEntry, Manifest, SubModel
from lamina.models.proof import judging
from lamina.models.proof.eager import Step, figures, outputs
from lamina.models.proof.explaining import Refusal, refused
from lamina.models.proof.judging import Difference, Verdict
from lamina.models.proof.repeating import check_repeatable
from lamina.models.proof.running import InferenceGraph, Ran, TrainingRun, run_metrics
from lamina.models.proof.trials import Trial

_T = TypeVar("_T")

Progress = Callable[[str], None]

_ADAMS = "mean_state"
_ROUNDING = 1e-6
_SAME_FIGURE = 1e-4


def prove(definition: Definition, manifest: Manifest, folder: Path, progress: Progress = lambda _: None) -> None:
    """Check the bundle in ``folder``.

    Args:
        definition: the network that it was built from.
        manifest: of the bundle.
        folder: where its files lie.
        progress: is told what is checked next.

    Raises:
        ModelError: a graph differs from torch by more than float32 explains, or can't be run.
    """
    proof = _Proof(definition, manifest, folder)
    check_repeatable(definition, proof.trial(2, 0).x)
    for sub_model in manifest.sub_models:
        progress(f"checking the graphs from layer {manifest.spec.layers[sub_model.cut].name}")
        for graph in _graphs(sub_model):
            proof.check_training(sub_model.cut, graph)
    progress("checking inference")
    proof.check_inference()


@dataclass(frozen=True)
class _Graph:
    """A training graph that is to be checked.

    Attributes:
        kind: for people.
        entry: its file.
        disabled: optimisations that boards leave out for it.
    """

    kind: str
    entry: FileEntry
    disabled: tuple[str, ...] = ()


def _graphs(sub_model: SubModel) -> Iterator[_Graph]:
    """The graphs of a sub-model that this processor runs, each file once."""
    forms = [form for form in sub_model.forms if form not in BLOCKS or BLOCKS[form] == block_size()]
    graphs = [_Graph("step", sub_model.graph)]
    if sub_model.accumulating is not None:
        graphs.append(_Graph("step in micro-batches", sub_model.accumulating))
    for form in forms:
        graphs.append(_Graph(f"step, form {form}", sub_model.forms[form].graph))
        graphs.append(_Graph(f"step in micro-batches, form {form}", sub_model.forms[form].accumulating))
    if sub_model.recomputing is not None:
        graphs.append(_Graph("step with activations computed again", sub_model.recomputing, REORDERING))
    seen = set[FileEntry]()
    for graph in graphs:
        if graph.entry not in seen:
            seen.add(graph.entry)
            yield graph


def _errors(found: Step, expected: Step, names: Collection[str]) -> dict[str, float]:
    """The relative errors of the loss, and of the gradients and statistics of the tensors ``names``."""
    compared: dict[str, float] = {}
    for one, other in zip(found.groups(), _own(expected, names), strict=True):
        compared |= judging.relative_errors(one, other)
    return compared


def _moved_errors(distances: Mapping[str, float], exact: Step, names: Collection[str]) -> dict[str, float]:
    """The same, of distances that are known."""
    compared: dict[str, float] = {}
    for group in _own(exact, names):
        compared |= judging.relative(distances, group)
    return compared


def _own(found: Step, names: Collection[str]) -> list[judging.Arrays]:
    return [
        {name: value for name, value in group.items() if name == "loss" or name in names} for group in found.groups()
    ]


def _named(results: Sequence[judging.Array]) -> dict[str, judging.Array]:
    """Outputs by name: ``output``, or with their numbers where there are several."""
    return {f"output {place}" if place else "output": result for place, result in enumerate(results)}


class _Proof:
    def __init__(self, definition: Definition, manifest: Manifest, folder: Path) -> None:
        self._definition, self._manifest, self._folder = definition, manifest, folder
        self._forward = trace(definition, training=True)
        self._starts = starts(self._forward, manifest.spec)
        self._initial = initial_values(definition, manifest.spec)
        self._trials: dict[tuple[int, int], Trial] = {}
        if manifest.batch_size == 1:
            self.trial(1, 0)
        self._sizes = [size for size in sorted({1, 2, manifest.batch_size}) if size > 1 or self._allows_one()]

    def trial(self, count: int, number: int) -> Trial:
        """The inputs with so many samples; made once."""
        if (count, number) not in self._trials:
            self._trials[count, number] = Trial(
                self._definition, self._manifest.spec, self._forward, self._starts, self._initial, count, number
            )
        return self._trials[count, number]

    def _allows_one(self) -> bool:
        """Whether torch takes a batch of one sample: batch norm, for one, needs more."""
        try:
            self.trial(1, 0)
        except ModelError:
            return False
        return True

    def check_training(self, cut: int, graph: _Graph) -> None:
        """Compare one training graph with torch.

        Raises:
            ModelError: they differ, or the graph can't be run.
        """
        layers = self._manifest.spec.layers[cut:]
        run = self._ran(
            graph.kind, lambda: TrainingRun(self._manifest, layers, self._path(graph.entry), graph.disabled)
        )

        def judge(count: int, number: int) -> Verdict:
            trial = self.trial(count, number)
            x = trial.entering(cut)
            ran = self._ran(graph.kind, lambda: run.step(trial.values, x, trial.y))
            return self._judged_step(cut, trial, ran)

        for count in self._sizes:
            if different := judging.wrong(partial(judge, count)):
                where = f"{graph.kind}, from layer {layers[0].name}, batch size {count}"
                right_with = [other for other in self._sizes if other != count and not judge(other, 0).different]
                raise refused(self._refusal(different, where, forward=False, right_with=right_with))

    def _judged_step(self, cut: int, trial: Trial, ran: Ran) -> Verdict:
        layers = self._manifest.spec.layers[cut:]
        names = {tensor.name for layer in layers for tensor in (*layer.parameters, *layer.statistics)}
        try:
            expected = trial.expected(cut, ran.drawn)
        except ModelError as error:
            raise ModelError(f"model {self._definition.name}: {error}") from error
        if not judging.close(found := _errors(ran, expected, names)):
            exact = trial.exact(cut, ran.drawn)
            if exact is None:
                return Verdict(judging.differences(found, [dict.fromkeys(found, judging.TOLERANCE)]))
            found, of_float32 = _errors(ran, exact, names), [_errors(expected, exact, names)]
            if different := judging.differences(found, of_float32):
                for rounded in trial.rounded(cut, ran.drawn):
                    of_float32.append(_moved_errors(rounded, exact, names))
                    if not judging.differences(found, of_float32):
                        return Verdict([], clear=False)
                return Verdict(different)
        return Verdict(self._move_differences(trial, ran))

    def _move_differences(self, trial: Trial, ran: Ran) -> list[Difference]:
        """Whether the optimiser takes from the parameters what it must take for these gradients."""
        if ran.moved is None:
            return []
        gradient = np.concatenate([value.reshape(-1) for value in ran.gradients.values()])
        move = gradient / (np.abs(gradient) + 1) if _ADAMS in self._manifest.optimiser_state else gradient
        parameters = np.concatenate([trial.values[name].reshape(-1) for name in ran.gradients])
        difference = float(np.linalg.norm(ran.moved - move))
        allowed = judging.TOLERANCE * float(np.linalg.norm(move)) + _ROUNDING * float(np.linalg.norm(parameters))
        return [] if difference <= allowed else [Difference("the optimiser's step", difference / allowed, 0.0)]

    def check_inference(self) -> None:
        """Compare the pieces, and the whole network in inference mode, with torch.

        Raises:
            ModelError: they differ, or a graph can't be run.
        """
        for count in self._sizes:
            self._compare_outputs(self.trial(count, 0))
            self._compare_figures(self.trial(count, 0))
        self._check_pieces(self.trial(self._sizes[-1], 0))

    def _compare_outputs(self, trial: Trial) -> None:
        found = self._forwarded(self._manifest.inference, trial.values, trial.x)
        try:
            expected = outputs(self._definition, trial.values, trial.x)
        except ModelError as error:
            raise ModelError(
                f"model {self._definition.name}: in inference mode {error}; "
                f"give dropout its module's mode, as F.dropout(x, p, training=self.training) does"
            ) from error
        result = _named(found)
        errors = judging.relative_errors(result, _named(expected))
        if judging.close(errors):
            return
        try:
            exact = outputs(self._definition, trial.values, trial.x, dtype=torch.float64)
        except Exception:  # whatever a module raises that has been written for float32
            exact = expected
        errors = judging.relative_errors(result, _named(exact))
        of_float32 = judging.relative_errors(_named(expected), _named(exact))
        if different := judging.differences(errors, [of_float32]):
            raise refused(self._refusal(different, f"inference, batch size {len(trial.x)}", forward=True))

    def _compare_figures(self, trial: Trial) -> None:
        """Compare the metrics with torch's, on the graph's own outputs: a rounding may turn a decision."""
        metrics = self._manifest.metrics
        if not metrics:
            return
        x, y = trial.x, trial.y
        results = self._forwarded(self._manifest.inference, trial.values, x)
        given = dict(zip(output_names(trace(self._definition, training=False)), results, strict=True))
        found = self._ran("metrics", lambda: run_metrics(self._path(metrics.graph), {**given, "y": y}))
        for what, one, other in zip(("sum", "count"), found, figures(self._definition, results, y), strict=True):
            off = np.abs(one - other) > _SAME_FIGURE * (1 + np.abs(other))
            if off.any():
                place = int(np.argmax(off))
                raise ModelError(
                    f"model {self._definition.name}: its graph and torch differ in the {what} of metric "
                    f"{metrics.named_at(place)}, for {len(x)} samples: {one[place]:g} and {other[place]:g}; "
                    f"write the metric otherwise"
                )

    def _check_pieces(self, trial: Trial) -> None:
        """Compare each piece with its section of the traced pass, whose outputs were seen to be torch's."""
        spec, inference = self._manifest.spec, trace(self._definition, training=False)
        tensors = {name: tensor.detach().clone() for name, tensor in inference.values.items()}
        tensors |= {name: torch.from_numpy(value.copy()) for name, value in trial.values.items()}
        x: NDArray[Any] = trial.x
        for piece in self._manifest.pieces:
            first = spec.blocks[piece.first_block].first
            entering, [x] = x, self._forwarded(piece.graph, trial.values, x)
            with torch.no_grad():
                blocks = piece.first_block, piece.stop_block
                start, stop = (start_of(inference, spec, block, self._forward) for block in blocks)
                expected = run_section(inference, start, stop, tensors, torch.from_numpy(entering), stand_ins={})
            errors = judging.relative_errors({"output": x}, {"output": expected.numpy()})
            if errors["output"] > 10 * judging.TOLERANCE:
                different = [Difference("output", errors["output"], 0.0)]
                where = f"frozen piece from layer {spec.layers[first].name}, {len(x)} samples"
                raise refused(self._refusal(different, where, forward=True))

    def _refusal(
        self, different: Sequence[Difference], where: str, *, forward: bool, right_with: Sequence[int] = ()
    ) -> Refusal:
        return Refusal(self._definition, self._manifest.spec, different, where, forward, right_with)

    def _forwarded(
        self, entry: FileEntry, values: Mapping[str, NDArray[np.float32]], x: NDArray[Any]
    ) -> list[NDArray[Any]]:
        return self._ran("inference", lambda: InferenceGraph(self._path(entry), values)(x))

    def _path(self, entry: FileEntry) -> Path:
        return self._folder / entry.file_name

    def _ran(self, kind: str, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except LOAD_ERRORS as error:
            reason = next(iter(str(error).splitlines()), "")[:300]
            raise ModelError(
                f"model {self._definition.name}: ONNX Runtime can't run a graph of it ({kind}): {reason}"
            ) from error
