"""Has programs log lines for a person, or, where ``LAMINA_LOG=json`` asks for it, a JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import TextIO

from lamina.models.errors import ConfigError

VARIABLE = "LAMINA_LOG"
KINDS = ("text", "json", "auto")

_TEXT = "%(asctime)s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """A record as one line of JSON: ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, and ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def start_logging(*, verbose: bool, stream: TextIO | None = None) -> None:
    """Have the program log to standard error, as the environment says.

    Args:
        verbose: whether details are logged, too.
        stream: in place of standard error.

    Raises:
        ConfigError: the environment asks for a kind that there is not.
    """
    stream = stream or sys.stderr
    kind = os.environ.get(VARIABLE, "text")
    if kind not in KINDS:
        raise ConfigError(f"{VARIABLE} must be one of {', '.join(KINDS)}, and is {kind!r}")
    handler = logging.StreamHandler(stream)
    as_json = kind == "json" or (kind == "auto" and not stream.isatty())
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(_TEXT))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
