"""``lamina partition DATA FOLDER``: divide a data set among devices, as files that agents and evaluation read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np

from lamina.broker.programs.exit_status import ExitStatus
from lamina.emulation.datasets import load_dataset
from lamina.emulation.experiment import Experiment, Group, Partition, PartitionKind
from lamina.emulation.layout import share_samples, test_file, write_samples
from lamina.models.readers.settings import source_of

HELP = "divide a data set among devices: one .npz each, and one to evaluate on"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina partition digits data --devices 6 --alpha 0.5"
    parser.add_argument("data", help="digits, an .npz file, a table, a folder, or {path = ...}")
    parser.add_argument("folder", type=Path, help="where device-1.npz ... and, beside the folder, test.npz go")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--kind", choices=get_args(PartitionKind), default="dirichlet")
    parser.add_argument("--alpha", type=float, default=0.5, help="of dirichlet; the smaller, the more uneven")
    parser.add_argument("--shards", type=int, default=2, help="of shards: how many a device")
    parser.add_argument("--spread", type=float, default=100.0, help="of quantity: the most samples over the fewest")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Write the files, and print how many samples of each class every device has."""
    experiment = Experiment(
        data=source_of(options.data),
        seed=options.seed,
        partition=Partition(kind=options.kind, alpha=options.alpha, shards=options.shards, spread=options.spread),
        fleet=(Group(devices=options.devices),),
    )
    dataset = load_dataset(experiment.data, seed=experiment.seed)
    parts = share_samples(experiment, dataset)
    names = [f"device-{number}" for number in range(1, options.devices + 1)]
    write_samples(options.folder, dataset, names, parts)
    for name, part in zip(names, parts, strict=True):
        by_class = ""
        if dataset.labels is not None:
            counts = np.bincount(dataset.labels[part], minlength=dataset.classes)
            by_class = f"; by class: {' '.join(map(str, counts))}"
        print(f"{name:<12} {len(part):>7,} samples{by_class}")
    print(f"{len(dataset.x_test):,} samples to evaluate on: {test_file(options.folder)}")
    return ExitStatus.DONE
