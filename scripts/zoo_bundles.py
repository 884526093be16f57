"""A bundle of every network of the zoo, some made smaller, without measured peaks: zoo_bundles.py FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from lamina.models.build import build_bundle
from lamina.models.definition import load_definition
from lamina.models.source import zoo_names

# Smaller where their size is only time here.
OPTIONS = {
    "leaf_cnn": "leaf_cnn,hidden=64",
    "mobilenet_v2": "mobilenet_v2,width=0.25",
    "text_lstm": "text_lstm,vocabulary=1000,length=40",
    "tiny_transformer": "tiny_transformer,vocabulary=1000,length=40,depth=2",
}


def main(folder: Path) -> None:
    """Write them all."""
    for name in zoo_names():
        build_bundle(load_definition(OPTIONS.get(name, name)), folder / name, batch_size=16)
        print(f"{name}: built", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
