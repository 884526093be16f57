"""Boards with a deployed model, as an agent leaves them, without a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lamina.broker.wire.deployments import Deployed, Offer
from lamina.edge_agent.serving.shelf import CARD, MANIFEST, MODEL, Shelf
from lamina.models.bundle import MANIFEST_NAME, Bundle, digest_of
from lamina.models.export import export_model


def settings_file(folder: Path, data: Any = '"samples.npz"') -> Path:
    """A board's agent.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "agent.toml"
    file.write_text(f'federation = "lab"\ndevice = "pi"\ndata = {data}\nfolder = "state"\nthreads = 1\n')
    return file


def put(folder: Path, bundle: Bundle, number: int = 1, **values: Any) -> Offer:
    """Deploy a model on the board in a folder; ``values`` are tensors other than the bundle's initial ones."""
    shelf = Shelf(folder / "state")
    exported = folder / f"exported-{number}.onnx"
    export_model(bundle, bundle.initial_values() | values, exported)
    model = exported.read_bytes()
    offer = Offer(
        number=number, model=digest_of(model), model_bytes=len(model), card=digest_of(b""), card_bytes=0,
        bundle=bundle.digest, round=10 * number,
    )  # fmt: skip
    shelf.place(offer).mkdir(parents=True, exist_ok=True)
    shelf.path(offer, MODEL).write_bytes(model)
    shelf.path(offer, CARD).write_bytes(b"")
    shelf.path(offer, MANIFEST).write_bytes((bundle.folder / MANIFEST_NAME).read_bytes())
    shelf.keep(shelf.state().taking(offer, Deployed(number=number, verdict="taken", active=number)))
    return offer
