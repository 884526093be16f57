"""Frozen tensors lie in a bundle once, for all graphs; a trained model loads strictly into the user's module."""

from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.coordinator.records.exporting import export
from lamina.edge_agent.admission.graphs import check_graph
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition, initial_values, load_definition
from lamina.models.errors import ModelError
from lamina.models.values import flatten, layer_vector
from tests.admitted import admitted


class Adapted(nn.Module):
    """A frozen dense layer with a low-rank adapter (LoRA)."""

    def __init__(self, features: int, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(features, features).requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, features) * 0.1)
        self.up = nn.Parameter(torch.zeros(features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down), self.up)  # type: ignore[no-any-return]  # torch's Any


class Odd(nn.Module):
    """All that a state dictionary may hold: tied, frozen, unread and integer tensors, and one that it leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 64)
        self.frozen = nn.Linear(64, 64).requires_grad_(False)
        self.norm = nn.BatchNorm1d(64)
        self.unread = nn.Linear(3, 5)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(64, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("order", torch.arange(64).flip(0))
        self.register_buffer("mask", torch.rand(64, 64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.frozen(self.embedding(x).mean(1)) @ self.mask)
        return self.head(h[:, self.order].tanh()) * self.scale  # type: ignore[no-any-return]  # torch's Any


def adapted(layers: int = 3, features: int = 96) -> Definition:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        blocks = [part for _ in range(layers) for part in (Adapted(features), nn.Tanh())]
        return Definition("adapted", nn.Sequential(*blocks, nn.Linear(features, 3)), (features,), 3)


def odd() -> Definition:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Definition("odd", Odd(), (5,), 20, "int64")


def built(definition: Definition, folder: Path) -> Bundle:
    build_bundle(definition, folder, batch_size=4)
    return read_bundle(folder)


def test_frozen_tensors_lie_in_the_bundle_once(tmp_path: Path) -> None:
    definition = adapted()
    bundle = built(definition, tmp_path / "bundle")
    frozen_bytes = 3 * 96 * 96 * 4
    graphs = [path for path in bundle.folder.iterdir() if path.suffix == ".onnx"]
    assert len(graphs) > 10
    assert bundle.manifest.constants is not None
    assert frozen_bytes <= bundle.manifest.constants.size_bytes < frozen_bytes + 1000
    assert max(path.stat().st_size for path in graphs) < frozen_bytes
    cost = bundle.manifest.sub_models[0].cost
    assert cost is not None
    assert cost.resident_mib > frozen_bytes / 2**20


@pytest.mark.parametrize("definition", [adapted(), odd()], ids=["adapted", "odd"])
def test_a_board_loads_graphs_that_read_the_file_of_frozen_tensors(definition: Definition, tmp_path: Path) -> None:
    bundle = built(definition, tmp_path / "bundle")
    assert admitted(bundle) >= len(bundle.manifest.sub_models)


@pytest.mark.parametrize(("size_bytes", "says"), [(10, "is not within the bundle's file"), (None, "must not read")])
def test_a_board_loads_none_that_reads_beyond_it_or_another_file(
    size_bytes: int | None, says: str, tmp_path: Path
) -> None:
    bundle = built(adapted(), tmp_path / "bundle")
    entry = bundle.manifest.constants
    assert entry is not None
    claimed = None if size_bytes is None else msgspec.structs.replace(entry, size_bytes=size_bytes)
    graph = bundle.path(bundle.manifest.sub_models[0].graph)
    with pytest.raises(ModelError, match=says):
        check_graph(graph, batch=4, budget_mib=None, constants=claimed)


def test_a_network_without_frozen_tensors_has_no_such_file(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    manifest = built(Definition("plain", module, (6,), 3), tmp_path / "bundle").manifest
    assert (manifest.constants, manifest.unread, manifest.aliases, manifest.transient) == (None, None, {}, ())


@pytest.mark.parametrize("definition", [odd(), adapted(1)], ids=["odd", "adapted"])
def test_a_trained_model_loads_strictly(tmp_path: Path, definition: Definition) -> None:
    bundle = built(definition, tmp_path / "bundle")
    spec = bundle.manifest.spec
    values = {name: np.asarray(value + 1) for name, value in initial_values(definition, spec).items()}
    flat = flatten(spec, values)
    vectors = [layer_vector(spec, layer, *flat) for layer in range(len(spec.layers))]
    weights, graph = export(bundle, vectors, tmp_path, "model")

    module = definition.module
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.load_state_dict(safetensors.torch.load_file(weights), strict=True)
    for name, tensor in module.state_dict().items():
        expected = torch.from_numpy(values[name]) if name in values else before[name]
        if name not in bundle.manifest.aliases:
            assert torch.equal(tensor, expected), name

    shape = (4, *definition.input_shape)
    x = np.arange(np.prod(shape)).reshape(shape) % 7
    x = x if definition.input_dtype == "int64" else (x / 7).astype(np.float32)
    session = onnxruntime.InferenceSession(graph.read_bytes(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected_logits = module.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected_logits, rtol=1e-4, atol=1e-5)


FILE = """
from torch import nn

def build():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    module[1].weight = module[0].weight
    module.input_shape, module.classes = (4,), 3
    return module
"""


def test_a_network_starts_from_the_values_of_a_file(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(FILE)
    state = load_definition(f"{source}:build", seed=1).module.state_dict()
    values = {name: tensor.clone() for name, tensor in state.items() if name != "1.weight"}  # tied: named once
    safetensors.torch.save_file(values, tmp_path / "values.safetensors")
    module = load_definition(f"{source}:build", seed=2, values=tmp_path / "values.safetensors").module
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert module[1].weight is module[0].weight


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: values.pop("2.bias"), "2.bias among them"),
        (lambda values: values.update({"2.biases": torch.zeros(3)}), "did you mean '2.bias'"),
        (lambda values: values.update({"2.bias": torch.zeros(4)}), r"2\.bias has the shape \(4,\), and in the module"),
    ],
    ids=["lacking", "strange", "shape"],
)
def test_values_of_another_network_are_refused(tmp_path: Path, change: object, said: str) -> None:
    source = tmp_path / "net.py"
    source.write_text(FILE)
    state = load_definition(f"{source}:build").module.state_dict()
    values = {name: tensor.clone() for name, tensor in state.items()}
    change(values)  # type: ignore[operator]  # a function of the dictionary
    safetensors.torch.save_file(values, tmp_path / "values.safetensors")
    with pytest.raises(ModelError, match=said):
        load_definition(f"{source}:build", values=tmp_path / "values.safetensors")


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "values.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="can't be read"):
        load_definition("digits_cnn", values=tmp_path / "values.safetensors")
