"""Dropout draws anew at every step, and a step with the same inputs draws the same."""

import numpy as np
import torch
from torch import nn

from lamina.models.definition import Definition
from lamina.models.graph import inference_graph
from lamina.models.layout import derive_spec
from tests.graph_oracle import (
    HYPERPARAMETERS,
    Array,
    flat,
    graph_steps,
    run,
    session,
    tensors_of,
    trained,
    training_graph,
)

WIDTH = 400


def kept_units(p: float, x: Array, *, seed: float = 0.0, scale: float = 1.0) -> Array:
    """Which inputs of the last layer are kept, (N, WIDTH), read off the gradient of its kernel, sample by sample.

    The first layer yields ``scale`` everywhere; a sample's gradient is then 0 exactly where a unit was dropped.
    """
    module = nn.Sequential(nn.Linear(1, WIDTH), nn.Dropout(p), nn.Linear(WIDTH, 2))
    torch.manual_seed(0)
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.fill_(scale)
        module[2].weight.zero_()
        module[2].bias.zero_()
    definition = Definition("dropping", module, (1,), 2)
    spec = derive_spec(definition)
    graph = training_graph(definition, spec, 0)
    before = tensors_of(module)
    after = graph_steps(graph, spec, 0, before, [(x, np.zeros(len(x), int))], lr=1.0, weight_decay=0.0, seed=seed)
    gradient = flat(before, trained(spec)) - after.parameters
    return gradient[2 * WIDTH : 3 * WIDTH] * len(x) / -0.5 / scale  # of class 0: (0.5 - 1) * kept / N, summed


def test_the_share_that_is_kept_is_raised_in_proportion() -> None:
    kept = kept_units(0.25, np.ones((1, 1), np.float32))
    assert set(np.round(np.unique(kept), 4)) == {0.0, np.float32(round(1 / 0.75, 4))}
    assert 0.68 < (kept > 0).mean() < 0.82  # 0.75, within four standard deviations of 0.017


def test_samples_and_units_are_drawn_apart() -> None:
    kept = kept_units(0.5, np.ones((64, 1), np.float32)) / 2  # how many of 64 samples kept a unit
    assert abs(kept.mean() - 32) < 1  # binomial: standard deviation 4 a unit, 0.2 for the mean of 400
    assert 3 < kept.std() < 5


def test_the_same_inputs_draw_the_same() -> None:
    x = np.full((2, 1), 0.3, np.float32)
    np.testing.assert_array_equal(kept_units(0.5, x), kept_units(0.5, x))


def test_another_batch_or_parameter_or_seed_draws_otherwise() -> None:
    x = np.full((1, 1), 0.3, np.float32)
    first = kept_units(0.5, x) > 0
    for other in (kept_units(0.5, x + 0.1), kept_units(0.5, x, scale=1.001), kept_units(0.5, x, seed=1.0)):
        assert 0.4 < (first == (other > 0)).mean() < 0.6


def test_two_dropouts_of_a_step_draw_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(WIDTH, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drop = nn.functional.dropout
            return self.dense(drop(x, 0.5, self.training) * drop(x, 0.5, self.training))

    definition = Definition("twice", Twice(), (WIDTH,), 2)
    spec = derive_spec(definition)
    before = tensors_of(definition.module)
    x = np.ones((1, WIDTH), np.float32)
    after = graph_steps(training_graph(definition, spec, 0), spec, 0, before, [(x, np.zeros(1, int))], weight_decay=0.0)
    moved = flat(before, trained(spec))[:WIDTH] != after.parameters[:WIDTH]
    assert 0.15 < moved.mean() < 0.35  # a quarter is kept by both


def test_channels_are_dropped_as_a_whole() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 40, 1), nn.Dropout2d(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 2)
    )
    definition = Definition("channels", module, (1, 3, 3), 2)
    spec = derive_spec(definition)
    before = tensors_of(module)
    step = [(np.ones((1, 1, 3, 3), np.float32), np.zeros(1, int))]
    after = graph_steps(training_graph(definition, spec, 0), spec, 0, before, step, lr=1.0, weight_decay=0.0)
    gradient = np.abs(flat(before, trained(spec)) - after.parameters)[:40]
    assert 5 < (gradient == 0).sum() < 35


def test_inference_drops_nothing() -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 2))
    definition = Definition("calm", module, (3,), 2)
    x = np.ones((2, 3), np.float32)
    module.eval()
    expected = module(torch.tensor(x)).detach().numpy()
    model = inference_graph(definition, derive_spec(definition))
    np.testing.assert_allclose(run(model, tensors_of(module), x), expected, rtol=1e-5)


def test_every_cut_takes_the_seed() -> None:
    """The last layer's step draws nothing, but a bundle's graphs take the same inputs."""
    module = nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.5), nn.Linear(5, 4), nn.Linear(4, 2))
    definition = Definition("seeded", module, (3,), 2)
    spec = derive_spec(definition)
    for cut in spec.cuts:
        graph = training_graph(definition, spec, cut)
        assert graph.hyperparameters.keys() >= {*HYPERPARAMETERS, "seed"}
        assert {"seed", *HYPERPARAMETERS} <= {value.name for value in session(graph.model).get_inputs()}
