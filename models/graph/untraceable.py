"""Why a forward pass can't be traced, as its author can use it: the line, the reason, and what to write instead."""

from __future__ import annotations

import inspect
import io
import logging
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from lamina.models.errors import first_line
from lamina.models.graph.advice import NUMPY, ON_BATCH, ON_VALUES

_TORCH = Path(torch.__file__).parent
_OURS = Path(__file__).parent
_STANDARD_LIBRARY = Path(inspect.__file__).parent

_MOMENTUM = "a batch norm with momentum=None counts its batches, which a graph can't: give it a momentum, such as 0.1"


def misfit(module: nn.Module) -> str:
    """Why ``module`` can't even be called with one tensor x; empty where it can."""
    for name, part in module.named_modules():
        which = f"its module {name}" if name else "it"
        if isinstance(part, torch._dynamo.OptimizedModule):
            return f"{which} is wrapped by torch.compile: hand over the module itself, without torch.compile"
        if isinstance(part, torch.jit.ScriptModule):
            return f"{which} is compiled by torch.jit: hand over the module that it was made from"
    parameters = inspect.signature(module.forward).parameters.values()
    line = _line_of(module)
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    if not positional:
        return f"its forward takes no argument x by position{line}: write forward(self, x), x being (N, *input_shape)"
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in _OPEN]
    more = [name for name in needed if name != positional[0].name]
    if more:
        return (
            f"its forward takes {', '.join([positional[0].name, *more])}{line}, and devices give it one tensor x: "
            f"name several in input_shape, such as {{'{positional[0].name}': (3, 32), '{more[0]}': (32,)}}, or compute "
            f"{', '.join(more)} from x, or give a default"
        )
    return ""


_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Witness:
    """Sees, while a pass is traced, which of the author's lines settles the batch size."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, lines are noted; torch's own warnings and dumps of graphs are left out."""
        original = ShapeEnv._log_guard
        witness = self

        def noted(environment: Any, prefix: str, guard: Any, *args: Any, **kwargs: Any) -> Any:
            frames = traceback.extract_stack()
            ours = [index for index, frame in enumerate(frames) if _OURS in Path(frame.filename).parents]
            witness.lines.append(_place(frames[ours[0] :] if ours else []))
            return original(environment, prefix, guard, *args, **kwargs)

        before = logging.root.manager.disable
        ShapeEnv._log_guard = noted  # type: ignore[method-assign, assignment]  # there is no other way to see it
        logging.disable(logging.CRITICAL)
        try:
            with redirect_stderr(io.StringIO()):  # torch prints the graph so far there
                yield
        finally:
            logging.disable(before)
            ShapeEnv._log_guard = original  # type: ignore[method-assign]


def reason(error: Exception, witness: Witness) -> str:
    """Why the trace failed, the author's line, and what to write instead."""
    frames = traceback.extract_tb(error.__traceback__)
    text = str(error)
    if "Constraints violated" in text or ("specialized" in text and "data-dependent" not in text):
        return ON_BATCH + next((line for line in reversed(witness.lines) if line), "")
    if "data-dependent" in text or "unbacked" in text or "DynamicOutputShape" in type(error).__name__:
        if any(frame.filename.endswith("batchnorm.py") for frame in frames):
            return _MOMENTUM + _place(frames)
        return ON_VALUES + _place(frames)
    if "higher order operator" in text:
        return ON_VALUES + _place(frames)
    said = with_plain_names(first_line(error))
    if ".numpy()" in said:
        return NUMPY + _place(frames)
    instead = f": {ON_BATCH}" if said != first_line(error) else ""  # a shape in which the batch size stands
    return said + instead + _place(frames)


def line_of(error: Exception) -> str:
    """The author's line that raised it, in brackets; empty where none did."""
    return _place(traceback.extract_tb(error.__traceback__))


def with_plain_names(text: str) -> str:
    """The text with N for torch's name of the batch size, such as s77."""
    return re.sub(r"\bs\d+\b", "N", text)


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    own = [frame for frame in frames if _is_authors(frame)]
    return f" (line {own[-1].lineno} of {own[-1].filename})" if own else ""


def _is_authors(frame: traceback.FrameSummary) -> bool:
    """Whether it is a line of a forward pass: called by torch, in a file that is not torch's, Python's or ours."""
    if frame.filename.startswith("<"):
        return False
    places = Path(frame.filename).parents
    return not any(home in places for home in (_TORCH, _OURS, _STANDARD_LIBRARY))


def _line_of(module: nn.Module) -> str:
    code = getattr(type(module).forward, "__code__", None)
    return f" (line {code.co_firstlineno} of {code.co_filename})" if code else ""
