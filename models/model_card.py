"""Says how an exported model is used and where it comes from: as metadata inside the ONNX file, and as a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lamina.models.manifest import Manifest
from lamina.models.spec import ModelSpec


@dataclass(frozen=True)
class ModelFacts:
    """What a federation knows of a model that leaves it.

    Attributes:
        federation: its name.
        round: rounds done.
        bundle: digest of the bundle.
        figures: what its evaluation came to, by the metric's name; empty without one.
        intervals: tau_l of every layer, in local steps.
        aggregations: how often each layer was averaged.
    """

    federation: str
    round: int
    bundle: str
    figures: Mapping[str, float] = field(default_factory=dict)
    intervals: Sequence[int] = ()
    aggregations: Sequence[int] = ()


@dataclass(frozen=True)
class Port:
    """An input or an output of the exported graph.

    Attributes:
        name: in the graph.
        shape: with the batch first, which has the name ``N``.
        dtype: NumPy's name.
    """

    name: str
    shape: tuple[str | int, ...]
    dtype: str

    @property
    def text(self) -> str:
        """The shape for a person."""
        return f"({', '.join(map(str, self.shape))})"


def metadata(manifest: Manifest, facts: ModelFacts, inputs: Sequence[Port], outputs: Sequence[Port]) -> dict[str, str]:
    """The exported file's metadata: text by key, lists as JSON."""
    spec = manifest.spec
    described = {
        "model": spec.name,
        "task": spec.wanted.task,
        "loss": spec.loss,
        "inputs": json.dumps([{"name": port.name, "shape": port.shape, "dtype": port.dtype} for port in inputs]),
        "outputs": json.dumps([{"name": port.name, "shape": port.shape, "dtype": port.dtype} for port in outputs]),
        "classes": json.dumps(spec.names),
        "scaling": scaling(spec),
        "federation": facts.federation,
        "round": str(facts.round),
        "bundle": facts.bundle,
        "figures": json.dumps(dict(facts.figures)),
    }
    return {f"lamina.{key}": value for key, value in described.items()}


def scaling(spec: ModelSpec) -> str:
    """What is done to a stored sample before it enters the network."""
    if spec.input_dtype == "int64":
        return "none: whole numbers, such as token ids"
    return "unsigned bytes (images) are divided by 255; all other numbers are taken as they are"


def movements(
    spec: ModelSpec, initial: Mapping[str, NDArray[np.float32]], final: Mapping[str, NDArray[np.float32]]
) -> list[float]:
    """How far each layer's parameters moved, relative to the norm that they began with; nan where that was 0."""
    moved = []
    for layer in spec.layers:
        names = [tensor.name for tensor in layer.parameters]
        change = sum(float(np.square(final[name].astype(np.float64) - initial[name]).sum()) for name in names)
        before = sum(float(np.square(initial[name].astype(np.float64)).sum()) for name in names)
        moved.append((change / before) ** 0.5 if before else float("nan"))
    return moved


def card(
    manifest: Manifest,
    facts: ModelFacts,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    moved: Sequence[float],
    file_name: str,
) -> str:
    """The model card, as Markdown."""
    spec = manifest.spec
    figures = ", ".join(f"{name} {value:.4g}" for name, value in facts.figures.items()) or "not evaluated"
    parts = [
        f"# {spec.name}\n",
        f"Trained by the federation `{facts.federation}`, {facts.round} rounds. Evaluation: {figures}.\n",
        _table(
            ("what", "value"),
            [
                ("task", spec.wanted.task),
                ("loss", spec.loss),
                ("parameters", f"{spec.size:,}"),
                ("optimiser on the devices", manifest.optimiser),
                ("bundle", f"`{facts.bundle}`"),
            ],
        ),
        "## Use\n",
        _usage(file_name, inputs, outputs),
        _table(
            ("", "name", "shape", "type"),
            [(kind, f"`{port.name}`", port.text, port.dtype) for kind, port in _ports(inputs, outputs)],
        ),
        f"Scaling: {scaling(spec)}.\n",
    ]
    if spec.names:
        parts += ["## Classes\n", _table(("output", "class"), [(str(at), name) for at, name in enumerate(spec.names)])]
    parts += ["## Layers\n", _layers(spec, facts, moved)]
    return "\n".join(parts)


def _ports(inputs: Sequence[Port], outputs: Sequence[Port]) -> list[tuple[str, Port]]:
    return [*(("input", port) for port in inputs), *(("output", port) for port in outputs)]


def _usage(file_name: str, inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    feed = ", ".join(f'"{port.name}": {port.name}' for port in inputs)
    names = ", ".join(f'"{port.name}"' for port in outputs)
    return (
        "```python\n"
        "import onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{file_name}")\n'
        f"outputs = session.run([{names}], {{{feed}}})\n"
        "```\n"
    )


def _layers(spec: ModelSpec, facts: ModelFacts, moved: Sequence[float]) -> str:
    rows = []
    for index, layer in enumerate(spec.layers):
        interval = str(facts.intervals[index]) if facts.intervals else ""
        averaged = str(facts.aggregations[index]) if facts.aggregations else ""
        rows.append((f"`{layer.name}`", f"{layer.size:,}", interval, averaged, f"{moved[index]:.3g}"))
    return _table(("layer", "parameters", "interval (local steps)", "times averaged", "moved"), rows) + (
        "\nA layer moved by the norm of its change over the norm that it began with.\n"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """A name may hold what would end a cell."""
    return text.replace("|", "\\|").replace("\n", " ")
