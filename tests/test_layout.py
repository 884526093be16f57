"""Layers, blocks and cuts of any network come out of its forward pass."""

import re
import string
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ModelError
from lamina.models.layout import derive_spec
from lamina.models.spec import ModelSpec


def spec_of(module: nn.Module, shape: tuple[int, ...] = (4,), classes: int = 2, **options: object) -> ModelSpec:
    return derive_spec(Definition("net", module, shape, classes, **options))  # type: ignore[arg-type]  # passed on


def blocks(spec: ModelSpec) -> dict[str, list[str]]:
    return {block.name: [layer.name for layer in spec.layers[block.first : block.stop]] for block in spec.blocks}


class Residual(nn.Module):
    """Two dense layers with a norm between them, around which a shortcut goes, and maybe a norm after the sum."""

    def __init__(self, width: int, last: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width)
        self.last = nn.LayerNorm(width) if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.norm(self.first(x)).relu()) + x)


# -- the numbers of the paper


def test_resnet20_has_the_papers_parameters_and_activations() -> None:
    """Of EmbracingFL: p and batch * outputs, a batch of 32, for the whole, and for conv0 and 3 or 6 blocks cut off."""
    spec = derive_spec(load_definition("resnet20"))
    assert [block.first for block in spec.blocks if block.name in ("conv0", "stage2.0", "stage3.0")] == [0, 8, 15]
    kept = {cut: spec.layers[cut:] for cut in (0, 8, 15)}
    assert {cut: sum(layer.size for layer in layers) for cut, layers in kept.items()} == {
        0: 272_762,
        8: 257_994,
        15: 206_346,
    }
    assert {cut: 32 * sum(layer.activations for layer in layers) for cut, layers in kept.items()} == {
        0: 6_947_136,
        8: 2_752_832,
        15: 917_824,
    }


def test_resnet20_has_a_block_for_every_residual_block() -> None:
    spec = derive_spec(load_definition("resnet20"))
    residual = [f"stage{stage}.{index}" for stage in (1, 2, 3) for index in range(3)]
    assert list(blocks(spec)) == ["conv0", *residual, "classifier"]
    assert blocks(spec)["stage2.0"] == ["stage2.0.conv1", "stage2.0.conv2", "stage2.0.projection"]
    assert [tensor.name for tensor in spec.layers[1].parameters] == [
        "stage1.0.conv1.weight",
        "stage1.0.norm1.weight",
        "stage1.0.norm1.bias",
    ]
    assert [tensor.name for tensor in spec.layers[1].statistics] == [
        "stage1.0.norm1.running_mean",
        "stage1.0.norm1.running_var",
    ]
    assert spec.blocks[-1].input_shape == (64,)


def test_token_ids_enter_an_embedding() -> None:
    spec = derive_spec(load_definition("text_lstm,length=7,vocabulary=20,width=5,hidden=6"))
    assert (spec.input_shape, spec.input_dtype) == ((7,), "int64")
    assert [(block.name, block.input_shape, block.input_dtype) for block in spec.blocks][1] == (
        "lstm",
        (7, 5),
        "float32",
    )
    assert [tensor.kind for tensor in spec.layers[1].parameters] == ["kernel", "kernel", "bias", "bias"]


# -- layers


def test_a_norm_joins_the_conv_or_dense_before_it() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    spec = spec_of(module)
    assert [layer.name for layer in spec.layers] == ["0", "3"]
    assert [(tensor.name, tensor.kind) for tensor in spec.layers[0].parameters] == [
        ("0.weight", "kernel"),
        ("0.bias", "bias"),
        ("2.weight", "norm"),
        ("2.bias", "norm"),
    ]


def test_a_norm_after_a_sum_is_a_layer_of_its_own() -> None:
    spec = spec_of(nn.Sequential(Residual(4, last=True), nn.Linear(4, 2)))
    assert [layer.name for layer in spec.layers] == ["0.first", "0.second", "0.last", "1"]


def test_a_norm_before_everything_is_a_layer_of_its_own() -> None:
    assert [layer.name for layer in spec_of(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))).layers] == ["0", "1"]


def test_statistics_without_parameters_belong_to_a_neighbour() -> None:
    def norm() -> nn.Module:
        return nn.BatchNorm1d(4, affine=False)

    spec = spec_of(nn.Sequential(norm(), nn.Linear(4, 4), norm(), nn.Linear(4, 2)))
    assert [[tensor.name for tensor in layer.statistics] for layer in spec.layers] == [
        ["0.running_mean", "0.running_var", "2.running_mean", "2.running_var"],
        [],
    ]


def test_layers_stand_in_forward_order() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Linear(3, 2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    assert [layer.name for layer in spec_of(Backwards()).layers] == ["first", "second"]


def test_a_modules_own_parameters_are_a_layer() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.scale, self.bias = (nn.Parameter(torch.ones(*shape)) for shape in ((4, 2), (2,), (2,)))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.kernel * self.scale + self.bias

    spec = spec_of(Scaled())
    assert [layer.name for layer in spec.layers] == ["net"]  # the root has no name; the model's stands in
    assert [tensor.kind for tensor in spec.layers[0].parameters] == ["kernel", "norm", "bias"]
    assert spec.layers[0].activations == 2


def test_parameters_without_gradient_and_unread_ones_are_no_part_of_it() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen, self.unread, self.used = (
                nn.Linear(4, 3).requires_grad_(False),
                nn.Linear(9, 9),
                nn.Linear(3, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.frozen(x))

    spec = spec_of(Partly())
    assert [layer.name for layer in spec.layers] == ["used"]
    assert spec.input_shape == (4,)


def test_activations_are_outputs_of_conv_and_dense() -> None:
    """(2, 6, 6) -> conv (3, 4, 4): 48; pooled to (3, 2, 2); dense on 12: 5; norm and pooling count nothing."""
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.Tanh(),
        nn.Linear(5, 2),
    )
    assert [layer.activations for layer in spec_of(module, (2, 6, 6)).layers] == [48, 5, 2]


def test_a_dense_layer_on_a_sequence_counts_every_step() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(15, 2))
    assert [layer.activations for layer in spec_of(module, (5, 4)).layers] == [15, 2]


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.text(string.printable.replace(".", ""), min_size=1, max_size=8), min_size=2, max_size=3, unique=True)
)
def test_layer_names_are_safe_and_unique(names: list[str]) -> None:
    """Whatever the modules are called: two of them may differ in what a topic can't hold."""
    parts = nn.ModuleDict({name: nn.Linear(4, 4) for name in names if name not in dir(nn.ModuleDict)})

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts, self.dense = parts, nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            for part in self.parts.values():
                x = part(x)
            return self.dense(x)

    found = [layer.name for layer in spec_of(Named()).layers]
    assert len(set(found)) == len(parts) + 1
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in found)


# -- blocks


def test_a_shortcut_keeps_a_block_together() -> None:
    spec = spec_of(
        nn.Sequential(nn.Linear(4, 4), Residual(4), nn.Sequential(Residual(4), Residual(4)), nn.Linear(4, 2))
    )
    assert blocks(spec) == {
        "0": ["0"],
        "1": ["1.first", "1.second"],
        "2.0": ["2.0.first", "2.0.second"],
        "2.1": ["2.1.first", "2.1.second"],
        "3": ["3"],
    }


def test_a_conv_is_not_cut_from_its_norm() -> None:
    """Between the two exactly one activation is live, too."""
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert blocks(spec_of(module)) == {"0": ["0"], "2": ["2"]}


def test_operators_without_parameters_stand_with_the_layer_before_them() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2))
    assert spec_of(module, (1, 8, 8)).blocks[1].input_shape == (18,)


def test_a_block_starts_where_the_activation_is_smallest() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 6), nn.Flatten()
    )
    assert spec_of(module, (1, 8, 8)).blocks[1].input_shape == (2, 3, 3)


def test_dropout_stands_with_the_layer_after_it() -> None:
    """Its mask is drawn where that layer is trained, though the one before is frozen."""
    from lamina.models.graph import training_graph

    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))
    definition = Definition("net", module, (4,), 2)
    spec = derive_spec(definition)
    assert "Less" in {operator.op_type for operator in training_graph(definition, spec, 1).model.graph.node}


def test_two_live_activations_are_no_place_for_a_cut() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right, self.head = (
                nn.Linear(4, 4),
                nn.Linear(4, 3),
                nn.Linear(4, 3),
                nn.Linear(3, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(self.left(x) * self.right(x))

    assert blocks(spec_of(Forked())) == {"stem": ["stem"], "left": ["left", "right"], "head": ["head"]}


def test_a_parameter_that_is_used_twice_keeps_its_uses_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.middle = nn.Embedding(7, 4), nn.Linear(4, 4)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.middle(self.embed(x).mean(1)))

    spec = spec_of(Tied(), (3,), 7, input_dtype="int64")
    assert blocks(spec) == {"embed": ["embed", "middle"]}
    assert [tensor.name for tensor in spec.layers[0].parameters] == ["embed.weight"]


def test_the_batch_extent_may_be_asked_for_anywhere() -> None:
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            batch = x.size(0)
            y = self.first(x).view(batch * 2, 3)
            return self.second(y).view(batch, 2, 2).sum(1)

    spec = spec_of(Shaped())
    assert spec.blocks[1].input_shape == (6,)  # where the batch is the first extent, and nothing else


# -- cuts


def test_every_block_is_on_offer_by_default() -> None:
    assert spec_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))).cuts == (0, 1, 2)


def test_cuts_are_named_by_block_or_layer_or_index_and_the_whole_is_always_there() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Residual(4, last=True), nn.Linear(4, 4), nn.Linear(4, 2))
    assert spec_of(module, cuts=("1", "3")).cuts == (0, 1, 5)  # layers: 0, 1.first, 1.second, 1.last, 2, 3
    assert spec_of(module, cuts=(4, "1.last")).cuts == (0, 3, 4)


def test_a_cut_inside_a_block_is_an_error_that_names_the_blocks() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Residual(4, last=True), nn.Linear(4, 2))
    with pytest.raises(ModelError, match=r"no block starts at '1.second'; its blocks are 0 \(layer 0\), 1"):
        spec_of(module, cuts=("1.second",))


# -- what can't be


def test_a_forward_pass_that_depends_on_values_says_where() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.dense(x if x.sum() > 0 else -x)

    with pytest.raises(
        ModelError, match=r"model net: its forward pass can't be traced: .*\(line \d+ of .*test_layout.py\)"
    ):
        spec_of(Branching())


def test_another_output_than_logits_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"must return logits \(N, 2\), and returns N x 3"):
        spec_of(nn.Linear(4, 3))


def test_a_network_without_parameters_is_an_error() -> None:
    with pytest.raises(ModelError, match="reads no parameter that requires a gradient"):
        spec_of(nn.Flatten(), (2,))


def test_of_many_blocks_those_are_offered_that_a_budget_can_tell_apart() -> None:
    layers = [part for width in (4, 64, 64, 64, 64, 64, 64, 8, 4, 4) for part in (nn.LazyLinear(width), nn.Tanh())]
    module = nn.Sequential(*layers, nn.Linear(4, 3))
    module(torch.zeros(2, 4))
    spec = derive_spec(Definition("many", module, (4,), 3))
    assert len(spec.blocks) == 11
    assert spec.cuts[0] == 0
    assert spec.cuts[-1] == spec.blocks[-1].first
    assert len(spec.cuts) == 6
    kept = [sum(layer.size + 32 * layer.activations for layer in spec.layers[cut:]) for cut in spec.cuts]
    steps = [before - after for before, after in pairwise(kept)]
    assert max(steps) < kept[0] / 3
    every = derive_spec(Definition("many", module, (4,), 3, cuts=tuple(range(11))))
    assert every.cuts == tuple(range(11))
