"""A definition becomes a bundle: the same bytes each time, with all that a device needs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.capacity import capacity
from lamina.models.definition import Definition
from lamina.models.errors import BundleError, ModelError
from lamina.models.export import export_model
from lamina.models.manifest import ONNXRUNTIME_TRAINING


class Small(nn.Module):
    """A convolution with a batch norm, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.dense = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.norm(self.conv(x)).tanh().flatten(1))  # type: ignore[no-any-return]  # torch's Any


def small(seed: int = 0) -> Definition:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Definition("small", Small(), (1, 2, 2), 4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle") / "small"
    build_bundle(small(), folder, batch_size=8)
    return read_bundle(folder)


def external(path: Path) -> set[str]:
    """Names of the values that a graph wants to be given."""
    graph = onnx.load(path, load_external_data=False).graph
    return {tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL}


def test_the_manifest_returned_is_the_one_in_the_folder(tmp_path: Path) -> None:
    manifest = build_bundle(small(), tmp_path / "small", batch_size=8)
    assert read_bundle(tmp_path / "small").manifest == manifest


def test_another_engine_has_graphs_of_its_own_beside_those_for_all(tmp_path: Path, bundle: Bundle) -> None:
    build_bundle(small(), tmp_path / "small", batch_size=8, engines=[ONNXRUNTIME_TRAINING])
    both = read_bundle(tmp_path / "small")
    for sub_model, plain in zip(both.manifest.sub_models, bundle.manifest.sub_models, strict=True):
        assert sub_model.graph == plain.graph
        assert plain.of_engines == {}
        own = onnx.load(both.path(sub_model.on(ONNXRUNTIME_TRAINING).graph))
        assert [value.name for value in own.graph.input] == [
            value.name for value in onnx.load(both.path(sub_model.graph)).graph.input
        ]
    whole = onnx.load(both.path(both.manifest.sub_model(0).on(ONNXRUNTIME_TRAINING).graph))
    assert {"ConvGrad", "BatchNormalizationGrad"} <= {operator.op_type for operator in whole.graph.node}
    assert {opset.domain for opset in whole.opset_import} == {"", "com.microsoft"}


def test_the_same_definition_gives_the_same_digest(tmp_path: Path, bundle: Bundle) -> None:
    build_bundle(small(), tmp_path / "again", batch_size=8)
    assert read_bundle(tmp_path / "again").digest == bundle.digest


@pytest.mark.slow
def test_another_process_with_another_order_of_sets_gives_the_same_digest(tmp_path: Path, bundle: Bundle) -> None:
    script = (
        "import sys; from pathlib import Path; from lamina.models.build import build_bundle; "
        "from tests.test_build import small; build_bundle(small(), Path(sys.argv[1]), batch_size=8)"
    )
    folder = tmp_path / "elsewhere"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", script, str(folder)], env=environment, cwd=root, check=True)
    assert read_bundle(folder).digest == bundle.digest


def test_another_seed_changes_the_values_and_no_graph(tmp_path: Path, bundle: Bundle) -> None:
    other = build_bundle(small(seed=1), tmp_path / "other", batch_size=8)
    assert other.values != bundle.manifest.values
    assert other.sub_models == bundle.manifest.sub_models
    assert other.pieces == bundle.manifest.pieces
    assert other.inference == bundle.manifest.inference


def test_initial_values_are_the_modules(bundle: Bundle) -> None:
    found = bundle.initial_values()
    expected = {name: tensor for name, tensor in small().module.state_dict().items() if "num_batches" not in name}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].tolist() == tensor.tolist()


def test_a_torch_module_takes_the_values_back(bundle: Bundle) -> None:
    module = Small()
    values = {name: torch.from_numpy(value) for name, value in bundle.initial_values().items()}
    module.load_state_dict(values)
    assert torch.equal(module.conv.weight, small().module.get_parameter("conv.weight"))


def test_sub_models_have_the_capacities_of_their_cuts(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.batch_size == 8
    for sub_model in manifest.sub_models:
        kept = capacity(manifest.spec, sub_model.cut, 8)
        assert (sub_model.parameters, sub_model.activations) == (kept.parameters, kept.activations)
        assert sub_model.capacity == kept.ratio
        assert sub_model.peak_mib == 0
    # Dense only: 52 parameters, 8 * 4 outputs; the whole has 27 + 6 + 52 parameters and 8 * (12 + 4) outputs.
    assert manifest.sub_models[1].capacity == (52 + 32) / (85 + 128)


def test_training_graphs_take_and_give_what_the_manifest_says(bundle: Bundle) -> None:
    manifest = bundle.manifest
    for sub_model in manifest.sub_models:
        graph = onnx.load(bundle.path(sub_model.graph)).graph
        resident = {"parameters", *manifest.optimiser_state} | ({"statistics"} if sub_model.cut == 0 else set())
        assert {i.name for i in graph.input} == {"x", "y", *manifest.hyperparameters, *resident}
        assert {o.name for o in graph.output} == {"loss", "correct", *(f"{name}_next" for name in resident)}
    assert "lr" in manifest.hyperparameters


def test_frozen_pieces_and_the_inference_graph_want_their_values(bundle: Bundle) -> None:
    manifest = bundle.manifest
    (piece,) = manifest.pieces
    frozen = {"conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert external(bundle.path(piece.graph)) == frozen
    assert external(bundle.path(manifest.inference)) == frozen | {"dense.weight", "dense.bias"}


def test_an_exported_model_computes_what_torch_does(bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {
        name: value + rng.uniform(0, 0.5, value.shape).astype(np.float32)
        for name, value in bundle.initial_values().items()
    }
    export_model(bundle, values, tmp_path / "model.onnx")
    module = Small().eval()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    x = rng.normal(size=(5, 1, 2, 2)).astype(np.float32)
    session = onnxruntime.InferenceSession((tmp_path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"x": x})
    np.testing.assert_allclose(found, module(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_each_cut_is_measured_on_a_whole_bundle_and_rounded_up(tmp_path: Path) -> None:
    seen = []

    def measure(folder: Path, cut: int) -> float:
        seen.append((read_bundle(folder).manifest.sub_model(cut).peak_mib, cut))
        return 10.01 - cut  # 10.01 and 9.01 MiB

    manifest = build_bundle(small(), tmp_path / "small", batch_size=8, measure=measure)
    assert seen == [(0, 0), (0, 1)]
    assert [sub_model.peak_mib for sub_model in manifest.sub_models] == [10.1, 9.1]
    assert read_bundle(tmp_path / "small").manifest == manifest


def test_a_measurement_that_fails_leaves_no_bundle(tmp_path: Path) -> None:
    def measure(folder: Path, cut: int) -> float:
        raise MemoryError

    with pytest.raises(MemoryError):
        build_bundle(small(), tmp_path / "small", batch_size=8, measure=measure)
    assert list(tmp_path.iterdir()) == []


def test_the_modules_values_and_mode_and_torchs_generator_are_left_alone(tmp_path: Path) -> None:
    definition = small()
    definition.module.eval()
    before = {name: tensor.clone() for name, tensor in definition.module.state_dict().items()}
    state = torch.random.get_rng_state()
    build_bundle(definition, tmp_path / "small", batch_size=8)
    assert not any(part.training for part in definition.module.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in definition.module.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_folder_that_is_no_bundle_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    untraceable = Definition("untraceable", nn.Module(), (1,), 2)
    with pytest.raises(BundleError, match=r"'notes\.txt'"):
        build_bundle(untraceable, tmp_path, batch_size=8)


def test_an_empty_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="batch_size must be at least 1, and is 0"):
        build_bundle(small(), tmp_path / "small", batch_size=0)


def test_an_unknown_optimiser_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="sdg"):
        build_bundle(small(), tmp_path / "small", batch_size=8, optimiser="sdg")
    assert list(tmp_path.iterdir()) == []
