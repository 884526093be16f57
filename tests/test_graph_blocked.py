"""Convolutions in ONNX Runtime's blocked layout are the same convolutions."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.engine_facts import block_size
from lamina.models.graph import training_graph
from lamina.models.graph.writer import BLOCKED_DOMAIN
from lamina.models.layout import derive_spec
from tests.graph_oracle import distance, flat, graph_steps, tensors_of, torch_steps, trained

pytestmark = pytest.mark.skipif(not block_size(), reason="ONNX Runtime has no blocked layout for this processor")


class Convolutions(nn.Module):
    """From few channels, strided, depthwise, pointwise, wide, and one that blocks don't fit."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, (4, 3), stride=2, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
        self.pointwise = nn.Conv2d(32, 16, 1)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 48, 5, padding=2)
        self.strided = nn.Conv2d(48, 16, 3, stride=2, padding=1)
        self.odd = nn.Conv2d(16, 5, 3)
        self.dense = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x).tanh()).sigmoid()
        x = self.wide(self.norm(self.pointwise(x)).tanh()).tanh()
        return self.dense(self.odd(self.strided(x).tanh()).mean((2, 3)))


def test_steps_in_blocks_end_where_torch_ends() -> None:
    torch.manual_seed(0)
    definition = Definition("convolutions", Convolutions(), (3, 15, 14), 3)
    spec = derive_spec(definition)
    graph = training_graph(definition, spec, 0, serial=False, block=block_size())
    blocked = [operator.op_type for operator in graph.model.graph.node if operator.domain == BLOCKED_DOMAIN]
    assert blocked.count("Conv") == 5 + 4  # all but the odd one forwards, and those without stride backwards
    rng = np.random.default_rng(1)
    drawn = [(rng.standard_normal((n, 3, 15, 14), np.float32), rng.integers(0, 3, n)) for n in (4, 1)]
    start = tensors_of(definition.module)
    state = graph_steps(graph, spec, 0, start, drawn)
    exact = torch_steps(definition, spec, 0, drawn, torch.float64)
    assert distance(state.parameters, exact.parameters, flat(start, trained(spec))) < 1e-5


def test_a_graph_without_blocks_has_standard_operators_alone() -> None:
    definition = Definition("convolutions", Convolutions(), (3, 15, 14), 3)
    graph = training_graph(definition, derive_spec(definition), 0)
    assert {operator.domain for operator in graph.model.graph.node} == {""}
