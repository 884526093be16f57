"""Whether a board may load a graph: its operators are on a list, it reads no file, and its tensors fit the memory.

The graph is walked once, with the shapes that its inputs will have. Memory is counted in the order in which operators
are written: the engine's own order is another, so what is alive together may be somewhat more than the budget; a single
tensor may not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lamina.edge_agent.admission.onnx_graph import ITEM_BYTES, Graph, Node, Tensor, read_graph
from lamina.edge_agent.admission.shapes import RULES, Extents, TensorFacts, facts_made
from lamina.models.errors import ModelError, brief
from lamina.models.manifest import EXTERNAL_LOCATION, FileEntry

MIB = 1 << 20
_SLACK = 2.5
"""Times the budget that tensors may come to together, by the order in which operators are written."""

_LEAST_MIB = (
    16.0  # a graph of a few tensors is let through, however small the budget: it is the sub-model that must fit
)
_MOST_STEPS = 1 << 20  # of a Scan: as many as its sequence is long
_SCAN_ATTRIBUTES = {"body", "num_scan_inputs", "scan_input_directions", "scan_output_directions"}


def check_graph(
    path: Path,
    *,
    batch: int,
    budget_mib: float | None,
    given: Mapping[str, Extents] | None = None,
    constants: FileEntry | None = None,
) -> None:
    """Refuse a graph that must not be loaded.

    Args:
        path: of its file.
        batch: the largest extent that an open dimension of an input will have.
        budget_mib: memory that training may take; ``None`` for no limit.
        given: shapes of the constants whose values are handed over when the graph is loaded, by name.
        constants: the bundle's file of frozen tensors, the only one that a graph may read.

    Raises:
        ModelError: an operator is not on the list, a constant lies in another file, a shape follows from data, or the
            tensors don't fit.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"graph {path}: can't be read: {error.strerror}") from error
    check_content(path.name, content, batch=batch, budget_mib=budget_mib, given=given, constants=constants)


def check_content(
    name: str,
    content: bytes,
    *,
    batch: int,
    budget_mib: float | None,
    given: Mapping[str, Extents] | None = None,
    constants: FileEntry | None = None,
) -> None:
    """`check_graph` of a file's content; ``name`` is the file's, for the error."""
    try:
        _Walk(batch, _most_bytes(budget_mib), given or {}, constants).graph(read_graph(content), {})
    except ModelError as error:
        raise ModelError(f"graph {name[:16]}: {brief(str(error))}; it is not loaded") from error
    except (ValueError, TypeError, IndexError, OverflowError) as error:  # met by a rule, of what no writer writes
        raise ModelError(f"graph {name[:16]}: {brief(str(error))}; it is not loaded") from error


def _most_bytes(budget_mib: float | None) -> float:
    return math.inf if budget_mib is None else max(budget_mib, _LEAST_MIB) * MIB


class _Walk:
    """One walk over a graph and those nested in it.

    Args:
        batch: what an open extent stands for.
        most_bytes: of one tensor.
        given: shapes of the constants that are handed over.
        constants: the file that may be read.
    """

    def __init__(
        self, batch: int, most_bytes: float, given: Mapping[str, Extents], constants: FileEntry | None
    ) -> None:
        self._batch = batch
        self._most_bytes = most_bytes
        self._given, self._constants = given, constants

    def graph(self, graph: Graph, outer: Mapping[str, TensorFacts]) -> list[TensorFacts]:
        """The forms of a graph's outputs; ``outer`` are the tensors around it that it may read."""
        known = dict(outer)
        for tensor in graph.constants:
            self._enter(known, tensor.name, self._constant(tensor), outer)
        for place in graph.inputs:
            if place.name not in known:
                shape = tuple(self._batch if isinstance(extent, str) else extent for extent in place.shape)
                self._enter(known, place.name, TensorFacts(shape, place.kind), outer)
        return self._run(graph, known, outer)

    def _run(self, graph: Graph, known: dict[str, TensorFacts], outer: Mapping[str, TensorFacts]) -> list[TensorFacts]:
        left = Counter(name for node in graph.nodes for name in _read(node))
        left.update(graph.outputs)
        alive: dict[str, int] = {}
        for node in graph.nodes:
            forms = self._forms(node, known, left)
            for name, form in zip(node.outputs, forms, strict=False):
                if name:
                    self._enter(known, name, form, outer)
                    alive[name] = _bytes(form)
            if len(forms) < len(node.outputs):
                raise ModelError(f"{brief(node.operator, 40)} has {len(node.outputs)} outputs")
            if sum(alive.values()) > _SLACK * self._most_bytes:
                raise ModelError(f"its tensors take more than {_SLACK * self._most_bytes / MIB:.0f} MiB together")
            for name in (*_read(node), *node.outputs):
                left[name] -= 1 if name not in node.outputs else 0
                if left[name] <= 0:
                    alive.pop(name, None)
        missing = [name for name in graph.outputs if name not in known]
        if missing:
            raise ModelError(f"nothing makes its output {brief(missing[0], 40)}")
        return [known[name] for name in graph.outputs]

    def _forms(self, node: Node, known: Mapping[str, TensorFacts], left: Counter[str]) -> list[TensorFacts]:
        inputs: list[TensorFacts | None] = []
        for name in node.inputs:
            if name and name not in known:
                raise ModelError(f"{brief(node.operator, 40)} reads {brief(name, 40)}, which nothing makes")
            inputs.append(known[name] if name else None)
        try:
            if node.operator == "Scan":
                return self._scan(node, inputs, known)
            return facts_made(node, inputs)
        except ModelError as error:
            raise ModelError(f"{brief(node.operator, 40)} {error}") from error

    def _scan(
        self, node: Node, inputs: list[TensorFacts | None], known: Mapping[str, TensorFacts]
    ) -> list[TensorFacts]:
        body, sequences = node.attributes.get("body"), node.attributes.get("num_scan_inputs")
        forms = [form for form in inputs if form is not None]
        if (
            not isinstance(body, Graph)
            or not isinstance(sequences, int)
            or not node.attributes.keys() <= _SCAN_ATTRIBUTES
            or not 0 < sequences <= len(forms) == len(inputs) == len(body.inputs)
        ):
            raise ModelError("is not written as a board runs it")
        states = len(forms) - sequences
        lengths = {form.shape[0] if form.shape else 0 for form in forms[states:]}
        if len(lengths) != 1 or (length := lengths.pop()) > _MOST_STEPS:
            raise ModelError("has sequences of other lengths, or too long ones")
        inner = [*forms[:states], *(TensorFacts(form.shape[1:], form.kind) for form in forms[states:])]
        entering = {place.name: form for place, form in zip(body.inputs, inner, strict=True)}
        made = self.graph(body, {**known, **entering})
        if any(after != before[:2] for after, before in zip((f[:2] for f in made[:states]), inner, strict=False)):
            raise ModelError("has a state that grows")
        return [*made[:states], *(TensorFacts((length, *form.shape), form.kind) for form in made[states:])]

    def _constant(self, tensor: Tensor) -> TensorFacts:
        place = tensor.outside
        if place is None:
            return TensorFacts(tensor.shape, tensor.kind, tensor.value)
        form = TensorFacts(tensor.shape, tensor.kind)
        if place.location == EXTERNAL_LOCATION and self._given.get(tensor.name) == tensor.shape:
            return form
        if self._constants is None or place.location != self._constants.file_name:
            raise ModelError(
                f"constant {brief(tensor.name, 40)} lies in a file ({brief(place.location, 40)!r}), "
                "which a graph must not read"
            )
        if place.length != _bytes(form) or place.offset + place.length > self._constants.size_bytes:
            raise ModelError(f"constant {brief(tensor.name, 40)} is not within the bundle's file of constants")
        return form

    def _enter(
        self, known: dict[str, TensorFacts], name: str, form: TensorFacts, outer: Mapping[str, TensorFacts]
    ) -> None:
        if name in known and name not in outer:
            raise ModelError(f"{brief(name, 40)} is made twice")
        if form.kind not in ITEM_BYTES:
            raise ModelError(f"{brief(name, 40)} has the element type {form.kind}")
        if any(extent < 0 for extent in form.shape):
            raise ModelError(f"{brief(name, 40)} has a negative extent")
        if _bytes(form) > self._most_bytes:
            raise ModelError(
                f"{brief(name, 40)} takes {_bytes(form) / MIB:.0f} MiB, "
                f"and the budget is {self._most_bytes / MIB:.0f} MiB"
            )
        known[name] = form


def _bytes(form: TensorFacts) -> int:
    return math.prod(form.shape) * ITEM_BYTES[form.kind]


def _read(node: Node) -> Iterable[str]:
    """The names that an operator reads, those inside a nested graph among them."""
    yield from filter(None, node.inputs)
    for value in node.attributes.values():
        if isinstance(value, Graph):
            for nested in value.nodes:
                yield from _read(nested)


def operators_allowed() -> Collection[str]:
    """The operators that a graph may have."""
    return {*RULES, "Scan"}
