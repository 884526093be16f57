"""Networks of several inputs: torch is the oracle of their graphs, and what they can't be is told in a line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from lamina.edge_agent.training.random_inputs import random_inputs
from lamina.emulation.datasets import load_dataset
from lamina.emulation.simulator.research.width import narrowed
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition, load_definition
from lamina.models.errors import DataError, ModelError
from lamina.models.export import export_model
from lamina.models.graph.tracing import trace
from lamina.models.layout import derive_spec
from lamina.models.model_card import ModelFacts
from lamina.models.proof.samples import samples as drawn_samples
from lamina.models.samples import LabelledSamples
from lamina.models.sources import load_samples
from tests import task_nets

NETS = Path(task_nets.__file__)
BOTH = ("sensor_and_mask", "image_and_kind")


def module(name: str) -> Any:
    """The user's own module, which takes its inputs apart."""
    torch.manual_seed(0)
    return getattr(task_nets, name)()


def given(name: str, own: nn.Module, x: dict[str, Any]) -> Any:
    tensors = {key: torch.as_tensor(part) for key, part in x.items()}
    tensors = {key: part if key == "kind" else part.float() for key, part in tensors.items()}
    return own(tensors) if name == "image_and_kind" else own(**tensors)


@pytest.fixture(scope="module", params=BOTH)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Bundle]:
    """A bundle whose graphs have all been compared with torch: training from every cut, pieces, inference, metrics."""
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    build_bundle(load_definition(f"{NETS}:{request.param}", seed=0), folder, batch_size=4)
    return request.param, read_bundle(folder)


def test_a_bundle_knows_its_inputs(built: tuple[str, Bundle]) -> None:
    name, bundle = built
    spec = bundle.manifest.spec
    expected = {
        "sensor_and_mask": [("sensor", (3, 3), "float32"), ("mask", (3,), "float32")],
        "image_and_kind": [("image", (1, 4, 4), "float32"), ("kind", (), "int64"), ("weight", (), "float32")],
    }
    assert [(one.name, one.shape, one.dtype) for one in spec.named_inputs] == expected[name]
    assert len(spec.cuts) > 1  # behind the joining there are cuts, for small boards


def test_the_users_module_stays_as_it_is(built: tuple[str, Bundle]) -> None:
    """Names of tensors are its own, and it still takes its inputs by themselves."""
    name, bundle = built
    own = module(name)
    definition = Definition("mine", own, own.input_shape, 3, input_dtype=getattr(own, "input_dtype", "float32"))
    spec = bundle.manifest.spec
    names = {tensor.name for layer in spec.layers for tensor in (*layer.parameters, *layer.statistics)}
    assert names <= set(own.state_dict())
    assert {id(each) for each in definition.module.parameters()} == {id(each) for each in own.parameters()}
    x, _ = task_nets.data(name, 1, 5)
    rows = LabelledSamples(x, None).inputs(np.arange(5), spec)
    definition.module.eval()
    own.eval()
    torch.testing.assert_close(definition.module(torch.from_numpy(rows)), given(name, own, x))
    assert type(own).__name__ == type(definition.module).__name__
    copied = copy.deepcopy(definition.module).double()
    assert copied(torch.from_numpy(rows).double()).dtype == torch.float64


def test_an_exported_model_takes_them_by_name(built: tuple[str, Bundle], tmp_path: Path) -> None:
    name, bundle = built
    path = tmp_path / "model.onnx"
    export_model(bundle, bundle.initial_values(), path, ModelFacts("farm", 1, "digest"))
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x, _ = task_nets.data(name, 1, 5)
    feeds = {one.name: np.asarray(x[one.name], one.dtype) for one in bundle.manifest.spec.named_inputs}
    assert {place.name: tuple(place.shape[1:]) for place in session.get_inputs()} == {
        key: part.shape[1:] for key, part in feeds.items()
    }
    own = module(name)
    own.load_state_dict({key: torch.from_numpy(value) for key, value in bundle.initial_values().items()}, strict=False)
    with torch.no_grad():
        expected = given(name, own.eval(), x).numpy()
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-5)
    card = path.with_suffix(".md").read_text()
    assert all(f"`{key}`" in card for key in feeds)


class Awkward(nn.Module):
    """Inputs are called as tensors in a graph are, and one is read by a loop's body."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.rnn, self.last = nn.Parameter(torch.ones(3)), nn.GRU(3, 4, batch_first=True), nn.Linear(7, 2)

    def forward(self, x: Tensor, rows_0: Tensor, lr: Tensor) -> Tensor:
        states, _ = self.rnn(x * self.scale)
        return self.last(torch.cat([states[:, -1], rows_0], 1)) * lr.unsqueeze(1)


def test_any_name_of_an_input_goes(tmp_path: Path) -> None:
    shapes: Any = {"x": (5, 3), "rows_0": (3,), "lr": ()}
    definition = Definition("awkward", Awkward(), shapes, 2)
    build_bundle(definition, tmp_path / "bundle", batch_size=2)
    bundle = read_bundle(tmp_path / "bundle")
    export_model(bundle, bundle.initial_values(), tmp_path / "m.onnx")
    session = ort.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    feeds = {name: np.random.default_rng(0).random((3, *shape), np.float32) for name, shape in shapes.items()}
    own = Awkward()
    own.load_state_dict({key: torch.from_numpy(value) for key, value in bundle.initial_values().items()})
    expected = own(*map(torch.from_numpy, feeds.values())).detach().numpy()
    np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=1e-5)


class ReadAgain(nn.Module):
    """The mask is read by the first layer and by the last, across every cut between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(8, 2)

    def forward(self, sensor: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(torch.cat([sensor, mask], 1)))))
        return self.last(torch.cat([hidden, mask], 1))


def test_a_cut_that_an_input_passes_is_not_offered_and_refused_by_name(tmp_path: Path) -> None:
    shapes: Any = {"sensor": (3,), "mask": (3,)}
    spec = derive_spec(Definition("again", ReadAgain(), shapes, 2))
    assert [spec.layers[cut].name for cut in spec.cuts] == ["first", "last"]  # the last layer's input holds the mask
    with pytest.raises(ModelError, match="model again: no block starts at 'second'"):
        derive_spec(Definition("again", ReadAgain(), shapes, 2, cuts=("second",)))
    build_bundle(Definition("again", ReadAgain(), shapes, 2), tmp_path / "bundle", batch_size=2)  # and it is right


def test_what_is_drawn_fits_every_table() -> None:
    """The proof draws ids of the whole table, and a board that measures its speed draws such as any table has."""
    definition = load_definition(f"{NETS}:image_and_kind")
    batches = list(drawn_samples(definition, trace(definition, training=True), 200, np.random.default_rng(0)))
    kinds = np.concatenate([rows[:, 16] for rows in batches])
    assert set(kinds) == {0, 1, 2, 3}
    assert set(random_inputs(derive_spec(definition), 50, np.random.default_rng(0))[:, 16]) <= {0, 1}


# -- what is refused


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(2, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.last(a + b)


class NamesItsOutput(Two):
    def forward(self, a: Tensor, b: Tensor) -> Any:
        return {"a": self.last(a + b)}


@pytest.mark.parametrize(
    ("net", "shapes", "fields", "message"),
    [
        (
            Two,
            {"a": (2,), "c": (2,)},
            {},
            r"its inputs are a, c, and its forward takes a, b: write forward",
        ),
        (Two, {"a": (2,)}, {}, "its inputs are a, and its forward takes a, b"),
        (Two, {"a": (2,), "b": [2]}, {}, r"input b has the shape \[2\]; give a sample's"),
        (Two, {"a": (2,), "b.c": (2,)}, {}, "an input is called 'b.c'; a name has letters"),
        (Two, {}, {}, "input_shape names 0 inputs"),
        (Two, {"a": (2,), "b": (2,)}, {"input_dtype": {"c": "int64"}}, "input_dtype names 'c', which input_shape does"),
        (Two, {"a": (2,), "b": (2,)}, {"input_dtype": {"b": "int8"}}, "input_dtype of b must be one of float32, int64"),
        (Two, {"a": (2,), "b": (2,)}, {"task": "reconstruction"}, "to reproduce its input, and takes several, a, b"),
        (NamesItsOutput, {"a": (2,), "b": (2,)}, {"loss": lambda o, y: o["a"].mean()}, "an input and an output are"),
    ],
)
def test_inputs_that_can_not_be_are_told_in_a_line(net: Any, shapes: Any, fields: Any, message: str) -> None:
    fields = {"task": "own", **fields} if callable(fields.get("loss")) else fields
    with pytest.raises(ModelError, match=message) as error:
        derive_spec(Definition("mine", net(), shapes, 2, **_own_shape(fields)))
    assert "\n" not in str(error.value)


def _own_shape(fields: dict[str, Any]) -> dict[str, Any]:
    from lamina.models.tasks.own import Own

    return {**fields, "task": Own(target_shape=(2,))} if fields.get("task") == "own" else fields


def test_data_with_other_inputs_are_told() -> None:
    spec = derive_spec(load_definition(f"{NETS}:image_and_kind"))
    x, y = task_nets.data("image_and_kind", 1, 5)
    with pytest.raises(DataError, match="its inputs are image, kind, and model task_nets takes image, kind, weight"):
        LabelledSamples({name: x[name] for name in ("image", "kind")}, y).check(spec)
    with pytest.raises(DataError, match="input kind: its samples are float64, and model task_nets takes int64"):
        LabelledSamples({**x, "kind": x["kind"] / 2}, y).check(spec)
    with pytest.raises(DataError, match=r"input image: its samples have the shape \(4, 4\)"):
        LabelledSamples({**x, "image": x["image"][:, 0]}, y).check(spec)


# -- data


def test_an_archive_of_named_inputs_is_divided_and_scaled(tmp_path: Path) -> None:
    """Bytes become numbers, as those of a single input do; a mask stays 0 or 1."""
    image = np.arange(10 * 3 * 4 * 4, dtype=np.uint16).reshape(10, 3, 4, 4).astype(np.uint8)
    parts = {"x.image": image, "x.mask": np.arange(20).reshape(10, 2) % 2 == 0, "x.kind": np.arange(10)}
    np.savez(tmp_path / "all.npz", y=np.arange(10) % 2, **parts)
    dataset = load_dataset(str(tmp_path / "all.npz"), seed=1)
    assert set(dataset.x_train.dtype.names or ()) == {"image", "mask", "kind"}
    assert (len(dataset.x_train), len(dataset.x_test)) == (8, 2)
    assert dataset.x_train["image"].dtype == np.float32
    assert abs(float(dataset.x_train["image"].mean())) < 1e-5
    assert dataset.x_train["mask"].dtype == bool
    np.testing.assert_array_equal(dataset.x_train["kind"] % 2, dataset.y_train)  # rows stay together


def test_inputs_of_different_lengths_are_told(tmp_path: Path) -> None:
    parts = {"x.a": np.zeros((3, 2)), "x.b": np.zeros((4, 2))}
    np.savez(tmp_path / "odd.npz", y=np.zeros(3, int), **parts)
    with pytest.raises(DataError, match="the inputs have different numbers of samples: a 3, b 4"):
        load_dataset(str(tmp_path / "odd.npz"))


def test_a_growing_folder_of_named_inputs(tmp_path: Path) -> None:
    for number in range(2):
        parts = {"x.a": np.full((3, 2), number, np.float32), "x.b": np.full(3, number)}
        np.savez(tmp_path / f"{number}.npz", y=np.zeros(3, int), **parts)
    found = load_samples(str(tmp_path))
    assert {name: part.shape for name, part in found.parts.items()} == {"a": (6, 2), "b": (6,)}


def test_a_mask_of_bool_is_0_or_1_whatever_takes_it() -> None:
    data = LabelledSamples(np.array([[True, False]]), np.array([0]))
    assert data.samples(np.array([0]), "float32").tolist() == [[1.0, 0.0]]
    assert data.samples(np.array([0]), "int64").tolist() == [[1, 0]]


def test_a_network_of_several_inputs_is_not_narrowed() -> None:
    definition = load_definition(f"{NETS}:image_and_kind")
    with pytest.raises(ModelError, match="width reduction can't narrow a network of several inputs"):
        narrowed(definition, derive_spec(definition), 0.5)
