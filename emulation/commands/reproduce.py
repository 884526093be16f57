"""``lamina reproduce``: the papers' tables, all of them, by the studies in a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lamina.broker.programs.exit_status import ExitStatus
from lamina.emulation.commands.emulate import ended_by_sigterm
from lamina.emulation.commands.simulate import add_common, read_with_seeds, show_study
from lamina.models.errors import ConfigError
from lamina.models.storage.replace import replace_file

if TYPE_CHECKING:
    from lamina.emulation.simulator.studies.studying import Effort, Findings

HELP = "reproduce the papers' tables: every study of a folder"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina reproduce --studies experiments --scale small"
    parser.add_argument("--studies", type=Path, default=Path("experiments"), help="folder of TOML files")
    add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Conduct every study, one after another; a run that two of them have in common is done once.

    All tables and claims, and what each study took, end in ``reproduction.md`` of the folder for the results.
    """
    paths = sorted(options.studies.glob("*.toml"))
    if not paths:
        raise ConfigError(f"{options.studies}: there are no studies (*.toml) in it (seen from {Path.cwd()})")
    studies = [read_with_seeds(path, options.seeds) for path in paths]  # so that an error shows before hours are spent
    console = Console()
    with ended_by_sigterm():
        found = [show_study(study, options, console) for study in studies]
    summary = _summary(found)
    console.print(summary, soft_wrap=True, markup=False, highlight=False)
    reports = [(findings.folder / "table.md").read_text() for findings in found]
    replace_file(options.out / "reproduction.md", "\n".join([*reports, summary]).encode())
    return ExitStatus.DONE


def _summary(found: Sequence[Findings]) -> str:
    """Every claim in a line, and what each study took."""
    from lamina.emulation.simulator.studies.tables import as_markdown

    verdicts = [f"- {findings.study.name}: {verdict.text}" for findings in found for verdict in findings.verdicts]
    efforts = [findings.effort for findings in found]
    rows = [_effort(findings.study.name, findings.effort) for findings in found]
    runs, known = sum(effort.runs for effort in efforts), sum(effort.known for effort in efforts)
    wall_s, processor_s = sum(effort.wall_s for effort in efforts), sum(effort.processor_s for effort in efforts)
    lines = ["## What is shown, and what is not\n", *verdicts, "\n## What it took\n"]
    lines.append(as_markdown(("study", "runs", "known", "minutes", "processor minutes"), rows))
    lines.append(
        f"{wall_s / 60:.1f} minutes in all, {processor_s / 60:.1f} of processor time; "
        f"{known} of {runs} runs were known before.\n"
    )
    return "\n".join(lines)


def _effort(name: str, effort: Effort) -> tuple[str, ...]:
    return (
        *(name, str(effort.runs), str(effort.known)),
        *(f"{seconds / 60:.1f}" for seconds in (effort.wall_s, effort.processor_s)),
    )
