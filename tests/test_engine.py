"""The seam between learner and engine: what every engine does, and that the learner asks for nothing else."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from lamina.broker.wire.messages import RoundPlan
from lamina.edge_agent.data import sample_order
from lamina.edge_agent.training.assignment import Assignment
from lamina.edge_agent.training.engine import (
    Engine,
    FrozenPiece,
    InParts,
    PathOf,
    RunnableGraph,
    StepResult,
    SubModelTrainer,
)
from lamina.edge_agent.training.learner import Learner
from lamina.edge_agent.training.onnx_runtime import OnnxRuntime
from lamina.models.arrays import Vector
from lamina.models.errors import ModelError
from lamina.models.manifest import Manifest, SubModel
from lamina.models.samples import LabelledSamples
from lamina.models.values import layer_vector
from tests.tiny_model import PARAMETERS, SPEC, STATISTICS
from tests.tiny_training import Twin, write_trainable_bundle

X = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
Y = np.array([0, 2, 1, 1, 0])
PLAN = RoundPlan(epoch=1, round=0, local_steps=4, batch_size=3, hyperparameters={"lr": 0.5, "momentum": 0.9})


class ByHand:
    """An engine that knows the tiny model only: its arithmetic in numpy."""

    name = "numpy"

    def suited(self, sub_model: SubModel) -> SubModel:
        return sub_model

    def warm_up(self) -> None:
        pass

    def trainer(self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1) -> SubModelTrainer:
        return TwinTrainer(manifest.spec.parameter_offsets[cut])

    def parts_trainer(
        self, manifest: Manifest, cut: int, path: PathOf, *, threads: int = 1, checkpoints: bool = False
    ) -> InParts:
        raise ModelError("it takes a batch at once")

    def graph(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> RunnableGraph:
        raise ModelError("it knows no other graphs")

    def forward(self, graph: Path, values: Mapping[str, Vector], *, threads: int = 1) -> FrozenPiece:
        w, b, shift = (values[f"first.{name}"] for name in ("weight", "bias", "shift"))
        return lambda x: np.asarray(x @ w + b - shift, np.float32)


class TwinTrainer:
    def __init__(self, start: int) -> None:
        assert start == 0
        self._twin = Twin.start()
        for vector in self.vectors.values():
            vector[...] = 0

    @property
    def parameters(self) -> Vector:
        return self._twin.parameters

    @property
    def statistics(self) -> Vector:
        return self._twin.shift

    @property
    def optimiser_state(self) -> dict[str, Vector]:
        return {"momentum_buffer": self._twin.buffer}

    @property
    def anchor(self) -> None:
        return None

    @property
    def vectors(self) -> dict[str, Vector]:
        return {"parameters": self.parameters, "statistics": self.statistics, **self.optimiser_state}

    def step(self, x: Vector, y: np.ndarray, hyperparameters: Mapping[str, float]) -> StepResult:
        return StepResult(*self._twin.step(x, y, hyperparameters))


ENGINES: list[Callable[[], Engine]] = [OnnxRuntime, ByHand]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_trainable_bundle(tmp_path / "bundle")


def path_in(folder: Path) -> PathOf:
    return lambda entry: folder / "bundle" / entry.file_name


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_says_its_name_and_can_be_warmed_up(engine: Callable[[], Engine]) -> None:
    assert engine().name
    engine().warm_up()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_new_trainer_holds_zeros_and_is_written_into(
    engine: Callable[[], Engine], manifest: Manifest, tmp_path: Path
) -> None:
    trainer = engine().trainer(manifest, 0, path_in(tmp_path))
    assert {name: vector.any() for name, vector in trainer.vectors.items()} == dict.fromkeys(
        ("parameters", "statistics", "momentum_buffer"), False
    )
    twin = Twin.start()
    trainer.parameters[...], trainer.statistics[...] = twin.parameters, twin.shift
    for _ in range(3):
        loss, correct = twin.step(X, Y, PLAN.hyperparameters)
        result = trainer.step(X, Y, PLAN.hyperparameters)
        assert (result.loss, result.correct) == (pytest.approx(loss, rel=1e-5), correct)
    np.testing.assert_allclose(trainer.parameters, twin.parameters, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(trainer.statistics, twin.shift, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_is_the_same_whatever_trains_it(
    engine: Callable[[], Engine], manifest: Manifest, tmp_path: Path
) -> None:
    learner = Learner(
        Assignment(manifest, 0, path_in(tmp_path), LabelledSamples(X, Y), tmp_path / "activations", engine())
    )
    for layer in range(2):
        learner.take(layer, layer_vector(SPEC, layer, PARAMETERS / 10, STATISTICS / 10))
    outcome = learner.train(PLAN, "pi", reset=(0, 1), afresh=True)
    twin = Twin.start()
    losses = [twin.step(X[batch], Y[batch], PLAN.hyperparameters)[0] for batch in order()]
    assert outcome is not None
    assert outcome.loss == pytest.approx(np.mean(losses), rel=1e-5)
    np.testing.assert_allclose(learner.update(1), (twin.parameters - PARAMETERS / 10)[6:], rtol=1e-3, atol=1e-6)
    learner.close()


def order() -> np.ndarray:
    return sample_order(PLAN.seed, "pi", 0, len(Y), 12).reshape(4, 3)
