"""Says what a network's outputs mean: the class and its name, labels, or numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.models.spec import ModelSpec
from lamina.models.targets import SINGLE_LABEL

Prediction = dict[str, Any]
"""What a model says of one sample: plain values, as JSON has them."""


def predictions(outputs: Mapping[str, NDArray[Any]], inputs: NDArray[Any], spec: ModelSpec) -> list[Prediction]:
    """What each sample's outputs mean.

    One class a sample becomes ``label``, its name as ``class``, and ``score``, its probability; yes or no the same.
    Several labels become ``labels``, ``classes`` and ``scores``. A class a place becomes ``labels``, of the shape of
    the places. Of a network that reproduces its input, there is ``error``, the mean square. All else is ``values``.

    Args:
        outputs: by name, (B, ...).
        inputs: that it was given, (B, ...).
        spec: of the network.
    """
    if len(outputs) != 1:
        return [
            {"values": {name: values[at].tolist() for name, values in outputs.items()}} for at in range(len(inputs))
        ]
    [values] = outputs.values()
    task, target = spec.wanted.task, spec.wanted
    if task == SINGLE_LABEL and values.ndim == 2:
        return [_of_class(row, spec) for row in _softmax(values)]
    if task == "binary":
        return [_yes_or_no(float(share), spec) for share in _sigmoid(values).reshape(len(values))]
    if task == "multi_label" and values.ndim == 2:
        return [_of_labels(row, spec) for row in _sigmoid(values)]
    if target.classes and target.shape:
        axis = 1 if values.shape[2:] == target.shape else values.ndim - 1  # (B, C, ...), or (B, T, C)
        return [{"labels": row.tolist()} for row in values.argmax(axis)]
    if target.is_input:
        errors = np.square(values - inputs.reshape(values.shape)).reshape(len(values), -1).mean(1)
        return [{"error": float(error)} for error in errors]
    return [{"values": row.tolist()} for row in values]


def _of_class(shares: NDArray[Any], spec: ModelSpec) -> Prediction:
    label = int(shares.argmax())
    return {"label": label, "class": _name(label, spec), "score": round(float(shares[label]), 6)}


def _yes_or_no(share: float, spec: ModelSpec) -> Prediction:
    label = int(share > 0.5)
    return {"label": label, "class": _name(label, spec), "score": round(share if label else 1 - share, 6)}


def _of_labels(shares: NDArray[Any], spec: ModelSpec) -> Prediction:
    labels = np.flatnonzero(shares > 0.5).tolist()
    return {
        "labels": labels,
        "classes": [_name(label, spec) for label in labels],
        "scores": [round(float(share), 6) for share in shares],
    }


def _name(label: int, spec: ModelSpec) -> str:
    return spec.names[label] if label < len(spec.names) else str(label)


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    total: NDArray[Any] = shares / shares.sum(axis=1, keepdims=True)
    return total


def _sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    shares: NDArray[Any] = 0.5 * (1 + np.tanh(logits.astype(np.float64) / 2))  # does not overflow
    return shares
