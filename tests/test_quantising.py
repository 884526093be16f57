"""int8: smaller, as good on the operator's samples or not sent out, and admitted by boards; personal layers stay."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from torch import nn

from lamina.broker.link.memory import MemoryBroker
from lamina.coordinator.records.deployments import DeploymentFiles
from lamina.coordinator.records.offering import Wish, prepare
from lamina.coordinator.records.quantising import quantised
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.settings import Aggregation, Evaluation, FederationSettings
from lamina.edge_agent.admission.graphs import check_graph
from lamina.edge_agent.training.trainer import WholeForward
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition
from lamina.models.errors import ConfigError, ModelError
from lamina.models.export import export_model
from lamina.models.samples import LabelledSamples
from tests.patience import PATIENCE_S
from tests.whole_federation import STRONG, Setup, small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Convolutions with norms, and a dense layer whose weights are turned first."""
    folder = tmp_path_factory.mktemp("bundle") / "small"
    module = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    build_bundle(Definition("small", module, (1, 8, 8), 10), folder, batch_size=4, measure=lambda *_: 5.0)
    return read_bundle(folder)


def digits(count: int = 64) -> LabelledSamples:
    rng = np.random.default_rng(0)
    return LabelledSamples(rng.random((count, 1, 8, 8), np.float32), np.arange(count) % 10)


def test_a_network_takes_a_third_of_the_bytes_and_says_nearly_the_same(bundle: Bundle, tmp_path: Path) -> None:
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    for path in (plain, small):
        export_model(bundle, bundle.initial_values(), path)
    assert quantised(small, digits(), bundle.manifest.spec) == "static"
    assert small.stat().st_size < 0.35 * plain.stat().st_size
    check_graph(small, batch=32, budget_mib=64.0)  # a board admits it
    x = {"x": digits().samples(np.arange(32), "float32")}
    [before], [after] = WholeForward(plain)(x).values(), WholeForward(small)(x).values()
    assert np.abs(after - before).max() < 0.1 * np.abs(before).max()
    model = onnx.load(small)
    assert {node.domain for node in model.graph.node} == {""}
    assert {entry.key: entry.value for entry in model.metadata_props}["lamina.quantised"] == "int8"
    assert set(tmp_path.iterdir()) == {plain, small}


def test_personal_layers_stay_as_they_are(bundle: Bundle, tmp_path: Path) -> None:
    spec = bundle.manifest.spec
    own = {tensor.name for layer in spec.layers[-1:] for tensor in layer.parameters}
    path = tmp_path / "model.onnx"
    export_model(bundle, bundle.initial_values(), path)
    assert "personal layers in float32" in quantised(path, digits(), spec, own)
    kept = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer if one.name in own}
    assert kept.keys() == own
    for name, value in kept.items():
        np.testing.assert_array_equal(value, bundle.initial_values()[name])
    check_graph(path, batch=32, budget_mib=64.0)


async def trained(folder: Path, **changes: object) -> FederationSettings:
    setup = Setup(folder, small_bundle(folder / "bundle"), MemoryBroker().dial, budgets=(STRONG,))
    settings = setup.settings(**changes)
    async with setup.agents(), asyncio.timeout(PATIENCE_S):
        await Coordinator(settings, setup.bundle, setup.dial).run()
    return settings


async def test_it_is_judged_before_it_goes_out_and_its_card_says_so(tmp_path: Path) -> None:
    settings = await trained(tmp_path)
    files = DeploymentFiles(Path(settings.folder))
    ready = prepare(settings, files, 1, Wish(quantise="int8", most_loss=1.0))
    assert ready.offer.quantised == "int8"
    assert "int8 (static): accuracy " in ready.said[1]
    assert "## Quantisation" in (files.place(1) / "model.md").read_text()
    with pytest.raises(ConfigError, match="so it is not deployed"):
        prepare(settings, files, 2, Wish(quantise="int8", most_loss=-1.0))
    blind = msgspec.structs.replace(settings, evaluation=Evaluation())
    with pytest.raises(ConfigError, match=r"evaluation\.data"):
        prepare(blind, files, 3, Wish(quantise="int8"))


async def test_personal_layers_and_int8_go_together(tmp_path: Path) -> None:
    settings = await trained(tmp_path, aggregation=Aggregation(phi=2, personal=("4",)))
    ready = prepare(settings, DeploymentFiles(Path(settings.folder)), 1, Wish(quantise="int8", most_loss=1.0))
    assert len(ready.offer.personal) == 2


def test_what_the_tools_can_not_do_is_one_line(bundle: Bundle, tmp_path: Path) -> None:
    export_model(bundle, bundle.initial_values(), tmp_path / "m.onnx")
    empty = digits(1)
    object.__setattr__(empty, "x", np.zeros((0, 1, 8, 8), np.float32))
    with pytest.raises(ModelError, match="can't be made int8"):
        quantised(tmp_path / "m.onnx", empty, bundle.manifest.spec)
