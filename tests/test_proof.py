"""A bundle is compared with torch before it is written: every kind of network that would train wrongly is refused."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.models.build import build_bundle
from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ModelError
from lamina.models.graph import registry, training_graph
from lamina.models.layout import derive_spec
from lamina.models.manifest import ONNXRUNTIME
from lamina.models.proof import judging

Body = Callable[["Between", Tensor], Tensor]


class Between(nn.Module):
    """Two dense layers with something between them."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)
        self.vector = nn.Parameter(torch.linspace(-1, 1, 6))
        self.generator = np.random.default_rng(0)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self, self.first(x)))


def network(body: Body, shape: tuple[int, ...] = (6,)) -> Definition:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Definition("case", Between(body), shape, 3)


def build(folder: Path, definition: Definition, **options: bool) -> None:
    build_bundle(definition, folder / "bundle", batch_size=4, **options)


def refusal(folder: Path, body: Body, shape: tuple[int, ...] = (6,)) -> str:
    with pytest.raises(ModelError) as refused:
        build(folder, network(body, shape))
    assert not (folder / "bundle").exists()
    return str(refused.value)


def test_a_network_that_trains_right_is_written(tmp_path: Path) -> None:
    build(tmp_path, network(lambda module, h: h.tanh() * module.vector))
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def drawn_by_python(module: Between, h: Tensor) -> Tensor:
    return h * 2 if module.training and random.random() < 0.01 else h


def drawn_by_numpy(module: Between, h: Tensor) -> Tensor:
    return h * 2 if module.training and np.random.rand() < 0.01 else h


def drawn_by_a_generator(module: Between, h: Tensor) -> Tensor:
    return h * 2 if module.training and module.generator.random() < 0.01 else h


@pytest.mark.parametrize(
    ("body", "source"),
    [
        (drawn_by_python, "Python's module random"),
        (drawn_by_numpy, "NumPy's global generator"),
        (drawn_by_a_generator, "generator of module"),
    ],
)
def test_random_numbers_that_a_trace_would_freeze_are_refused(tmp_path: Path, body: Body, source: str) -> None:
    assert f"draws random numbers from {source}" in refusal(tmp_path, body)


def test_a_result_that_changes_from_call_to_call_is_refused(tmp_path: Path) -> None:
    calls = []

    def counted(module: Between, h: Tensor) -> Tensor:
        calls.append(1)
        return h * len(calls)

    assert "other results from call to call" in refusal(tmp_path, counted)


def test_control_flow_on_the_batch_size_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, lambda module, h: h * 2 if h.shape[0] == 1 else h)
    assert "batch size 1" in said
    assert "with 2 or 4 samples nothing differs" in said


def test_dropout_in_inference_mode_is_refused(tmp_path: Path) -> None:
    assert "training=self.training" in refusal(tmp_path, lambda module, h: F.dropout(h, 0.5))


def test_random_numbers_of_torch_are_compared_draw_by_draw(tmp_path: Path) -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.4)
    )
    build(tmp_path, Definition("dropout", nn.Sequential(module, nn.Linear(144, 8), nn.Linear(8, 3)), (1, 8, 8), 3))


def test_a_graph_without_the_dropout_of_the_module_is_refused(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 3))
    traced = Definition("dropout", module, (6,), 3)
    hooked = nn.Dropout(0.5)
    module[1].forward = lambda x: hooked(x) if not torch.compiler.is_exporting() else x  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="where the graph draws none"):
        build(tmp_path, traced)


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    module[0].weight.grad = torch.ones(6, 6)
    before = {name: (tensor, tensor.clone()) for name, tensor in module.state_dict(keep_vars=True).items()}
    build(tmp_path, Definition("kept", module.eval(), (6,), 3))
    assert not module.training
    assert module[0].weight.grad.sum() == 36
    assert module[2].weight.grad is None
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])


def test_what_starts_at_zero_hides_nothing(tmp_path: Path) -> None:
    """An adapter whose second factor is zero passes no gradient on, be it right or wrong."""

    def hidden(module: Between, h: Tensor) -> Tensor:
        return h * (module.vector + (1.0 if not torch.compiler.is_exporting() else 2.0))

    definition = network(hidden)
    with torch.no_grad():
        definition.module.last.weight.zero_()
    with pytest.raises(ModelError, match="differ"):
        build(tmp_path, definition)


def test_without_the_check_the_bundle_is_written(tmp_path: Path) -> None:
    build(tmp_path, network(drawn_by_python), check=False)
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def test_what_float32_explains_is_granted() -> None:
    errors = {"a": 3e-4, "b": 3e-3}
    assert [each.name for each in judging.differences(errors, [{"a": 5e-5, "b": 5e-5}])] == ["b"]
    assert judging.differences(errors, [{"a": 5e-5, "b": 5e-5}, {"a": 0.0, "b": 1e-3}]) == []


RIGHT, UNCLEAR = judging.Verdict([]), judging.Verdict([], clear=False)
WRONG = judging.Verdict([judging.Difference("w", 0.01, 0.0)])
VERY_WRONG = judging.Verdict([judging.Difference("w", 0.05, 0.0)])


@pytest.mark.parametrize(
    ("verdicts", "refused"),
    [
        ([RIGHT], False),
        ([VERY_WRONG], True),
        ([WRONG, RIGHT], False),
        ([WRONG, WRONG, WRONG], True),
        ([UNCLEAR, VERY_WRONG], True),
        ([UNCLEAR, WRONG, UNCLEAR, WRONG, WRONG], True),
        ([UNCLEAR, RIGHT], False),
        ([UNCLEAR] * 5, False),
    ],
)
def test_draws_are_looked_at_until_one_decides(verdicts: list[judging.Verdict], refused: bool) -> None:
    looked = iter(verdicts)
    assert bool(judging.wrong(lambda _: next(looked))) == refused
    assert next(looked, None) is None


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_relu_whose_input_is_a_rounding_error_gets_no_network_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Batch norm over one sample multiplies what follows: one draw in 20 differed from torch by up to a tenth."""
    monkeypatch.setattr(judging, "wrong", lambda judge: [bad for number in range(5) for bad in judge(number).different])
    build_bundle(load_definition("mobilenet_v2,width=0.25"), tmp_path / "bundle", batch_size=1)


def test_rounding_errors_beside_large_gradients_are_nothing() -> None:
    expected = {"bias before a norm": np.zeros(2, np.float32), "kernel": np.ones(100, np.float32)}
    found = {"bias before a norm": np.full(2, 1e-7, np.float32), "kernel": np.ones(100, np.float32)}
    assert judging.close(judging.relative_errors(found, expected))


def test_a_number_that_is_not_finite_in_one_of_the_two_is_an_infinite_error() -> None:
    one, other = {"a": np.array([1.0, np.inf])}, {"a": np.array([1.0, 2.0])}
    assert judging.relative_errors(one, other) == {"a": np.inf}
    assert judging.relative_errors(one, one) == {"a": 0.0}


def masked(module: Between, h: Tensor) -> Tensor:
    h = h + 0
    h[h < 0] = 0.25
    return h


def masked_rows(module: Between, h: Tensor) -> Tensor:
    h = h + 0
    h[h[:, 0] < 0] = torch.arange(6.0)
    return h


# What each kind was written as before, or left to, and how the check says so. The network, the operator, its old rule.
OLD_RULES: dict[str, tuple[Body, tuple[int, ...], str, Callable[..., str], str]] = {
    "a matrix times a vector": (
        lambda module, h: ((h.tanh() @ module.vector).softmax(1).unsqueeze(-1) * h).sum(1),
        (5, 6),
        "mv",
        lambda g, call, x, y: g.MatMul(x, y),
        "gradient of vector is off by",
    ),
    "an assignment by a boolean mask": (
        masked,
        (6,),
        "index_put",
        lambda g, call, x, indices, values, accumulate=False: g.ScatterND(
            x, g.Unsqueeze(g.Cast(indices[0], to=7), [-1]), g.Expand(values, g.Shape(x))
        ),
        "can't run a graph of it",
    ),
    "a quotient without its fraction": (
        lambda module, h: h + torch.div(3 * h, 0.7, rounding_mode="trunc"),
        (6,),
        "div.Tensor_mode",
        lambda g, call, x, y, rounding_mode=None: g.Div(x, g.constant(y, "float32") if isinstance(y, float) else y),
        "div.Tensor_mode",
    ),
    "log1p near zero": (
        lambda module, h: torch.log1p(1e-4 * h) * 1e4,
        (6,),
        "log1p",
        lambda g, call, x: g.Log(g.Add(x, 1.0)),
        "operator log1p",
    ),
    "expm1 near zero": (
        lambda module, h: torch.expm1(1e-4 * h) * 1e4,
        (6,),
        "expm1",
        lambda g, call, x: g.Sub(g.Exp(x), 1.0),
        "operator expm1",
    ),
}


@pytest.mark.parametrize("kind", OLD_RULES)
def test_a_wrong_rule_is_refused_and_the_right_one_is_not(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, shape, operator, old, said = OLD_RULES[kind]

    def pooled(module: Between, h: Tensor) -> Tensor:
        return body(module, h)

    build(tmp_path / "right", network(pooled, shape))
    monkeypatch.setitem(registry._RULES, (ONNXRUNTIME, operator), old)
    assert said in refusal(tmp_path / "wrong", pooled, shape)


@pytest.mark.parametrize(
    "body",
    [
        masked_rows,
        lambda module, h: h * (module.vector @ module.vector),
        lambda module, h: h + module.first.weight.T @ module.vector,
        lambda module, h: h + (module.vector @ h.T).unsqueeze(1),
        lambda module, h: h + torch.addmv(module.vector, module.first.weight, module.vector),
        lambda module, h: h + torch.div(3 * h, -0.7, rounding_mode="floor"),
        lambda module, h: h + torch.div((h * 7).long(), 2, rounding_mode="floor"),
        lambda module, h: h + torch.div((h * 7).long(), -2, rounding_mode="trunc"),
        lambda module, h: F.elu(1e-3 * h) * 1e3,
        lambda module, h: torch.log1p(h.exp() * 100) + torch.expm1(h * 3),
    ],
)
def test_siblings_of_the_wrong_kinds_are_right(tmp_path: Path, body: Body) -> None:
    build(tmp_path, network(body))


def test_no_vector_stands_in_a_matrix_product(tmp_path: Path) -> None:
    """ONNX Runtime takes the transpose away from a matrix that is multiplied by a vector."""
    definition = network(lambda module, h: h + (h @ module.vector).unsqueeze(1) + module.first.weight.T @ module.vector)
    graph = training_graph(definition, derive_spec(definition), 0).model
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    known = {value.name: value.type.tensor_type.shape.dim for value in (*inferred.value_info, *inferred.input)}
    ranks = {name: len(dims) for name, dims in known.items()} | {t.name: len(t.dims) for t in inferred.initializer}
    products = [operator for operator in inferred.node if operator.op_type == "MatMul"]
    assert products
    assert all(ranks[name] >= 2 for operator in products for name in operator.input)


def test_a_batch_norm_in_batches_of_one_sample_is_refused_as_torch_does(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    for check in (True, False):
        with pytest.raises(ModelError, match=r"batch norm in module 1 .*batch size of 2 or more"):
            build_bundle(Definition("norm", module, (6,), 3), tmp_path / "bundle", batch_size=1, check=check)


def test_a_batch_norm_over_an_image_takes_one_sample(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    build_bundle(Definition("norm", module, (1, 4, 4), 3), tmp_path / "bundle", batch_size=1)
