"""The examples run as they stand, in short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from lamina.broker.link.memory import MemoryBroker
from lamina.coordinator.commands.federation_file import load_federation
from lamina.models.build import build_bundle
from lamina.models.bundle import read_bundle
from lamina.models.definition import load_definition
from lamina.models.readers.settings import DataSettings
from tests.test_data_kinds import trained

EXAMPLES = Path(__file__).parent.parent / "examples"


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_keywords(tmp_path: Path) -> None:
    folder = EXAMPLES / "keywords"
    loaded(folder / "draw.py").draw(tmp_path / "data", devices=2, clips=6)
    definition = load_definition(f"{folder / 'model.py'}:build")
    build_bundle(definition, tmp_path / "bundle", batch_size=4, measure=lambda bundle, cut: 10.0, check=False)
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.manifest.spec.names == ("up", "down", "stop")
    assert "waves" not in " ".join(tensor.name for layer in bundle.manifest.spec.layers for tensor in layer.parameters)
    sources = {name: DataSettings(str(tmp_path / "data" / name)) for name in ("device-1", "device-2")}
    run = await trained(tmp_path, bundle, sources, MemoryBroker().dial)
    assert "| 2 | stop |" in (run / "model.md").read_text()
    assert load_federation(folder / "federation.toml").federation == "keywords"
