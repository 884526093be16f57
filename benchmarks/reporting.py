"""The command line, the table and the JSON that all benchmarks share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

Figures = dict[str, float]
"""Name to value; the names are those that the figures are known by."""

Row = tuple[str, ...]


def main(
    question: str, measure: Callable[[bool], tuple[Figures, Sequence[Row]]], arguments: list[str] | None = None
) -> None:
    """Run one benchmark from the command line.

    Args:
        question: what it answers; its help text.
        measure: given whether to be quick, returns the figures, and a table whose first row holds the heads.
        arguments: of the command line; ``sys.argv`` by default.
    """
    options = command_line(question).parse_args(arguments)
    show(question, *measure(options.quick), options.json)


def command_line(question: str) -> argparse.ArgumentParser:
    """What every benchmark understands; one that needs more adds to it, and ends in `show`."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, as one flat object")
    return parser


def show(question: str, figures: Figures, table: Sequence[Row], path: Path | None) -> None:
    """Print the table and the figures; write the figures where a path is given."""
    print(question)
    print(text(table))
    for name, value in figures.items():
        print(f"{name} = {value:.4g}")
    if path:
        path.write_text(json.dumps(figures, indent=2) + "\n")


def text(table: Sequence[Row]) -> str:
    """The table with its columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in table)
    )
