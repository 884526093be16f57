"""Answers a question that came as bytes, by HTTP or by MQTT: a JSON object, an array, an image, a recording, a table.

What the bytes are is told from how they begin. Each answer is one JSON object with the predictions and the deployment
that made them; a question in JSON may have an ``id``, which its answer then has, too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from lamina.edge_agent.serving.predictor import Predictor
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError, DataError

MOST_BYTES = 32 << 20
"""Of one question."""

_BEGINNINGS = (
    (b"\x93NUMPY", ".npy"),
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"BM", ".bmp"),
    (b"RIFF", ".wav"),
)


class AskedInJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A question in JSON.

    Attributes:
        x: one sample, or several, as nested lists of numbers; an object of such, for several inputs.
        id: comes back with the answer.
    """

    x: Any
    id: str | int | None = None


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer: predictions, or an error, for a person.

    Attributes:
        predictions: one for each sample.
        deployment: number of the deployed model that said it.
        round: rounds after which it was taken.
        error: why there are no predictions.
        id: the question's.
    """

    predictions: list[dict[str, Any]] | None = None
    deployment: int = 0
    round: int = 0
    error: str = ""
    id: str | int | None = None


def replied(predictor: Predictor, content: bytes) -> Reply:
    """The answer to a question; it says what is wrong with one that can't be answered."""
    asked: AskedInJson | None = None
    try:
        if len(content) > MOST_BYTES:
            raise DataError(f"{len(content)} bytes, and at most {MOST_BYTES} are answered")
        if content.lstrip()[:1] == b"{":
            asked = from_json(content, AskedInJson)
            told = predictor.tell(asked.x)
        else:
            with tempfile.TemporaryDirectory(prefix="lamina-") as folder:
                file = Path(folder, f"question{_suffix(content)}")
                file.write_bytes(content)
                told = predictor.tell(file)
        return Reply(told.predictions, told.deployment, told.round, id=asked.id if asked else None)
    except (ConfigError, msgspec.MsgspecError, UnicodeDecodeError, OSError, RecursionError) as error:
        return Reply(error=str(error)[:500] or type(error).__name__, id=asked.id if asked else None)


def encoded(reply: Reply) -> bytes:
    """The answer as JSON."""
    return msgspec.json.encode(reply)


def _suffix(content: bytes) -> str:
    for beginning, suffix in _BEGINNINGS:
        if content.startswith(beginning):
            return suffix
    if b"\0" in content[:512]:
        raise DataError("it is neither JSON, nor an array (.npy), an image (PNG, JPEG, BMP), a WAV or a CSV")
    return ".csv"
