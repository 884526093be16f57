"""Writes an ONNX graph, one operator a call, and never the same thing twice.

    g = GraphWriter("step")
    x = g.input("x", "float32", ("N", 4))
    y = g.Relu(g.Add(x, 1.0))           # any operator of the opset, by its ONNX name
    left, right = g.many("Split", 2, x, [1, 3], axis=1)   # an operator with several outputs
    g.output("y", y, "float32", ("N", 4))
    model = g.model()

A tensor is known by its name, a string. Python numbers and lists among an operator's inputs become constants: a float
is float32, an int is int64, a list of ints is an int64 vector. Equal constants are stored once, and an operator that is
applied twice to the same inputs is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from lamina.models.manifest import EXTERNAL_LOCATION, ONNXRUNTIME

OPSET = 18
IR_VERSION = 10
TRAINING_DOMAIN = "com.microsoft"
BLOCKED_DOMAIN = "com.microsoft.nchwc"

Shape: TypeAlias = Sequence[int | str]
Input: TypeAlias = str | float | int | Sequence[int] | None

ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
    "uint32": TensorProto.UINT32,
    "bool": TensorProto.BOOL,
}

# The key in a model's metadata for the names of its random tensors, in the order in which torch draws them.
DRAWN = "drawn"

# Of the training build's operators, those that compute no gradient whose name is left out.
_MAY_LEAVE_OUT = ("ConvGrad",)

# Two draws are not the same thing written twice.
_RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


class GraphWriter:
    """Collects the operators, constants, inputs and outputs of one graph.

    Args:
        name: of the graph, for people.
        around: the writer of the graph that this one is to be nested in; the two share constants, and this one may read
            what that one has written.
        serial: whether to choose, of two ways to compute the same, the one that is faster on a single thread.
        block: channels in a block, where operators of ONNX Runtime's blocked layout may be written; 0: they may not.
        engine: that is to run the graph; any but ``onnxruntime`` has operators besides the standard's.
        batched: the input whose first extent is the batch's.
    """

    def __init__(
        self,
        name: str,
        around: GraphWriter | None = None,
        *,
        serial: bool = False,
        block: int = 0,
        engine: str = ONNXRUNTIME,
        batched: str = "x",
    ) -> None:
        self.serial = serial
        self.block = block
        self.engine = engine
        self._batched = batched
        self._name = name
        self._prefix = f"{name}." if around else ""
        self._operators: list[onnx.NodeProto] = []
        self._initialisers: dict[str, onnx.TensorProto] = around._initialisers if around else {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], str] = around._constants if around else {}
        self._written: dict[object, tuple[str, ...]] = {}
        self._renamed: dict[str, str] = {}
        self._remembered: dict[str, tuple[str, ...]] = {}
        self._draws = 0
        self._drawn: list[str] = around._drawn if around else []

    def __getattr__(self, operator: str) -> Callable[..., str]:
        """``g.Add(a, b)`` writes an Add with one output and returns its name; attributes go as keywords."""
        if not defs.has(operator, max_inclusive_version=OPSET):
            raise AttributeError(f"opset {OPSET} has no operator {operator}")

        def write(*inputs: Input, **attributes: object) -> str:
            return self.many(operator, 1, *inputs, domain="", **attributes)[0]

        return write

    def many(
        self, operator: str, count: int, *inputs: Input, domain: str = "", **attributes: object
    ) -> tuple[str, ...]:
        """Write an operator with ``count`` outputs; their names. Its domain is the standard's, unless it is given."""
        names = tuple(self._named(value) for value in inputs)
        while names and not names[-1]:
            names = names[:-1]
        key = (
            domain,
            operator,
            count,
            names,
            tuple(sorted((key, _hashable(value)) for key, value in attributes.items())),
        )
        if operator not in _RANDOM and key in self._written:
            return self._written[key]
        name = f"{self._prefix}{operator}_{len(self._operators)}"
        outputs = tuple(f"{name}.{index}" for index in range(count)) if count > 1 else (name,)
        self._operators.append(helper.make_node(operator, names, outputs, name=name, domain=domain, **attributes))  # type: ignore[arg-type]  # attributes are any
        self._written[key] = outputs
        return outputs

    def constant(self, value: object, dtype: str) -> str:
        """A constant tensor of element type ``dtype``."""
        array = np.asarray(value, dtype=dtype, order="C")
        key = (array.tobytes(), dtype, array.shape)
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name
            self._initialisers[name] = numpy_helper.from_array(array, name)
        return self._constants[key]

    def external(self, name: str, shape: Sequence[int]) -> str:
        """A float32 constant whose value is given when a session is made (see `lamina.models.graph.forward`)."""
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        size_bytes = 4 * int(np.prod(shape, dtype=np.int64))
        for key, value in (("location", EXTERNAL_LOCATION), ("offset", "0"), ("length", str(size_bytes))):
            tensor.external_data.add(key=key, value=value)
        self._initialisers[name] = tensor
        return name

    def input(self, name: str, dtype: str, shape: Shape | None) -> str:
        """An input of the graph; a string in its shape is a symbolic extent, ``None`` leaves the shape open."""
        self._inputs.append(_described(self._prefix + name, dtype, shape))
        return self._prefix + name

    def draws(self) -> int:
        """How often this has been asked before: a number for each place where random numbers are drawn."""
        self._draws += 1
        return self._draws - 1

    def drawn(self, value: str) -> str:
        """Note that ``value`` consists of random numbers: the model says so, and whoever checks it can look at them."""
        self._drawn.append(value)
        return value

    def remember(self, name: str, *others: str) -> None:
        """Keep ``others`` for the rule that is given ``name``: a word from one rule to another."""
        self._remembered[name] = others

    def recall(self, name: str) -> tuple[str, ...]:
        """What was kept for ``name``; empty where nothing was."""
        return self._remembered.get(name, ())

    def batch(self) -> str:
        """The batch's extent, a 0-d int64."""
        return self.Gather(self.Shape(self._batched), 0)

    def output(self, name: str, value: str, dtype: str, shape: Shape | None) -> None:
        """Make ``value`` an output of the graph under ``name``."""
        if value in self._renamed or not any(value in operator.output for operator in self._operators):
            value = self.Identity(value)  # an input, or an output already
        self._renamed[value] = self._prefix + name
        self._outputs.append(_described(self._prefix + name, dtype, shape))

    def scan(self, body: GraphWriter, states: Sequence[str], sequences: Sequence[str], *, backwards: bool) -> list[str]:
        """Apply ``body`` along the first dimension of ``sequences``, and hand its states on from one to the next.

        Args:
            body: a nested graph. Its inputs are the states and one element of each sequence; its outputs are the next
                states and what is collected.
            states: before the first element.
            sequences: (T, ...) each.
            backwards: from the last element to the first; what is collected still lies in the order of the sequences.

        Returns:
            The states after the last element, and the collected outputs (T, ...).
        """
        graph = body._graph()
        collected = len(graph.output) - len(states)
        directions = {"scan_input_directions": [1] * len(sequences), "scan_output_directions": [1] * collected}
        attributes = directions if backwards else {}
        outputs = self.many(
            "Scan",
            len(graph.output),
            *(*states, *sequences),
            domain="",
            body=graph,
            num_scan_inputs=len(sequences),
            **attributes,
        )
        return list(outputs)

    def model(self) -> onnx.ModelProto:
        """The model, without operators and constants that no output needs."""
        graph = self._graph()
        read = {name for operator in graph.node for name in _read(operator)}
        graph.initializer.extend(tensor for name, tensor in self._initialisers.items() if name in read)
        opsets = [helper.make_opsetid("", OPSET)]
        others = sorted({operator.domain for operator in graph.node} - {""})
        opsets += [helper.make_opsetid(domain, 1) for domain in others]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="lamina")
        written = {name for operator in graph.node for name in operator.output}
        if drawn := [name for name in self._drawn if name in written]:
            model.metadata_props.add(key=DRAWN, value=" ".join(drawn))
        return model

    def _graph(self) -> onnx.GraphProto:
        outputs = {output.name for output in self._outputs}
        operators = _without_unread_outputs(_needed(map(self._with_final_names, self._operators), outputs), outputs)
        return helper.make_graph(operators, self._name, self._inputs, self._outputs)

    def _with_final_names(self, operator: onnx.NodeProto) -> onnx.NodeProto:
        """The operator, whose outputs bear the names of the graph's outputs: an Identity would copy them."""
        final = onnx.NodeProto()
        final.CopyFrom(operator)
        for names in (final.input, final.output):
            names[:] = [self._renamed.get(name, name) for name in names]
        for attribute in final.attribute:
            for index, nested in enumerate(attribute.g.node):
                attribute.g.node[index].CopyFrom(self._with_final_names(nested))
        return final

    def _named(self, value: Input) -> str:
        if value is None:
            return ""  # an optional input that is left out
        if isinstance(value, str):
            return value
        if isinstance(value, float):
            return self.constant(value, "float32")
        return self.constant(value, "int64")


def _needed(operators: Iterable[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The operators that ``outputs`` depend on, in their order."""
    needed, kept = set(outputs), []
    for operator in reversed(list(operators)):
        if needed.intersection(operator.output):
            kept.append(operator)
            needed.update(_read(operator))
    return kept[::-1]


def _without_unread_outputs(operators: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The operators, where those that may leave a result out do so if nobody reads it."""
    read = outputs.union(*(_read(operator) for operator in operators))
    for operator in operators:
        if operator.op_type in _MAY_LEAVE_OUT:
            operator.output[:] = [name if name in read else "" for name in operator.output]
    return operators


def _read(operator: onnx.NodeProto) -> Iterator[str]:
    """The names that an operator reads, those inside a nested graph among them."""
    yield from operator.input
    for attribute in operator.attribute:
        for nested in attribute.g.node:
            yield from _read(nested)


def _described(name: str, dtype: str, shape: Shape | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype], None if shape is None else list(shape))


def _hashable(value: object) -> object:
    if isinstance(value, onnx.GraphProto):
        return value.SerializeToString()
    return tuple(value) if isinstance(value, list | tuple) else value
