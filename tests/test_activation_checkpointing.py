"""Activations that are computed again give the same bits, and the engine keeps what was written for it."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from lamina.models.definition import Definition, load_definition
from lamina.models.engine_facts import REORDERING
from lamina.models.graph import accumulating_graph
from lamina.models.graph.activation_checkpointing import checkpointed
from lamina.models.graph.liveness import allocations, engine_order, highest_bytes, tensor_bytes
from lamina.models.layout import derive_spec
from tests.graph_oracle import flat, moving, session, tensors_of, trained

BATCH = 16


class Deep(nn.Module):
    """Convolutions with norms, residual, with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 if not index else 8, 8, 3, padding=1) for index in range(6))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(6))
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = norm(conv(x)).relu()
            x = y if x.shape[1] == 2 else nn.functional.dropout(x + y, 0.1, self.training)
        return self.dense(x.mean((2, 3)))


def deep() -> Definition:
    torch.manual_seed(0)
    return Definition("deep", Deep(), (2, 8, 8), 3)


class Stacked(nn.Module):
    """Recurrent layers, one on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(8, 8, batch_first=True) for _ in range(4))
        self.dense = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        return self.dense(x[:, -1])


def stacked() -> Definition:
    torch.manual_seed(0)
    return Definition("stacked", Stacked(), (12, 8), 3)


def feeds_of(running: ort.InferenceSession, definition: Definition, size: int) -> dict[str, np.ndarray]:
    spec, start, rng = derive_spec(definition), tensors_of(definition.module), np.random.default_rng(0)
    parameters = flat(start, trained(spec)).astype(np.float32)
    feeds = {
        "x": rng.standard_normal((size, *definition.input_shape), np.float32),
        "y": rng.integers(0, definition.classes, size),
        "share": np.array(0.5, np.float32),
        "seed": np.array(3.0, np.float32),
        "parameters": parameters,
        "statistics": flat(start, moving(spec)).astype(np.float32),
        "gradients": rng.standard_normal(parameters.shape, np.float32),
    }
    return {place.name: feeds[place.name] for place in running.get_inputs()}


def results(model: onnx.ModelProto, definition: Definition, size: int) -> list[np.ndarray]:
    running = session(model)
    return [np.asarray(one) for one in running.run(None, feeds_of(running, definition, size))]


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (deep, 5),
        (lambda: load_definition("digits_cnn,width=8"), BATCH),
        (stacked, 5),
        *[pytest.param(make, size, marks=pytest.mark.exhaustive) for make in (deep, stacked) for size in (1, BATCH)],
    ],
)
def test_the_same_bits_for_less_memory(make, size: int) -> None:  # type: ignore[no-untyped-def]
    definition = make()
    plain = accumulating_graph(definition, derive_spec(definition), 0)
    again = checkpointed(plain, BATCH, worth_bytes=0)
    onnx.checker.check_model(again, full_check=True)
    for ours, theirs in zip(results(again, definition, size), results(plain, definition, size), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("make", [deep, pytest.param(stacked, marks=pytest.mark.exhaustive)])
def test_every_tensor_has_a_size(make) -> None:  # type: ignore[no-untyped-def]
    definition = make()
    plain = accumulating_graph(definition, derive_spec(definition), 0)
    again = checkpointed(plain, BATCH, worth_bytes=0)
    assert again is not plain
    sizes, once = tensor_bytes(again, BATCH), tensor_bytes(plain, BATCH)
    for name in (name for operator in again.graph.node for name in operator.output if name):
        assert sizes[name] == once.get(name.partition(".")[2], sizes[name]), name


def test_it_takes_less_and_the_engine_does_not_undo_it(tmp_path: Path) -> None:
    definition = deep()
    plain = accumulating_graph(definition, derive_spec(definition), 0)
    again = checkpointed(plain, BATCH, worth_bytes=0)
    (less,), (more,) = allocations(again, BATCH), allocations(plain, BATCH)
    assert highest_bytes(less) < 0.9 * highest_bytes(more)
    counts = []
    for model in (plain, again):
        options = ort.SessionOptions()
        options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        written = onnx.load(tmp_path / "optimised.onnx").graph.node
        counts.append(sum(operator.op_type in ("BatchNormalization", "Conv", "FusedConv") for operator in written))
    assert counts[1] >= counts[0] + 4


def grouped() -> Definition:
    definition = deep()
    definition.module.norms = nn.ModuleList(nn.GroupNorm(2, 8) for _ in range(6))
    return definition


def test_the_engine_keeps_to_the_order_that_memory_is_predicted_by(tmp_path: Path) -> None:
    definition = grouped()
    again = checkpointed(accumulating_graph(definition, derive_spec(definition), 0), BATCH, worth_bytes=0)
    options = ort.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 3
    options.profile_file_prefix = str(tmp_path / "run")
    running = ort.InferenceSession(
        again.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=[*REORDERING]
    )
    running.run(None, feeds_of(running, definition, 2))
    events = json.loads(Path(running.end_profiling()).read_text())
    heavy = {each.name for each in again.graph.node if each.op_type in ("Conv", "BatchNormalization", "MatMul", "Pad")}
    ran = [event["name"].removesuffix("_kernel_time") for event in events if event["name"].endswith("_kernel_time")]
    ran = [name for name in ran if name in heavy]
    assert len(ran) > 20
    assert ran == [operator.name for operator in engine_order(again.graph.node) if operator.name in set(ran)]


def test_where_nothing_is_saved_the_graph_is_left() -> None:
    definition = Definition("dense", nn.Linear(4, 3), (4,), 3)
    plain = accumulating_graph(definition, derive_spec(definition), 0)
    assert checkpointed(plain, BATCH) is plain
