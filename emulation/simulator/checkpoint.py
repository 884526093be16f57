"""The checkpoint at which a killed run goes on: one file, replaced as a whole."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lamina.emulation.simulator.simulation import SimulatedRunState, SimulationState
from lamina.models.decoding import from_json
from lamina.models.storage.replace import replace_file

_SERVER = "server."  # begins the names of what the server's optimiser remembers of a layer

_PERSONAL = "personal."  # begins the names of devices' personal layers

_LOCAL = "local."  # begins the names of what is remembered for the algorithm


class EvaluationPoint(msgspec.Struct, frozen=True):
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
    points: tuple[EvaluationPoint, ...] = ()
    processor_s: float = 0.0


class _Head(msgspec.Struct, frozen=True):
    run_state: SimulatedRunState
    history: RunHistory


def write_checkpoint(path: Path, state: SimulationState, history: RunHistory) -> None:
    """Put a run's state at ``path``, at once or not at all."""
    arrays: dict[str, NDArray[np.generic]] = {"base": state.base, "rows": state.rows, "momentum": state.momentum}
    arrays |= {f"{_SERVER}{layer}": memory for layer, memory in state.server.items()}
    arrays |= {f"{_LOCAL}{name}": vector for name, vector in state.local.items()}
    arrays |= {f"{_PERSONAL}{device}": own for device, own in state.personal.items()}
    head = np.frombuffer(msgspec.json.encode(_Head(state.run_state, history)), np.uint8)
    content = io.BytesIO()
    np.savez(content, head=head, **arrays)  # type: ignore[arg-type]  # its annotation takes the names for a flag
    replace_file(path, content.getvalue())


def read_checkpoint(path: Path) -> tuple[SimulationState, RunHistory] | None:
    """What `write_checkpoint` put there; ``None`` where there is nothing, or what is there can't be read."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            head = from_json(archive["head"].tobytes(), _Head)
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError):
        return None
    server = {int(name.removeprefix(_SERVER)): array for name, array in arrays.items() if name.startswith(_SERVER)}
    local = {name.removeprefix(_LOCAL): array for name, array in arrays.items() if name.startswith(_LOCAL)}
    personal = {name.removeprefix(_PERSONAL): array for name, array in arrays.items() if name.startswith(_PERSONAL)}
    return SimulationState(
        head.run_state, arrays["base"], arrays["rows"], arrays["momentum"], server, local, personal
    ), head.history
