"""Optimisers in the graph end, after fifty steps, where torch's end; and a batch may come in parts."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph import Recipe, TrainingGraph, accumulating_graph, training_graph, updating_graph
from lamina.models.graph.optimisers import OPTIMISERS
from lamina.models.layout import derive_spec
from lamina.models.spec import ModelSpec
from tests.graph_oracle import Array, Groups, State, distance, flat, moving, session, tensors_of, torch_trained, trained

STEPS = 50
MAKERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True),
    "adam": partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
    "adamw": partial(torch.optim.AdamW, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
}
GIVEN = {"lr": 0.05, "momentum": 0.9}
GIVEN_ADAM = {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6}
DECAY = {"kernel": 0.02, "bias": 0.3, "norm": 0.1}
RATES = {"weight_decay": 0.02, "bias_weight_decay": 0.3, "norm_weight_decay": 0.1}


class Net(nn.Module):
    """A convolution with a norm, and a dense layer; smooth unless told otherwise."""

    def __init__(self, norm: nn.Module, activation: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = norm
        self.dense = nn.Linear(4 * 16, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.activation(self.norm(self.conv(x))).flatten(1))


def made(norm: nn.Module | None = None, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Definition:
    torch.manual_seed(0)
    return Definition("net", Net(norm or nn.GroupNorm(2, 4), activation), (2, 4, 4), 3)


def drawn(steps: int, batch: int = 6) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(3)
    return [(rng.standard_normal((batch, 2, 4, 4), np.float32), rng.integers(0, 3, batch)) for _ in range(steps)]


def given_to(name: str) -> dict[str, float]:
    return (GIVEN_ADAM if name.startswith("adam") else GIVEN) | RATES


def stepped(
    graph: TrainingGraph, spec: ModelSpec, definition: Definition, batches: list[tuple[Array, Array]], **given: float
) -> State:
    """The state after whole steps."""
    start = tensors_of(definition.module)
    state = State(flat(start, trained(spec)), flat(start, moving(spec)))
    resident = dict.fromkeys(graph.optimiser_state, np.zeros_like(state.parameters))
    resident |= {name: np.zeros(1, np.float32) for name in graph.optimiser_scalars}
    anchor = {"anchor": state.parameters} if graph.anchored else {}
    running = session(graph.model)
    names = [output.name for output in running.get_outputs()]
    scalars = {name: np.array((graph.hyperparameters | given)[name], np.float32) for name in graph.hyperparameters}
    for x, y in batches:
        feeds = {"x": x, "y": y, "parameters": state.parameters, **resident, **anchor, **scalars}
        if state.statistics.size:
            feeds["statistics"] = state.statistics
        after = dict(zip(names, running.run(None, feeds), strict=True))
        resident = {name: after[f"{name}_next"] for name in resident}
        state = State(after["parameters_next"], after.get("statistics_next", state.statistics), float(after["loss"]))
    return state


def gathered(
    definition: Definition,
    spec: ModelSpec,
    recipe: Recipe,
    batches: list[tuple[Array, Array]],
    micro_batch: int,
    **given: float,
) -> State:
    """The state after steps of which each goes through the batch in micro-batches."""
    start = tensors_of(definition.module)
    parameters, statistics = flat(start, trained(spec)), flat(start, moving(spec))
    optimiser = OPTIMISERS[recipe.optimiser]
    resident = dict.fromkeys(optimiser.vectors, np.zeros_like(parameters))
    resident |= {name: np.zeros(1, np.float32) for name in optimiser.scalars}
    anchor = {"anchor": parameters} if recipe.proximal else {}
    gather, update = session(accumulating_graph(definition, spec, 0)), session(updating_graph(spec, 0, recipe))
    hyperparameters = optimiser.hyperparameters | recipe.hyperparameters
    scalars = {name: np.array((hyperparameters | given)[name], np.float32) for name in hyperparameters}
    for x, y in batches:
        gradients = np.zeros_like(parameters)
        for first in range(0, len(y), micro_batch):
            some = slice(first, first + micro_batch)
            share = np.array(len(y[some]) / len(y), np.float32)
            feeds = {"x": x[some], "y": y[some], "parameters": parameters, "gradients": gradients, "share": share}
            feeds |= {"statistics": statistics} if statistics.size else {}
            names = [output.name for output in gather.get_outputs()]
            after = dict(zip(names, gather.run(None, feeds), strict=True))
            gradients, statistics = after["gradients_next"], after.get("statistics_next", statistics)
        feeds = {"parameters": parameters, "gradients": gradients, **resident, **anchor, **scalars}
        names = [output.name for output in update.get_outputs()]
        after = dict(zip(names, update.run(None, feeds), strict=True))
        parameters, resident = after["parameters_next"], {name: after[f"{name}_next"] for name in resident}
    return State(parameters, statistics)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_fifty_steps_end_where_torch_ends(name: str) -> None:
    definition = made()
    spec, batches = derive_spec(definition), drawn(STEPS)
    state = stepped(training_graph(definition, spec, 0, name), spec, definition, batches, **given_to(name))
    exact = torch_trained(definition, spec, 0, batches, torch.float64, MAKERS[name], decay=DECAY)
    before = flat(tensors_of(definition.module), trained(spec))
    assert distance(state.parameters, exact.parameters, before) < 1e-5


@pytest.mark.parametrize("name", OPTIMISERS)
def test_with_kinks_fifty_steps_stay_as_near_to_float64_as_torch_does(name: str) -> None:
    definition = made(nn.BatchNorm2d(4), torch.relu)
    spec, batches = derive_spec(definition), drawn(STEPS)
    state = stepped(training_graph(definition, spec, 0, name), spec, definition, batches, **given_to(name))
    exact, reached = (
        torch_trained(definition, spec, 0, batches, dtype, MAKERS[name], decay=DECAY)
        for dtype in (torch.float64, torch.float32)
    )
    before = flat(tensors_of(definition.module), trained(spec))
    limit = 2 * distance(reached.parameters, exact.parameters, before) + 1e-5
    assert distance(state.parameters, exact.parameters, before) < limit


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fedprox_pulls_towards_where_the_round_began(name: str) -> None:
    definition = made()
    spec, batches = derive_spec(definition), drawn(STEPS)
    recipe = Recipe(name, proximal=True)
    state = stepped(training_graph(definition, spec, 0, recipe), spec, definition, batches, **given_to(name), mu=0.5)
    exact, free = (
        torch_trained(definition, spec, 0, batches, torch.float64, MAKERS[name], decay=DECAY, mu=mu)
        for mu in (0.5, 0.0)
    )
    before = flat(tensors_of(definition.module), trained(spec))
    assert distance(state.parameters, exact.parameters, before) < 1e-5
    assert distance(free.parameters, exact.parameters, before) > 1e-2


@pytest.mark.parametrize("proximal", [False, True])
def test_gradients_are_clipped_by_their_common_norm(proximal: bool) -> None:
    definition = made()
    spec, batches = derive_spec(definition), drawn(STEPS)
    graph = training_graph(definition, spec, 0, Recipe("sgd", proximal=proximal, clipped=True))
    mu = 0.5 if proximal else 0.0
    pull = {"mu": mu} if proximal else {}
    exact, free = (
        torch_trained(definition, spec, 0, batches, torch.float64, MAKERS["sgd"], decay=DECAY, mu=mu, clip_norm=norm)
        for norm in (0.3, math.inf)
    )
    before = flat(tensors_of(definition.module), trained(spec))
    some = stepped(graph, spec, definition, batches, **given_to("sgd"), **pull, clip_norm=0.3)
    none = stepped(graph, spec, definition, batches, **given_to("sgd"), **pull, clip_norm=1e30)
    assert distance(some.parameters, exact.parameters, before) < 1e-5
    assert distance(none.parameters, free.parameters, before) < 1e-5
    assert distance(some.parameters, free.parameters, before) > 1e-2


@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_without_batch_norm_a_batch_in_parts_is_the_batch(name: str, micro_batch: int) -> None:
    definition = made()
    spec, batches = derive_spec(definition), drawn(STEPS)
    recipe = Recipe(name, proximal=True, clipped=True)
    more = given_to(name) | {"mu": 0.2, "clip_norm": 0.5}
    parts = gathered(definition, spec, recipe, batches, micro_batch, **more)
    whole = stepped(training_graph(definition, spec, 0, recipe), spec, definition, batches, **more)
    assert distance(parts.parameters, whole.parameters, flat(tensors_of(definition.module), trained(spec))) < 1e-5


def test_with_batch_norm_a_batch_in_parts_is_what_torch_makes_of_the_same_parts() -> None:
    definition = made(nn.BatchNorm2d(4))
    spec, batches = derive_spec(definition), drawn(STEPS)
    parts = gathered(definition, spec, Recipe("sgd"), batches, 4, **given_to("sgd"))  # of six: four, then two
    exact = torch_trained(definition, spec, 0, batches, torch.float64, MAKERS["sgd"], decay=DECAY, micro_batch=4)
    assert distance(parts.parameters, exact.parameters, flat(tensors_of(definition.module), trained(spec))) < 1e-5
    np.testing.assert_allclose(parts.statistics, exact.statistics, rtol=1e-5, atol=1e-6)


def test_an_unknown_optimiser_of_an_update_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'adam'"):
        updating_graph(derive_spec(made()), 0, "adamv")
