"""Every rule computes what torch's operator computes, and so does the rule of its gradient.

A case is a small module between a dense or conv layer before it and a dense layer after it; gradients of all parameters
are compared with torch's in float64, and so are the logits in inference mode.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.models.definition import Definition
from lamina.models.errors import ModelError
from lamina.models.graph.rules import subject
from lamina.models.layout import derive_spec
from tests.graph_oracle import assert_trains_as_torch_does, moving, training_graph


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class SideBySide(nn.Module):
    """The results of several modules on the same x, flat, one after another."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x).flatten(1) for part in self.parts], 1)


class SelfAttention(nn.Module):
    """Torch's attention as a user calls it."""

    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def causal(x: Tensor) -> Tensor:
    heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
    return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True).transpose(1, 2)


def masked_attention(x: Tensor) -> Tensor:
    """The first row of the mask sees nothing."""
    mask = torch.ones(6, 6, dtype=torch.bool).tril(-1)
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def in_place(x: Tensor) -> Tensor:
    y = (x * 2).add_(1)
    y[:, 0] = 0.0
    y.view(-1).mul_(0.5)
    return y.relu_()


def functions(*those: Callable[[Tensor], Tensor]) -> nn.Module:
    return SideBySide(*map(Function, those))


IMAGE = (3, 8, 8)
SEQUENCE = (6, 8)
VECTOR = (8,)
VOLUME = (2, 4, 6, 6)


def conv(inputs: int, outputs: int, kernel: int | tuple[int, int], **options: object) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, **options)  # type: ignore[arg-type]  # passed on


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "same size": lambda: nn.Sequential(conv(3, 12, 3, padding=1), conv(12, 4, 5, padding=2)),
    "kernel is no square": lambda: nn.Sequential(
        conv(3, 12, (3, 5), padding=(1, 2)), conv(12, 4, (5, 1), padding=(2, 0))
    ),
    "many channels": lambda: conv(3, 64, 3, padding=1),
    "few rows": lambda: conv(3, 4, 3, padding=1),
    "no padding": lambda: conv(3, 12, 3),
    "stride 2": lambda: nn.Sequential(conv(3, 12, 3, padding=1, stride=2), conv(12, 5, 1, stride=2)),
    "stride 3 leaves a rest": lambda: conv(3, 12, 3, stride=3),
    "dilation": lambda: nn.Sequential(conv(3, 12, 3, padding=2, dilation=2), conv(12, 4, 3, dilation=2)),
    "stride and dilation": lambda: conv(3, 12, 3, padding=2, dilation=2, stride=2),
    "groups": lambda: nn.Sequential(conv(3, 8, 1), conv(8, 12, 3, groups=4, padding=1)),
    "depthwise": lambda: nn.Sequential(conv(3, 8, 1), conv(8, 8, 3, groups=8, padding=1), conv(8, 16, 3, groups=8)),
    "depthwise with stride": lambda: nn.Sequential(conv(3, 8, 1), conv(8, 8, 5, groups=8, padding=2, stride=2)),
    "even kernel": lambda: SideBySide(conv(3, 12, 4, padding=1, stride=2), conv(3, 4, 4, padding=2)),
    "reflecting margin": lambda: conv(3, 4, 3, padding=1, padding_mode="reflect"),
    "kernel larger than the image": lambda: nn.Sequential(
        conv(3, 12, 3, padding=1),
        nn.MaxPool2d(4),
        conv(12, 12, 5, padding=2),
        nn.MaxPool2d(2),
        conv(12, 12, 3, padding=1),
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), nn.ConvTranspose2d(4, 6, 2, groups=2)
    ),
}
ON_IMAGES: dict[str, Callable[[], nn.Module]] = {
    "max pooling": lambda: nn.MaxPool2d(2),
    "overlapping max pooling": lambda: nn.MaxPool2d(3, 2, 1),
    "average pooling": lambda: SideBySide(
        nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)
    ),
    "adaptive pooling": lambda: SideBySide(
        nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(3), nn.AdaptiveMaxPool2d(1), nn.AdaptiveMaxPool2d(2)
    ),
    "upsampling": lambda: SideBySide(nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="bilinear")),
    "margins": lambda: SideBySide(
        nn.ZeroPad2d((1, 0, 2, 1)), nn.ReflectionPad2d((1, 2, 0, 1)), nn.ReplicationPad2d(1), nn.ConstantPad2d(1, 0.5)
    ),
    "moving channels": lambda: SideBySide(nn.PixelShuffle(2), nn.ChannelShuffle(2)),
    "batch norm": lambda: nn.BatchNorm2d(4, momentum=0.3, eps=1e-3),
    "batch norm without scale": lambda: nn.BatchNorm2d(4, affine=False),
    "batch norm without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "group norm": lambda: SideBySide(nn.GroupNorm(2, 4), nn.GroupNorm(4, 4, affine=False)),
    "instance norm": lambda: SideBySide(nn.InstanceNorm2d(4), nn.InstanceNorm2d(4, affine=True)),
    "instance norm with statistics": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "local response norm": lambda: nn.LocalResponseNorm(3),
    "squeeze and excite": lambda: Function(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "patches": lambda: nn.Unfold(2),
}
ON_SEQUENCES: dict[str, Callable[[], nn.Module]] = {
    "conv over time": lambda: nn.Sequential(
        nn.Conv1d(6, 16, 3, padding=2, dilation=2), nn.MaxPool1d(2), nn.AvgPool1d(2)
    ),
    "transposed over time": lambda: SideBySide(
        nn.ConvTranspose1d(6, 4, 3, 2, padding=1, output_padding=1), nn.ConvTranspose1d(6, 4, 3, groups=2, dilation=2)
    ),
    "pooling over time": lambda: SideBySide(
        nn.AdaptiveAvgPool1d(1), nn.AdaptiveAvgPool1d(4), nn.MaxPool1d(3, 1, 1), nn.AvgPool1d(3, 2, 1)
    ),
    "layer norm": lambda: SideBySide(nn.LayerNorm(8), nn.LayerNorm((6, 8)), nn.RMSNorm(8)),
    "batch norm over time": lambda: nn.BatchNorm1d(6),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
    "attention": lambda: SelfAttention(add_bias_kv=True),
    "causal attention": lambda: Function(causal),
    "attention that sees nothing": lambda: Function(masked_attention),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True),
    "slices": lambda: functions(
        lambda x: x[:, 1:5, ::2],
        lambda x: x[:, -1],
        lambda x: x[..., -3:],
        lambda x: x.unbind(1)[2],
        lambda x: x.flip(1),
    ),
    "cuts and joints": lambda: functions(
        lambda x: torch.split(x, [3, 5], -1)[1],
        lambda x: torch.stack([x, x * 2], 1),
        lambda x: x.chunk(3, 1)[2],
        lambda x: x.roll((1, 2), (1, 2)),
        lambda x: x.repeat(1, 2, 1),
        lambda x: x.unsqueeze(1).expand(-1, 3, -1, -1),
    ),
    "look-ups": lambda: functions(
        lambda x: x[:, [0, 2, 2]],
        lambda x: x[:, [0, 1], [3, -1]],
        lambda x: x.gather(2, torch.zeros_like(x[:, :, :2]).long()),
    ),
    "sums": lambda: functions(
        lambda x: x.sum(1),
        lambda x: x.std(1),
        lambda x: x.var((1, 2), keepdim=True),
        lambda x: x.norm(dim=1),
        lambda x: x.cumsum(1),
        lambda x: x.prod(1),
    ),
    "windows": lambda: Function(lambda x: x.unfold(1, 3, 2)),
    "extrema": lambda: functions(
        lambda x: x.max(1)[0],
        lambda x: x.amin(1),
        lambda x: x.topk(3, 1)[0],
        lambda x: x.sort(1)[0],
        lambda x: x.logsumexp(1),
    ),
    "products": lambda: functions(
        lambda x: x @ x.transpose(1, 2),
        lambda x: torch.einsum("btd,bsd->bts", x, x).tril(),
        lambda x: x.softmax(1) * x.log_softmax(2),
    ),
    "batch among the rows": lambda: Function(lambda x: x.reshape(-1, 8).tanh().reshape(-1, 6, 8)),
}
ON_VECTORS: dict[str, Callable[[], nn.Module]] = {
    "rectifiers": lambda: SideBySide(
        nn.ReLU(), nn.LeakyReLU(), nn.ReLU6(), nn.PReLU(8), nn.ELU(), nn.CELU(), nn.SELU()
    ),
    "smooth activations": lambda: SideBySide(
        nn.GELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.Mish(),
        nn.Softplus(),
        nn.Tanh(),
        nn.LogSigmoid(),
        nn.Softsign(),
        nn.GLU(),
    ),
    "hard activations": lambda: SideBySide(
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.Hardtanh(),
        nn.Hardtanh(-0.3, 1e30),
        nn.Hardshrink(),
        nn.Threshold(0.1, 0.2),
    ),
    "arithmetic": lambda: functions(
        lambda x: x**3 + (x.abs() + 0.1) ** 1.5 + 2**x,
        lambda x: torch.addcmul(x, x, x, value=0.5) + torch.lerp(x, x * 2, 0.3),
        lambda x: (x * x + 1).rsqrt() / (x.exp() + 1),
        lambda x: 1 - x.atan() + x.sin(),
    ),
    "choices": lambda: functions(
        lambda x: torch.where(x > 0, x, x.exp() - 1),
        lambda x: x.masked_fill(x > 0.5, 0.1),
        lambda x: torch.maximum(x, x.flip(1)),
        lambda x: x.clamp(-0.3, 0.4),
    ),
    "constants": lambda: functions(
        lambda x: x * torch.arange(8.0) + torch.linspace(0, 1, 8), lambda x: torch.ones_like(x) * torch.eye(8)[0] - x
    ),
    "in place": lambda: Function(in_place),
    "in-place rectifier": lambda: nn.ReLU(inplace=True),
}
ON_VOLUMES: dict[str, Callable[[], nn.Module]] = {
    "conv and pooling in space": lambda: SideBySide(nn.AvgPool3d(2), nn.AvgPool3d(3, 2, 1), nn.MaxPool3d(2)),
    "batch norm in space": lambda: nn.BatchNorm3d(3),
}
CASES = {
    **{f"conv, {name}": (IMAGE, make) for name, make in CONVOLUTIONS.items()},
    **{
        name: (IMAGE, lambda make=make: nn.Sequential(conv(3, 4, 3, padding=1), make()))
        for name, make in ON_IMAGES.items()
    },
    **{
        name: (SEQUENCE, lambda make=make: nn.Sequential(nn.Linear(8, 8), make()))
        for name, make in ON_SEQUENCES.items()
    },
    **{
        name: (VOLUME, lambda make=make: nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), make()))
        for name, make in ON_VOLUMES.items()
    },
    **{name: (VECTOR, lambda make=make: nn.Sequential(nn.Linear(8, 8), make())) for name, make in ON_VECTORS.items()},
}


def definition_of(name: str) -> Definition:
    """The case between its layers; scales and shifts are drawn, so that no gradient passes through them unnoticed."""
    shape, make = CASES[name]
    torch.manual_seed(0)
    module = nn.Sequential(make(), nn.Flatten(), nn.LazyLinear(3))
    module(torch.randn(4, *shape))
    for parameter in module.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.2)
    return Definition("case", module, shape, 3)


@pytest.mark.parametrize("name", CASES)
def test_gradients_and_logits_are_torchs(name: str) -> None:
    definition = definition_of(name)
    x = np.random.default_rng(0).standard_normal((4, *definition.input_shape), np.float32)
    assert_trains_as_torch_does(definition, x)
    assert [tensor.name for tensor in moving(derive_spec(definition))] == [
        name for name, value in definition.module.named_buffers() if value.is_floating_point()
    ]


def test_an_operator_without_a_rule_is_named_with_its_place() -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.airy_ai(self.dense(x).detach()) + self.dense(x)

    definition = Definition("odd", nn.Sequential(Stem(), nn.Linear(8, 2)), VECTOR, 2)
    with pytest.raises(ModelError) as caught:
        training_graph(definition, derive_spec(definition), 0)
    message = str(caught.value)
    assert message.startswith("model odd: no rule for the operator special_airy_ai.default in module 0 (")
    assert "test_graph_rules.py" in message
    assert message.endswith("add one to models/graph/rules/special.py")


def test_the_place_of_an_operator_inside_torchs_own_code_is_the_authors_line_that_led_there() -> None:
    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(8, 8)
            self.table = nn.Embedding(4, 2, scale_grad_by_freq=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.table((self.dense(x) > 0).long()).flatten(1)

    definition = Definition("odd", nn.Sequential(Stem(), nn.Linear(16, 2)), VECTOR, 2)
    with pytest.raises(ModelError, match=r"test_graph_rules\.py.*scale_grad_by_freq"):
        training_graph(definition, derive_spec(definition), 0)


@pytest.mark.parametrize(
    ("operator", "file"),
    [
        ("cummax.default", "reduction"),
        ("addmm.default", "linear"),
        ("_softmax.default", "linear"),
        ("conv_tbc.default", "convolution"),
        ("special_erfcx.default", "special"),
        ("index_reduce.default", "indexing"),
    ],
)
def test_a_missing_rule_belongs_into_the_file_of_its_subject(operator: str, file: str) -> None:
    assert subject(operator) == file


def test_a_recurrent_layer_that_projects_its_output_is_told() -> None:
    class Projecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 5, proj_size=3, batch_first=True)
            self.dense = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(self.lstm(x)[0][:, -1])

    with pytest.raises(ModelError, match="proj_size is not supported: put a dense layer after it"):
        derive_spec(Definition("odd", Projecting(), SEQUENCE, 2))


def test_an_operator_used_in_a_way_that_its_rule_does_not_know_is_named_with_its_place() -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 2, scale_grad_by_freq=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(x).flatten(1)

    definition = Definition("odd", nn.Sequential(Looked(), nn.Linear(16, 2)), VECTOR, 2, "int64")
    with pytest.raises(ModelError, match=r"operator embedding_dense_backward.default in module 0 .*scale_grad_by_freq"):
        training_graph(definition, derive_spec(definition), 0)
