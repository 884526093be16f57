"""What is run in place of an operator when a section of the traced forward pass is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lamina.models.graph import recurrent
from lamina.models.graph.frames import IN_MEMORY
from lamina.models.graph.written_out import WRITTEN_OUT

STAND_INS: dict[Any, Callable[..., Any]] = recurrent.STAND_INS | IN_MEMORY | WRITTEN_OUT
