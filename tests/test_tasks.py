"""Every task: bundles that are proved, what torch makes of the same data, and what is refused in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamina.coordinator.records.evaluate import Evaluator
from lamina.edge_agent.admission.graphs import check_graph
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, entries, read_bundle
from lamina.models.definition import Definition, initial_values, load_definition
from lamina.models.errors import DataError, ModelError
from lamina.models.graph.objectives import metrics_graph, objective_of
from lamina.models.layout import derive_spec
from lamina.models.metrics import finished
from lamina.models.samples import LabelledSamples
from lamina.models.tasks.dense import Dense
from lamina.models.tasks.own import Own
from lamina.models.tasks.regression import Regression
from lamina.models.tasks.tokens import TokenLabels
from lamina.models.values import flatten, layer_vector
from tests import task_nets

NETS = Path(task_nets.__file__)
SLOW = ("binary_by_its_loss", "binary_weighted", "quantiles", "tagging")
NAMES = [
    pytest.param(name, marks=[pytest.mark.exhaustive] if name in SLOW else [])
    for name in task_nets.DATA
    if name not in ("single_label", "image_and_kind")  # these have no metrics graph
]


@pytest.fixture(scope="module", params=NAMES)
def named(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Definition, Bundle]:
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    definition = load_definition(f"{NETS}:{request.param}", seed=0)
    build_bundle(definition, folder, batch_size=4, check=False)
    return request.param, definition, read_bundle(folder)


def values_of(definition: Definition, bundle: Bundle) -> list[np.ndarray]:
    spec = bundle.manifest.spec
    flat = flatten(spec, initial_values(definition, spec))
    return [layer_vector(spec, layer, *flat) for layer in range(len(spec.layers))]


def test_metrics_are_torchs_on_all_data_at_once(named: tuple[str, Definition, Bundle]) -> None:
    """The evaluator adds batches of 7; torch sees all 40 samples at once."""
    name, definition, bundle = named
    samples = LabelledSamples(*task_nets.data(name, 5), source=name)
    found = Evaluator(bundle, samples, 7).figures(values_of(definition, bundle))
    everything, spec = np.arange(len(samples)), bundle.manifest.spec
    x, y = (torch.from_numpy(part(everything, spec)) for part in (samples.inputs, samples.targets))
    metrics = bundle.manifest.metrics
    assert metrics
    with torch.no_grad():
        outputs = definition.module.eval()(x)
        pairs = [metric.function(outputs, y) for metric in objective_of(definition).figures.values()]
        loss = objective_of(definition).loss(outputs, y)
    vectors = (
        np.concatenate([torch.as_tensor(pair[place]).double().reshape(-1) for pair in pairs]) for place in (0, 1)
    )
    expected = finished(metrics.figures, *vectors)
    assert found == pytest.approx({key: value for key, value in expected.items() if np.isfinite(value)}, rel=1e-6)
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert metrics.judge in found


def test_a_board_may_load_the_graphs(named: tuple[str, Definition, Bundle]) -> None:
    """Those of training, of evaluation and of the metrics are on the list of what boards run."""
    _, _, bundle = named
    spec = bundle.manifest.spec
    given = {tensor.name: tensor.shape for layer in spec.layers for tensor in (*layer.parameters, *layer.statistics)}
    for entry in dict.fromkeys(entries(bundle.manifest)):
        if entry.suffix == ".onnx":
            constants = bundle.manifest.constants
            check_graph(bundle.path(entry), batch=4, budget_mib=200.0, given=given, constants=constants)


@pytest.mark.parametrize("name", ["class_weights", "tagging_weighted"])
def test_class_weights_are_torchs(name: str) -> None:
    definition = load_definition(f"{NETS}:{name}", seed=0)
    objective = objective_of(definition)
    samples = LabelledSamples(*task_nets.data(name, 5))
    everything, spec = np.arange(len(samples)), derive_spec(definition)
    x, y = (torch.from_numpy(part(everything, spec)) for part in (samples.inputs, samples.targets))
    logits = definition.module(x)
    ignored = -100 if spec.wanted.ignored is None else spec.wanted.ignored
    weight = torch.tensor(spec.wanted.weights)
    flat = logits.reshape(-1, logits.shape[-1])
    expected = F.cross_entropy(flat, y.reshape(-1), weight=weight, ignore_index=ignored)
    torch.testing.assert_close(objective.loss(logits, y), expected)


def test_the_losses_of_regression_are_torchs() -> None:
    x, y = torch.randn(5, 8, 2), torch.randn(5, 3, 2)
    torchs = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
    for name, function in torchs.items():
        definition = load_definition(f"{NETS}:forecast,loss={name}")
        outputs = definition.module(x)
        torch.testing.assert_close(objective_of(definition).loss(outputs, y), function(outputs, y))


def test_a_quantile_is_what_the_loss_finds() -> None:
    """Of 0, 1, ..., 100 the number with the least loss for the quantile 0.9 is 90."""
    task, y = Regression(quantiles=(0.9,)), torch.arange(101.0).reshape(-1, 1)
    definition = Definition("q", nn.Linear(2, 1), (2,), task=task)
    loss = objective_of(definition).loss
    losses = [loss(torch.full((101, 1), float(guess)).reshape(101, 1), y.reshape(101)).item() for guess in range(101)]
    assert int(np.argmin(losses)) == 90


def test_what_is_ignored_counts_for_nothing() -> None:
    definition = Definition("t", nn.Embedding(5, 3), (4,), input_dtype="int64", task=TokenLabels(ignored=-100))
    objective, logits = objective_of(definition), torch.randn(2, 4, 3)
    y = torch.tensor([[0, 1, -100, -100], [2, -100, -100, -100]])
    kept = torch.stack([logits[0, 0], logits[0, 1], logits[1, 0]])
    torch.testing.assert_close(objective.loss(logits, y), F.cross_entropy(kept, torch.tensor([0, 1, 2])))
    assert objective.weight(y).item() == 3
    assert objective.metrics["accuracy"].function(logits, y)[1].item() == 3
    nothing = torch.full_like(y, -100)
    assert objective.loss(logits, nothing).item() == 0  # and not NaN, which would end the round


def test_the_threshold_is_the_quantile_of_the_samples_errors() -> None:
    definition = load_definition(f"{NETS}:reconstruction", seed=0)
    objective, x = objective_of(definition), torch.randn(1000, 6)
    outputs = x + torch.randn(1000, 1).abs()
    sums, counts = objective.metrics["threshold"].function(outputs, x)
    _, specs = metrics_graph(definition)
    (threshold,) = finished([one for one in specs if one.name == "threshold"], sums.numpy(), counts.numpy()).values()
    exact = (outputs - x).square().mean(1).quantile(0.99).item()
    assert exact <= threshold * 1.01
    assert threshold <= exact * 1.11  # a bin is ten per cent wide


def test_metrics_of_classes() -> None:
    """Of a map of two pixels with classes 0 and 1, one is met: IoU is 1/2 for class 0, and 0 for class 1."""
    definition = Definition("d", nn.Conv2d(1, 2, 1), (1, 1, 2), task="dense")
    logits = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])  # both are said to be class 0
    sums, counts = objective_of(definition).metrics["mean_iou"].function(logits, torch.tensor([[[0, 1]]]))
    assert (sums.tolist(), counts.tolist()) == ([1, 0], [2, 1])


# -- what is refused


def described(**fields: Any) -> None:
    definition = Definition("mine", nn.Linear(2, 3), (2,), **fields)
    derive_spec(definition)
    metrics_graph(definition)


def branching(outputs: Tensor, y: Tensor) -> tuple[Tensor, int]:
    return (outputs.sum(), 1) if outputs.sum() > 0 else (y.sum(), 1)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"task": "regresion"}, "there is no task 'regresion'; did you mean 'regression'"),
    ({"task": 3}, "task is one of single_label, binary"),
    ({"task": "regression", "loss": "hubr"}, "there is no loss 'hubr'; did you mean 'huber'"),
    ({"loss": 3, "classes": 3}, "a loss is a name, one of cross_entropy, .*, or a function .*, and this is a int"),
    ({"task": "binary"}, r"one logit a sample says yes or no, and it returns \(3,\)"),
    ({"task": "dense"}, "for each place are wanted"),
    ({"task": "tokens"}, "logits .N, steps, classes. are wanted"),
    ({"task": "reconstruction"}, r"to reproduce its input \(2,\), and returns \(3,\)"),
    ({"task": Regression(quantiles=(0.5, 2.0))}, "each between 0 and 1"),
    ({"task": Regression(quantiles=(0.5,))}, r"must have 1 quantiles, and they are \(3,\)"),
    ({"task": "regression", "loss": "quantile"}, "the loss quantile wants to know which"),
    ({"task": "regression", "metrics": {"mae": branching}}, "has a metric 'mae' already"),
    ({"task": "regression", "metrics": {"a": branching}}, "metric a can't be traced: what it does depends"),
    ({"task": "regression", "metrics": {"a": lambda o, y: o.sum()}}, "metric a must return .sums, counts."),
    ({"task": "regression", "metrics": {"a": lambda o, y: ("x", 1)}}, "must return tensors or numbers, and .* a str"),
    ({"loss": F.mse_loss, "metrics": {"a": lambda o, y: (o, 1)}}, "sums must be a number or a vector"),
    ({"task": Own(target_dtype="int64")}, "say how many classes"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_what_a_task_can_not_be_is_told_in_a_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        described(**fields)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_no_number_is_told(tmp_path: Path) -> None:
    definition = Definition("mine", nn.Linear(2, 3), (2,), loss=lambda outputs, y: outputs - y)
    with pytest.raises(ModelError, match="must return one number, the mean over the batch, and returns a tensor"):
        build_bundle(definition, tmp_path / "bundle", batch_size=2)


def test_a_loss_that_differs_when_it_is_traced_is_found(tmp_path: Path) -> None:
    """It keeps a count in Python, which a trace freezes."""
    calls: list[int] = []

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return (outputs - y).square().mean() * len(calls)

    definition = Definition("mine", nn.Linear(2, 3), (2,), loss=loss)
    with pytest.raises(ModelError, match="differ"):
        build_bundle(definition, tmp_path / "bundle", batch_size=2)


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        (
            "regression",
            np.zeros((4, 2)),
            r"the shape \(2,\), and model mine takes numbers of shape \(3,\)",
        ),
        ("multi_label", np.full((4, 3), 2), r"target 0 has the value 2, and they go from 0 to 1"),
        (Own(target_dtype="int64", classes=3, target_shape=()), np.array([0, 1, 3, 0]), "target 2 has the value 3"),
        ("regression", None, "it has no targets y"),
    ],
)
def test_targets_that_do_not_fit_are_told(task: Any, y: Any, message: str) -> None:
    spec = derive_spec(Definition("mine", nn.Linear(2, 3), (2,), task=task, loss=lambda outputs, y: outputs.mean()))
    with pytest.raises(DataError, match=f"d.npz: .*{message}"):
        LabelledSamples(np.zeros((4, 2)), y, "d.npz").check(spec)


def test_ignored_targets_beyond_the_classes_fit() -> None:
    spec = derive_spec(Definition("d", nn.Conv2d(1, 3, 1), (1, 2, 2), task=Dense(ignored=255)))
    y = np.array([[[0, 255], [1, 2]]], np.uint8)
    LabelledSamples(np.zeros((1, 1, 2, 2)), y).check(spec)
    with pytest.raises(DataError, match="target 0 has the value 7, and the classes are 0 to 2, and 255 is ignored"):
        LabelledSamples(np.zeros((1, 1, 2, 2)), np.full((1, 2, 2), 7)).check(spec)


def test_boards_need_no_torch_for_tasks() -> None:
    script = (
        "import sys, lamina.models.targets, lamina.models.metrics, lamina.models.samples; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
    )
