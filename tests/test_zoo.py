"""The networks of the zoo are those of their sources, and learn."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lamina.models.build import build_bundle
from lamina.models.bundle import read_bundle
from lamina.models.capacity import Capacity, capacity
from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ModelError
from lamina.models.export import export_model
from lamina.models.layout import derive_spec
from lamina.models.source import zoo_names
from lamina.models.spec import ModelSpec
from tests.admitted import admitted


def parameters(definition: Definition) -> int:
    return sum(tensor.numel() for tensor in definition.module.parameters())


@pytest.mark.parametrize("source", [*zoo_names(), "resnet20,norm=group"])
def test_a_batch_of_samples_gives_logits(source: str) -> None:
    definition = load_definition(source)
    x = torch.zeros(2, *definition.input_shape, dtype=getattr(torch, definition.input_dtype))
    assert definition.module.eval()(x).shape == (2, definition.classes)


@pytest.mark.parametrize("source", zoo_names())
def test_the_number_of_classes_is_an_option(source: str) -> None:
    definition = load_definition(source, classes=7)
    x = torch.zeros(2, *definition.input_shape, dtype=getattr(torch, definition.input_dtype))
    assert definition.module.eval()(x).shape == (2, 7)


def test_the_zoo_is_the_files_in_its_folder() -> None:
    assert zoo_names() == [
        "digits_cnn",
        "ds_cnn",
        "leaf_cnn",
        "mobilenet_v2",
        "resnet20",
        "sensor_cnn",
        "text_lstm",
        "tiny_transformer",
    ]


def test_parameters_are_as_many_as_the_sources_say() -> None:
    # LEAF's FEMNIST model has 6,603,710 with its 62 classes: 832 + 51,264 + 6,424,576 + 127,038.
    assert parameters(load_definition("leaf_cnn", classes=62)) == 6_603_710
    assert parameters(load_definition("resnet20")) == 272_762
    assert parameters(load_definition("resnet20", norm="group")) == 272_762
    # 320 + 9,248 + 9,248 + 32,832 + 650
    assert parameters(load_definition("digits_cnn")) == 52_298
    # 640,000 + 4*64*(64 + 64 + 2) + 130
    assert parameters(load_definition("text_lstm")) == 673_410
    # MLPerf Tiny's has 24,908, with 9 biases of 64 under norms, and 9 * 128 statistics.
    assert parameters(load_definition("ds_cnn")) == 24_908 - 9 * 64 - 9 * 128
    # 3,504,872 with 1,000 classes, by torchvision's count; each class has 1,281.
    assert parameters(load_definition("mobilenet_v2")) == 3_504_872 - 1281 * 990
    # 9*9*32 + 9*32*64 + 9*64*64, norms 2 * (32 + 64 + 64); 1,025 * 64, 65 * 6
    assert parameters(load_definition("sensor_cnn")) == 2_592 + 18_432 + 36_864 + 320 + 65_600 + 390
    # 64 * (10,000 + 128); an encoder: norms 256, 65 * 192, 65 * 64, 65 * 256, 257 * 64; norm 128, 65 * 2
    assert (
        parameters(load_definition("tiny_transformer")) == 648_192 + 4 * (256 + 12_480 + 4_160 + 16_640 + 16_448) + 258
    )


@pytest.fixture(scope="module")
def resnet20() -> ModelSpec:
    return derive_spec(load_definition("resnet20"))


def test_capacities_of_resnet20_are_those_of_embracingfl(resnet20: ModelSpec) -> None:
    strong, moderate, weak = (capacity(resnet20, cut, 32) for cut in resnet20.cuts)
    assert strong == Capacity(272_762, 6_947_136, 1.0)
    assert (moderate.parameters, moderate.activations, round(moderate.ratio, 2)) == (257_994, 2_752_832, 0.42)
    assert (weak.parameters, weak.activations, round(weak.ratio, 2)) == (206_346, 917_824, 0.16)


def test_resnet20_is_cut_after_three_and_six_residual_blocks(resnet20: ModelSpec) -> None:
    blocks = {block.first: block for block in resnet20.blocks}
    assert [blocks[cut].input_shape for cut in resnet20.cuts] == [(3, 32, 32), (16, 32, 32), (32, 16, 16)]


@pytest.mark.parametrize(
    ("source", "cuts", "ratios"),
    [
        ("ds_cnn", ["conv", "blocks.2.depthwise", "blocks.3.depthwise"], [1.0, 0.44, 0.22]),
        ("mobilenet_v2", ["first.0", "stages.3.0.expand.0", "stages.5.0.expand.0"], [1.0, 0.40, 0.13]),
        ("sensor_cnn", ["stage1.0", "stage3.0", "hidden"], [1.0, 0.38, 0.15]),
        (
            "tiny_transformer",
            ["tokens.meaning", *(f"encoders.{index}.attention_norm" for index in range(4))],
            [1.0, 0.94, 0.70, 0.47, 0.23],
        ),
    ],
)
def test_sub_models_are_of_clearly_different_sizes(source: str, cuts: list[str], ratios: list[float]) -> None:
    spec = derive_spec(load_definition(source))
    assert [spec.layers[cut].name for cut in spec.cuts] == cuts
    assert [round(capacity(spec, cut, 32).ratio, 2) for cut in spec.cuts] == ratios


@pytest.mark.parametrize("width", [0.25, 0.5, 1.4])
def test_channels_of_mobilenet_are_multiples_of_8(width: float) -> None:
    kernels = dict(load_definition("mobilenet_v2", width=width).module.named_parameters())
    channels = {tensor.shape[0] for name, tensor in kernels.items() if tensor.dim() == 4}
    assert {count % 8 for count in channels} == {0}
    # The paper's rule, by hand: 32 * width, and 16 * width, rounded to the next multiple of 8, 8 at least.
    assert kernels["first.0.weight"].shape[0] == {0.25: 8, 0.5: 16, 1.4: 48}[width]
    assert kernels["stages.0.0.project.weight"].shape[0] == {0.25: 8, 0.5: 8, 1.4: 24}[width]
    assert kernels["last.0.weight"].shape[0] == (1792 if width == 1.4 else 1280)


def test_heads_that_can_not_share_out_the_width_are_told() -> None:
    with pytest.raises(ModelError, match="width must be a multiple of heads, and 64 is none of 5"):
        load_definition("tiny_transformer,heads=5")


def test_each_residual_block_starts_as_its_shortcut() -> None:
    module = load_definition("resnet20").module.eval()
    x = torch.rand(2, 16, 32, 32)
    block = module.get_submodule("stage1.1")
    assert torch.equal(block(x), x)  # x is positive already, so the last rectifier changes nothing


def test_group_norm_leaves_no_statistics(resnet20: ModelSpec) -> None:
    # Norms, projections' included: 16 + 7*16 + 7*32 + 7*64 = 800 channels, each with a mean and a variance.
    assert resnet20.statistics_offsets[-1] == 1600
    assert derive_spec(load_definition("resnet20", norm="group")).statistics_offsets[-1] == 0


def test_an_unknown_norm_is_told_with_those_there_are() -> None:
    with pytest.raises(ModelError, match="norm must be one of batch, group, and is 'layer'"):
        load_definition("resnet20,norm=layer")


def test_the_three_sub_models_of_digits_cnn_differ_clearly() -> None:
    spec = derive_spec(load_definition("digits_cnn"))
    assert [layer.name for layer in spec.layers] == ["conv1", "conv2", "conv3", "hidden", "classifier"]
    assert spec.cuts == (0, 2, 3)
    # A sample has 2 * 32*64, 32*16, 64 and 10 activations; with 32 samples a is 149,824, 18,752 and 2,368,
    # and p 52,298, 42,730 and 33,482.
    assert [round(capacity(spec, cut, 32).ratio, 2) for cut in spec.cuts] == [1.0, 0.30, 0.18]


def test_the_forget_gate_of_text_lstm_starts_open() -> None:
    bias = load_definition("text_lstm", hidden=2).module.get_parameter("lstm.bias_ih_l0")
    assert bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]  # input, forget, cell, output gate


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "source",
    [
        "digits_cnn",
        "ds_cnn",
        "leaf_cnn,hidden=8",
        "mobilenet_v2,width=0.25",
        "resnet20",
        "resnet20,norm=group",
        "sensor_cnn",
        "text_lstm,length=5,vocabulary=50,width=8",
        "tiny_transformer,length=6,vocabulary=50,width=8,depth=1",
    ],
)
def test_each_network_can_be_bundled_and_exported(source: str, tmp_path: Path) -> None:
    definition = load_definition(source)
    build_bundle(definition, tmp_path / "bundle", batch_size=4)
    bundle = read_bundle(tmp_path / "bundle")
    assert admitted(bundle) >= len(bundle.manifest.sub_models)
    trained = as_if_trained(definition)
    export_model(bundle, trained, tmp_path / "model.onnx")
    x = np.random.default_rng(0).integers(0, 9, (3, *definition.input_shape)).astype(definition.input_dtype)
    session = onnxruntime.InferenceSession((tmp_path / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"x": x})
    expected = definition.module.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def as_if_trained(definition: Definition) -> dict[str, np.ndarray]:
    """The module's tensors, after they and the running statistics have moved from where they start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in definition.module.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in definition.module.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    return {name: tensor.detach().numpy() for name, tensor in definition.module.state_dict().items()}


def test_digits_cnn_learns_the_digits_in_five_epochs() -> None:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    images = torch.tensor((x[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    labels = torch.tensor(y[order])
    module = load_definition("digits_cnn").module
    descend(module, images[:1400], labels[:1400], epochs=5)
    accuracy = (module(images[1400:]).argmax(1) == labels[1400:]).float().mean().item()
    assert accuracy > 0.95


def descend(module: nn.Module, x: torch.Tensor, y: torch.Tensor, *, epochs: int) -> None:
    """Plain SGD with momentum, a new order of samples in each epoch."""
    optimiser = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    shuffle = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=shuffle).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[batch]), y[batch]).backward()
            optimiser.step()
