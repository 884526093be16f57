"""Predicts with the model that is deployed on this board, whichever that is now.

Before each prediction it is looked whether another model has become active; that one is loaded beside the present one,
which answers until the new one is ready. So no question goes without an answer while models change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lamina.broker.wire.deployments import Offer
from lamina.edge_agent.service.profile import threads
from lamina.edge_agent.serving.readings import Prediction, predictions
from lamina.edge_agent.serving.shelf import Shelf
from lamina.edge_agent.settings import AgentSettings
from lamina.edge_agent.training.trainer import WholeForward
from lamina.models.errors import ConfigError
from lamina.models.inputs import as_samples, read_inputs
from lamina.models.judging import feeds_of
from lamina.models.samples import LabelledSamples
from lamina.models.spec import ModelSpec

log = logging.getLogger("lamina.agent")

_BATCH = 32
_TRIES = 3


@dataclass(frozen=True)
class LoadedModel:
    """A deployed model in memory.

    Attributes:
        offer: what is known of it.
        spec: of the network.
        run: the network.
        mark: of the shelf when it was loaded.
    """

    offer: Offer
    spec: ModelSpec
    run: WholeForward
    mark: tuple[int, int] | None


@dataclass(frozen=True)
class Told:
    """What a model says.

    Attributes:
        deployment: its number.
        round: rounds after which it was taken.
        predictions: one for each sample.
    """

    deployment: int
    round: int
    predictions: list[Prediction]


class Predictor:
    """The model that is deployed on a board. It may be used from several threads.

    Args:
        settings: the board's.

    Raises:
        ConfigError: no model is deployed there, or it can't be loaded.
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._shelf = Shelf(Path(settings.folder))
        self._turn = threading.Lock()
        self._model = self._loaded()

    @property
    def model(self) -> LoadedModel:
        """The model that is active now; where that can't be loaded, the one before answers on."""
        if self._shelf.mark() != self._model.mark:
            with self._turn:
                if self._shelf.mark() != self._model.mark:
                    self._swap()
        return self._model

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label; empty where they have none."""
        return self.model.spec.names

    def predict(self, x: Any) -> list[Prediction]:
        """What the model says of samples (see `lamina.edge_agent.serving.readings.predictions`).

        Args:
            x: an array (N, ...), or one sample, as the board's own samples hold it; a dictionary of such, for a network
                with several inputs; or the path of a file or a folder, which is read as the board's samples are.

        Raises:
            DataError: it is not what the network takes.
        """
        return self.tell(x).predictions

    def tell(self, x: Any) -> Told:
        """The same, with the model that says it; raises as `predict`."""
        model = self.model
        samples = self._samples(x, model.spec)
        said = [prediction for part in _parts(samples, model) for prediction in part]
        return Told(model.offer.number, model.offer.round, said)

    def _samples(self, x: Any, spec: ModelSpec) -> LabelledSamples:
        if isinstance(x, str | Path):
            return read_inputs(Path(x), self._settings.data, spec)
        return as_samples(x, spec)

    def _swap(self) -> None:
        mark = self._shelf.mark()
        try:
            self._model = self._loaded()
        except ConfigError as error:
            log.warning("deployment %d answers on: %s", self._model.offer.number, error)
            self._model = LoadedModel(self._model.offer, self._model.spec, self._model.run, mark)  # not tried again

    def _loaded(self) -> LoadedModel:
        for attempt in range(_TRIES):
            mark, offer = self._shelf.mark(), self._shelf.state().active
            if offer is None:
                raise ConfigError(
                    f"no model is deployed on this board (in {self._settings.folder}): `lamina deploy` sends one"
                )
            try:
                spec = self._shelf.manifest(offer).spec
                run = WholeForward(self._shelf.path(offer), threads=threads(self._settings))
                return LoadedModel(offer, spec, run, mark)
            except ConfigError:
                if attempt == _TRIES - 1 or self._shelf.mark() == mark:  # else it was replaced meanwhile
                    raise
        raise AssertionError


def _parts(samples: LabelledSamples, model: LoadedModel) -> Iterator[Sequence[Prediction]]:
    for start in range(0, len(samples), _BATCH):
        indices = np.arange(start, min(start + _BATCH, len(samples)))
        outputs = model.run(feeds_of(samples, indices, model.spec, exported=True))
        yield predictions(outputs, samples.inputs(indices, model.spec), model.spec)
