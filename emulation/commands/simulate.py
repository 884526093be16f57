"""``lamina simulate study.toml``: a study's table and figures, from virtual devices without a broker.

What was computed before is taken from the cache; what was broken off goes on. ``--sweep lr=0.03,0.1,0.3`` compares
values of one key for every method instead, on a validation part of the training set. ``--seeds`` are others than the
study's: what is tuned on some is best reported on fresh ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lamina.broker.programs.exit_status import ExitStatus
from lamina.emulation.changes import parse_change
from lamina.emulation.commands.emulate import ended_by_sigterm
from lamina.emulation.simulator.studies.study import Scale, Study, read_study, with_methods, with_seeds
from lamina.models.errors import ConfigError
from lamina.models.metrics import ACCURACY
from lamina.models.readers.settings import source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from lamina.emulation.simulator.backends.choosing import BackendName
    from lamina.emulation.simulator.studies.many import Means
    from lamina.emulation.simulator.studies.studying import Findings

HELP = "run a study on virtual devices without a broker"

_SHORT = {"lr": "training.lr", "phi": "aggregation.phi", "rounds": "training.rounds", "steps": "training.local_steps"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina simulate experiments/digits.toml --scale small --seeds 0,1"
    parser.add_argument("study", type=Path, help="study.toml")
    parser.add_argument("--only", action="append", metavar="LABEL", help="this method, and others so given")
    parser.add_argument(
        "--sweep",
        metavar="KEY=A,B,...",
        help="try values of a key, such as lr=0.03,0.1,0.3, judged by a validation part of the training set",
    )
    add_common(parser)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Arguments that ``lamina reproduce`` has, too."""
    parser.add_argument("--scale", choices=get_args(Scale), default="full", help="small: minutes on two cores")
    parser.add_argument("--seeds", metavar="A,B,...", help="in place of the study's")
    parser.add_argument("--data", help="in place of the study's: digits, an .npz file, a folder of CIFAR or IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the results (default: runs)")
    parser.add_argument(
        "--backend", default="auto", choices=("auto", "loop", "pool", "stack"), help="of a run that is alone"
    )
    parser.add_argument("--processes", type=int, default=0, help="at most; 0: one a core")
    parser.add_argument("--ray", metavar="ADDRESS", help="divide devices over a Ray cluster; auto: the one here")
    parser.add_argument("--device", default="cpu", help="torch's name of where to compute: cpu, cuda, cuda:1")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any key of the setting, for all methods"
    )


def run(options: argparse.Namespace) -> int:
    """Conduct the study, print its table."""
    study, console = read_with_seeds(options.study, options.seeds), Console()
    study = with_methods(study, options.only) if options.only else study
    with ended_by_sigterm():
        if options.sweep:
            show_sweep(study, options, console)
        else:
            show_study(study, options, console)
    return ExitStatus.DONE


def read_with_seeds(path: Path, seeds: str | None) -> Study:
    """The study of a file, over the seeds of ``--seeds`` where it is given.

    Raises:
        ConfigError: the file can't be a study, or a seed is no whole number.
    """
    study = read_study(path)
    if seeds is None:
        return study
    if not all(part.strip().isdecimal() for part in seeds.split(",")):
        raise ConfigError(f"--seeds takes whole numbers such as 0,1,2, and not {seeds!r}")
    return with_seeds(study, tuple(int(part) for part in seeds.split(",")))


def show_study(study: Study, options: argparse.Namespace, console: Console) -> Findings:
    """Conduct one study, and print its table."""
    from lamina.emulation.simulator.studies.studying import conduct, report  # torch takes seconds to import

    with progress_bar(console, study.name) as progress:
        findings = conduct(
            study, options.scale, options.out, means_of(options), changes=changes_of(options), progress=progress
        )
    console.print(report(findings), soft_wrap=True, markup=False, highlight=False)
    console.print(f"table, CSV and figures: {findings.folder}", soft_wrap=True)
    return findings


def show_sweep(study: Study, options: argparse.Namespace, console: Console) -> None:
    """Try the values, and print what each came to."""
    from lamina.emulation.simulator.studies.studying import sweep

    key, values = parse_sweep(options.sweep)
    with progress_bar(console, study.name) as progress:
        tried = sweep(
            *(study, options.scale, key, values, options.out, means_of(options)),
            changes=changes_of(options),
            progress=progress,
        )
    judge = tried[0].judge
    console.print(f"{judge} on a validation part of the training set: mean and standard deviation over the seeds.")
    for entry in tried:
        found = f"{entry.accuracy:.2f} ± {entry.spread:.2f}%"
        if judge != ACCURACY:
            found = f"{entry.accuracy:.4g} ± {entry.spread:.2g}"
        console.print(f"{entry.label:30} {key} = {entry.value!s:10} {found}{'  best' if entry.best else ''}")


def means_of(options: argparse.Namespace) -> Means:
    """What the options say of how to carry runs out."""
    from lamina.emulation.simulator.studies.many import Means

    backend: BackendName = "ray" if options.ray else options.backend
    return Means(options.out / "simulations", backend, options.processes, options.ray or "", options.device)


def changes_of(options: argparse.Namespace) -> dict[str, object]:
    """What the options change in every setting, by dotted key."""
    changes = dict(parse_change(text) for text in options.set)
    return {**changes, **({"data": msgspec.to_builtins(source_of(options.data))} if options.data else {})}


def parse_sweep(text: str) -> tuple[str, list[object]]:
    """``"lr=0.1,0.3"`` to ``("training.lr", [0.1, 0.3])``.

    Raises:
        ConfigError: there is no ``=`` in it, or nothing after it.
    """
    key, equals, values = text.partition("=")
    parts = [part.strip() for part in values.split(",") if part.strip()]
    if not (key.strip() and equals and parts):
        raise ConfigError(f"--sweep takes key=value,value,... such as lr=0.03,0.1, and not {text!r}")
    full = _SHORT.get(key.strip(), key.strip())
    return full, [parse_change(f"{full}={part}")[1] for part in parts]


@contextmanager
def progress_bar(console: Console, name: str) -> Iterator[Callable[[float], None]]:
    """Shows the share of all rounds that is done."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task(name, total=1.0)
        yield lambda share: bars.update(bar, completed=share)
