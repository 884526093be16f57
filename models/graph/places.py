"""The line of the author's own code that an operator comes from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import fx

_TORCH = Path(torch.__file__).parent


def place(node: fx.Node) -> str:
    """Return where ``node`` comes from: the module, and the line of its code; empty where the trace doesn't say."""
    origin = next((known for known in _with_inputs(node) if known.meta.get("nn_module_stack")), None)
    if origin is None:
        return ""
    path, kind = list(origin.meta["nn_module_stack"].values())[-1]
    kind = kind if isinstance(kind, str) else kind.__qualname__
    line = last_line(origin.meta.get("stack_trace"))
    return f" in module {path or '(the whole)'} ({kind.rpartition('.')[2]}){line}"


def _with_inputs(node: fx.Node) -> Sequence[fx.Node]:
    """``node``, its inputs, their inputs, and so on: a backward operator stands where the forward one did it reads."""
    found, at = [node], 0
    while at < len(found):
        found += [other for other in found[at].all_input_nodes if other not in found]
        at += 1
        if at > 50:
            break
    return found


def last_line(stack_trace: str | None) -> str:
    """Return the innermost line of the author's own code; torch's where there is none, as in a ``nn.Sequential``."""
    lines = [line.strip() for line in (stack_trace or "").splitlines() if line.strip().startswith("File ")]
    own = [line for line in lines if str(_TORCH) not in line]
    return f", {(own or lines)[-1].removeprefix('File ')}" if lines else ""
