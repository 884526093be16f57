"""Where does a run go on that was killed? At its last checkpoint: one file, replaced as a whole."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lamina.coordinator.algorithms.server_optimiser import AdamState, MomentumState
from lamina.emulation.simulator.server import ServerMemory
from lamina.emulation.simulator.simulation import RunState, State
from lamina.models.storage.replace import replace_file


class Point(msgspec.Struct, frozen=True):
    """One evaluation of the averaged model.

    Attributes:
        round: rounds completed.
        accuracy: on the held-out samples.
        uplink_bytes: what devices had sent by then.
        c_ratio: by then.
    """

    round: int
    accuracy: float
    uplink_bytes: int
    c_ratio: float


class RunHistory(msgspec.Struct, frozen=True):
    """What is known of a run beside its state.

    Attributes:
        backend: that it is carried out in; going on in another one could change the last bits.
        samples_per_s: of each backend, as they were measured; empty where the backend was given.
        points: evaluations so far.
        processor_s: seconds of processor time so far, of the run's own process: those of a pool are not in it.
    """

    backend: str
    samples_per_s: dict[str, float] = {}
    points: tuple[Point, ...] = ()
    processor_s: float = 0.0


class _Head(msgspec.Struct, frozen=True):
    run_state: RunState
    history: RunHistory


def write_checkpoint(path: Path, state: State, history: RunHistory) -> None:
    """Put a run's state at ``path``, at once or not at all."""
    arrays: dict[str, NDArray[np.generic]] = {"base": state.base, "rows": state.rows, "momentum": state.momentum}
    for layer, memory in enumerate(state.server):
        arrays[f"server.{layer}.momentum"] = memory.momentum
        if isinstance(memory, AdamState):
            arrays[f"server.{layer}.second_moment"] = memory.second_moment
    head = np.frombuffer(msgspec.json.encode(_Head(state.run_state, history)), np.uint8)
    content = io.BytesIO()
    np.savez(content, head=head, **arrays)  # type: ignore[arg-type]  # its annotation takes the names for a flag
    replace_file(path, content.getvalue())


def read_checkpoint(path: Path) -> tuple[State, RunHistory] | None:
    """What `write_checkpoint` put there; ``None`` where there is nothing, or what is there can't be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            head = msgspec.json.decode(archive["head"].tobytes(), type=_Head)
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError):
        return None
    layers = sum(name.endswith(".momentum") for name in arrays)
    server = [_memory(arrays, layer) for layer in range(layers)]
    return State(head.run_state, arrays["base"], arrays["rows"], arrays["momentum"], server), head.history


def _memory(arrays: dict[str, NDArray[np.float32]], layer: int) -> ServerMemory:
    momentum, second = arrays[f"server.{layer}.momentum"], arrays.get(f"server.{layer}.second_moment")
    return MomentumState(momentum) if second is None else AdamState(momentum, second)
