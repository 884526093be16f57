"""Curves as a run of MLflow, whose experiment has the federation's name."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.tracking import MlflowClient


class MlFlow:
    """A new run at a tracking server, or in a folder.

    Args:
        uri: of the server (``http://...``), or of a folder or database (``sqlite:///mlflow.db``).
        federation: names the experiment.
    """

    def __init__(self, uri: str, federation: str) -> None:
        self._client = MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(federation)
        experiment = known.experiment_id if known else self._client.create_experiment(federation)
        self._run = self._client.create_run(experiment).info.run_id

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.point`."""
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self._run)
