"""Tells what of a finished round is a point of a curve, for programs that draw such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

_TRAINING = ("lr", "loss", "train_accuracy", "c_ratio")
_COST = ("uplink_bytes", "downlink_bytes", "fedavg_uplink_bytes", "round_s")


class Tracker(Protocol):
    """Another program's record of a run."""

    def point(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve."""

    def close(self) -> None:
        """Write what is left."""


def points(record: Mapping[str, Any]) -> dict[str, float]:
    """A round's figures by their name: those of training, and ``evaluation/NAME`` of the model where it was evaluated.

    Args:
        record: of the round, as `lamina.coordinator.dashboard.source.rounds_after` gives it.
    """
    training = {name: record[name] for name in (*_TRAINING, *_COST) if record.get(name) is not None}
    judged = {f"evaluation/{name}": value for name, value in record["figures"].items() if value is not None}
    return training | {"layers_averaged": len(record["due"])} | judged
