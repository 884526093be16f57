"""The network that is to be trained: a torch module with its initial values, and what the module alone doesn't say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn.parameter import is_lazy

from lamina.models.arrays import Vector
from lamina.models.errors import ModelError, did_you_mean
from lamina.models.rows_of_inputs import INPUT_DTYPES, input_specs, taking_rows
from lamina.models.source import Build, building, split_options, told
from lamina.models.spec import InputSpec, ModelSpec
from lamina.models.tasks.base import LearningTask, MetricFunction
from lamina.models.tasks.resolving import USUAL_LOSS, task_of
from lamina.models.tasks.single_label import SingleLabel
from lamina.models.values import flatten, unflatten

_LONGEST_NAME = 64


@dataclass(frozen=True)
class Definition:
    """A network as its author describes it.

    Attributes:
        name: for people and for file names.
        module: takes one positional argument x (N, *input_shape) and returns logits (N, classes). Its values are those
            that the federation starts from. Of a network with several inputs, it takes rows, in which these are joined
            (`lamina.models.rows_of_inputs`).
        input_shape: shape of one sample, without the batch. Several inputs are given as a dictionary of their shapes,
            and the length of a row is kept.
        classes: number of classes, where targets are classes and the outputs don't say it; else it may be left out.
        input_dtype: ``float32``, or ``int64`` for token ids; of several inputs, given by name; rows are float32.
        cuts: where devices may cut: names of blocks or of modules, which begin at their first layer, or indices of
            layers. The whole network is always on offer; ``None`` offers some blocks, those that a budget of memory can
            tell apart.
        loss: name of the loss in the training graphs, or a function of outputs and targets that returns their mean.
        task: what is learnt: its name, or one of `lamina.models.tasks` with options; empty: one class a sample, or what
            the loss says.
        metrics: the author's own by name: functions of outputs and targets that return a sum and a count.
        class_names: of class 0, 1 and so on, where devices know classes by names.
        inputs: what a row is joined of, where ``input_shape`` was a dictionary.

    Raises:
        ModelError: a field has a value that no network could have.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    classes: int = 0
    input_dtype: str = "float32"
    cuts: tuple[str | int, ...] | None = None
    loss: str | Callable[..., Any] = USUAL_LOSS
    task: str | LearningTask = ""
    metrics: Mapping[str, MetricFunction] = field(default_factory=dict, hash=False)
    class_names: tuple[str, ...] = ()
    inputs: tuple[InputSpec, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise self._error(f"module must be a torch.nn.Module, and is a {type(self.module).__name__}")
        shapes: Any = self.input_shape
        if isinstance(shapes, Mapping):
            self._join(shapes)
        if not _is_shape(self.input_shape):
            raise self._error(f"input_shape must be a sample's, such as (1, 28, 28), and is {self.input_shape!r}")
        counted, left_out = _is_count(self.classes), self.classes == 0
        kind, _ = task_of(self.name, self.task, self.loss, self.classes if counted or left_out else 1)
        if not counted and (not left_out or isinstance(kind, SingleLabel)):
            raise self._error(f"classes must be a whole number, at least 1, and is {self.classes!r}")
        if not isinstance(self.metrics, Mapping) or not all(map(_is_metric, self.metrics.items())):
            raise self._error("metrics must be functions by name, such as {'mae': f}; a name has letters, digits and _")
        if self.input_dtype not in INPUT_DTYPES:
            raise self._error(f"input_dtype must be one of {', '.join(INPUT_DTYPES)}, and is {self.input_dtype!r}")
        names = tuple(self.class_names)
        if names and (len(set(names)) != self.classes or len(names) != self.classes):
            raise self._error(f"class_names must name each of its {self.classes} classes once, and names {len(names)}")
        for name, tensor in self.module.named_parameters():
            self._check_parameter(name, tensor)

    def _join(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Have the module take rows."""
        inputs = input_specs(self.name, shapes, self.input_dtype)
        joined: dict[str, Any] = {
            "inputs": inputs,
            "module": taking_rows(self.name, self.module, inputs),
            "input_shape": (sum(one.size for one in inputs),),
            "input_dtype": "float32",
        }
        for name, value in joined.items():
            object.__setattr__(self, name, value)  # before anybody has seen it

    def _check_parameter(self, name: str, tensor: nn.Parameter) -> None:
        if is_lazy(tensor):
            raise self._error(f"parameter {name} has no shape yet: run the lazy module once before handing it over")
        if tensor.dtype != torch.float32:
            raise self._error(f"parameter {name} is {tensor.dtype}; devices train in float32: call module.float()")

    def _error(self, what: str) -> ModelError:
        return ModelError(f"model {self.name}: {what}")


def load_definition(source: str, *, seed: int = 0, values: Path | None = None, **options: object) -> Definition:
    """Build the network that ``source`` names, with initial values drawn from ``seed``, or read from a file.

    torch's global generator is left as it was. A function of the operator's returns a `Definition`, or a
    ``torch.nn.Module`` with the attribute ``input_shape`` and, where they differ from a Definition's defaults,
    ``classes``, ``input_dtype``, ``cuts``, ``loss``, ``task``, ``metrics`` and ``class_names``.

    Args:
        source: as `lamina.models.source` describes it.
        seed: for torch's generator while the network is built.
        values: a file of safetensors with the module's state dictionary, as a pretrained network has it.
        options: keyword arguments for the building function; they go before those in ``source``.

    Raises:
        ModelError: there is no such network, it can't be built, or the values are not those of its module.
    """
    place, written = split_options(source)
    with building(place) as (name, build):
        definition = _definition(name, _built(place, build, {**written, **options}, seed))
    if values is not None:
        _take_values(definition, values)
    return definition


def _take_values(definition: Definition, path: Path) -> None:
    """Give the module the values of a file, which must have all of its state dictionary and nothing else.

    A tensor that the module knows under two names may stand there under one of them.
    """
    name, module = definition.name, definition.module
    try:
        given = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model {name}: values {path}: can't be read: {error}") from error
    own = {key: value for key, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)}
    if strange := sorted(given.keys() - own.keys()):
        raise ModelError(
            f"model {name}: values {path}: the module has no tensor {strange[0]!r}, nor {len(strange) - 1} others of "
            f"it; {did_you_mean(strange[0], own)}"
        )
    there = {id(own[key]) for key in given}
    if lacking := [key for key, value in own.items() if id(value) not in there]:
        raise ModelError(
            f"model {name}: values {path}: {len(lacking)} tensors of the module are not there, {lacking[0]} among them"
        )
    for key, value in given.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"model {name}: values {path}: {key} has the shape {tuple(value.shape)}, and in the module "
                f"{tuple(own[key].shape)}"
            )
        with torch.no_grad():
            own[key].copy_(value)


def initial_values(definition: Definition, spec: ModelSpec) -> dict[str, Vector]:
    """The module's own values of every tensor of the spec, by name."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in definition.module.state_dict().items()}
    return unflatten(spec, *flatten(spec, tensors))


def _built(place: str, build: Build, options: dict[str, object], seed: int) -> object:
    signature = inspect.signature(build)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ModelError(f"model {place}: {error}; it takes {signature}") from error
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(**options)
    except ModelError:
        raise
    except Exception as error:
        file, _, _ = place.rpartition(":")
        raise ModelError(f"model {place}: building it raised {told(error, Path(file))}") from error


def _definition(name: str, built: object) -> Definition:
    if isinstance(built, Definition):
        return built
    if not isinstance(built, nn.Module):
        raise ModelError(
            f"model {name}: its function must return a lamina.models.definition.Definition or a torch.nn.Module, "
            f"and returned a {type(built).__name__}"
        )
    fields = ("input_shape", "classes", "input_dtype", "cuts", "loss", "task", "metrics", "class_names")
    given = {key: getattr(built, key) for key in fields if hasattr(built, key)}
    if "input_shape" not in given:
        raise _lacks(name, built, "input_shape")
    kind, _ = task_of(name, given.get("task", ""), given.get("loss", USUAL_LOSS), 0)
    if "classes" not in given and isinstance(kind, SingleLabel):
        raise _lacks(name, built, "classes")
    return Definition(name, built, **given)


def _lacks(name: str, built: nn.Module, attribute: str) -> ModelError:
    return ModelError(
        f"model {name}: module {type(built).__name__} has no attribute {attribute}: "
        f"set it, or return a lamina.models.definition.Definition"
    )


def _is_metric(item: tuple[object, object]) -> bool:
    name, function = item
    return isinstance(name, str) and name.isidentifier() and len(name) <= _LONGEST_NAME and callable(function)


def _is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and len(shape) > 0 and all(_is_count(extent) for extent in shape)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1
