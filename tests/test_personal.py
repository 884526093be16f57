"""Personal layers: what a pattern means, how layers are divided, and what a device keeps of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lamina.coordinator.settings import Aggregation, Evaluation, FederationSettings
from lamina.edge_agent.service.personal_file import Owner, read_personal, write_personal
from lamina.edge_agent.session.personal import PersonalValues
from lamina.models.errors import ConfigError, ModelError
from lamina.models.personal import at_places, divided, numbered, personal_layers, personal_tensors
from lamina.models.spec import BlockSpec, Kind, LayerSpec, ModelSpec, TensorSpec
from lamina.models.values import flatten


def tensor(name: str, size: int = 2, kind: Kind = "kernel") -> TensorSpec:
    return TensorSpec(name, (size,), kind)


CONV = LayerSpec(
    "body.conv",
    (tensor("body.conv.weight", 3), tensor("body.bn.weight", kind="norm"), tensor("body.bn.bias", kind="norm")),
    (tensor("body.bn.running_mean", kind="statistic"), tensor("body.bn.running_var", kind="statistic")),
    activations=7,
)
FIRST = LayerSpec("bn1", (tensor("bn1.weight", kind="norm"),), (tensor("bn1.running_mean", kind="statistic"),))
HEAD = LayerSpec("head", (tensor("head.weight", 4), tensor("head.bias", kind="bias")))
SPEC = ModelSpec(
    "net", (FIRST, CONV, HEAD), (BlockSpec("a", 0, 1, (2,)), BlockSpec("b", 1, 2, (2,)), BlockSpec("c", 2, 3, (2,))),
    (0, 1, 2), 3,
)  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "meant"),
    [
        (["head"], {"head.weight", "head.bias"}),
        (["*.bias"], {"head.bias", "body.bn.bias"}),
        (
            ["*.bn*"],  # at the top, too
            {f"body.bn.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
            | {"bn1.weight", "bn1.running_mean"},
        ),
        (["body"], {tensor.name for tensor in (*CONV.parameters, *CONV.statistics)}),
        (
            ["*.running_*", "head.bias"],
            {"body.bn.running_mean", "body.bn.running_var", "bn1.running_mean", "head.bias"},
        ),
        ([], set()),
    ],
)
def test_a_pattern_means_layers_modules_and_tensors(patterns: list[str], meant: set[str]) -> None:
    tensors = personal_tensors(SPEC, patterns)
    assert tensors == meant
    apart = divided(SPEC, tensors)
    assert at_places(apart, numbered(SPEC, tensors)) == tensors  # the places are the same after the division
    for index, layer in enumerate(apart.layers):
        names = {tensor.name for tensor in (*layer.parameters, *layer.statistics)}
        assert names <= tensors if index in personal_layers(apart, tensors) else not names & tensors
    assert divided(apart, tensors) == apart
    drawn = {t.name: np.random.default_rng(0).normal(size=t.shape) for la in SPEC.layers for t in la.parameters}
    drawn |= {t.name: np.random.default_rng(1).normal(size=t.shape) for la in SPEC.layers for t in la.statistics}
    for before, after in zip(flatten(SPEC, drawn), flatten(apart, drawn), strict=True):  # type: ignore[arg-type]
        np.testing.assert_array_equal(before, after)  # graphs see the same vectors


def test_a_layer_of_which_a_part_is_personal_is_divided() -> None:
    apart = divided(SPEC, personal_tensors(SPEC, ["body.bn"]))
    assert [layer.name for layer in apart.layers] == ["bn1", "body.conv", "body.conv.personal", "head"]
    assert (apart.cuts, [block.first for block in apart.blocks]) == ((0, 1, 3), [0, 1, 3])
    assert [layer.activations for layer in apart.layers] == [0, 7, 0, 0]
    assert apart.layers[2].statistics == CONV.statistics


def test_parts_of_one_kind_keep_their_order() -> None:
    apart = divided(SPEC, {"body.bn.weight", "body.bn.running_var"})
    assert [layer.name for layer in apart.layers[1:4]] == ["body.conv", "body.conv.personal", "body.conv-2"]
    assert [[t.name for t in layer.statistics] for layer in apart.layers[1:4]] == [
        ["body.bn.running_mean"],
        ["body.bn.running_var"],
        [],
    ]


def test_a_pattern_that_matches_nothing_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="'haed' matches no layer, module or tensor of net; it has bn1, bod"):
        personal_tensors(SPEC, ["head", "haed"])


@pytest.mark.parametrize("patterns", [["*"], ["bn1", "body", "head"], ["*.weight", "*.bias"]])
def test_something_must_be_left_to_average(patterns: list[str]) -> None:
    with pytest.raises(ConfigError, match="all layers of net are personal"):
        personal_tensors(SPEC, patterns)


def test_places_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(ModelError, match="tensor 99 is said to be personal, and the model has 9"):
        at_places(SPEC, (0, 99))


def test_a_personal_model_is_no_measure_to_stop_by() -> None:
    with pytest.raises(ConfigError, match="stop_after"):
        FederationSettings(
            federation="f",
            bundle="b",
            aggregation=Aggregation(personal=("head",)),
            evaluation=Evaluation(data="test.npz", stop_after=3),
        )


def values(number: float) -> dict[str, np.ndarray]:
    return {"head": np.full(6, number, np.float32)}


def test_a_round_that_is_trained_again_begins_where_it_began() -> None:
    own = PersonalValues()
    assert own.before(0) == {}
    for round_ in range(5):
        own.after(round_, values(round_))
    assert own.before(5)["head"][0] == own.before(9)["head"][0] == 4  # the next round, and one after a long absence
    assert own.before(4)["head"][0] == 3  # the last one once more
    own.after(4, values(40))
    assert (own.before(4)["head"][0], own.before(5)["head"][0]) == (3, 40)
    assert own.before(1)["head"][0] == 3  # a coordinator that went back further: the oldest that is kept
    own.after(8, values(8))  # rounds were missed
    assert (own.before(8)["head"][0], own.before(9)["head"][0]) == (40, 8)
    assert len(own.generations) == 2


def test_layers_that_a_round_left_alone_keep_their_values() -> None:
    own = PersonalValues()
    own.after(0, values(1) | {"norm": np.ones(2, np.float32)})
    own.after(1, values(2))  # under a higher cut
    assert {name: vector[0] for name, vector in own.before(2).items()} == {"head": 2, "norm": 1}


OWNER = Owner(run=7, manifest="cafe", tensors=(3, 4))


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    own = PersonalValues()
    own.after(3, values(0.1))
    write_personal(tmp_path / "personal", OWNER, own)
    read = read_personal(tmp_path / "personal", OWNER, SPEC)
    np.testing.assert_array_equal(read.before(4)["head"], own.before(4)["head"])


@pytest.mark.parametrize(
    "owner",
    [Owner(8, "cafe", (3, 4)), Owner(7, "beef", (3, 4)), Owner(7, "cafe", (3,))],
    ids=["run", "bundle", "tensors"],
)
def test_what_is_of_another_run_is_not_taken(tmp_path: Path, owner: Owner) -> None:
    own = PersonalValues()
    own.after(3, values(0.1))
    write_personal(tmp_path / "personal", OWNER, own)
    assert read_personal(tmp_path / "personal", owner, SPEC).generations == {}


@pytest.mark.parametrize("damage", [b"", b"LAMP", b"LAMPxxxxnonsense"])
def test_a_damaged_file_is_said(tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "personal").write_bytes(damage)
    assert read_personal(tmp_path / "personal", OWNER, SPEC).generations == {}
    assert "begin anew" in caplog.text
