"""What of torch's own module and operator databases trains as torch trains it?

    python -m benchmarks.coverage [--json FILE] [--only NAME ...] [--log FILE]

A *sample* is an operator or module of torch's test databases with the arguments that the database gives it: at most
five a module and four an operator, spread over those that the database has. It counts where it can mean anything in a
training graph: torch itself computes finite values and gradients, for every batch size where there is a batch; the
operator isn't in the list of those that mean nothing there (`benchmarks.coverage.operators`: factorisations of
matrices, sparse and complex tensors, results whose shape depends on values, distributions that nothing passes a
gradient through). A sample is *right* where one training step and one inference on stock ONNX Runtime agree with torch
in float64, as far as torch's own float32 does; *refused* where the graphs' writer says why not; else *wrong* or
*crashed*.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.coverage.isolation import isolated
from benchmarks.coverage.judge import Verdict
from benchmarks.coverage.modules import cases, judged_module
from benchmarks.coverage.operators import entries, entry_name, judged_operator, means_something
from benchmarks.reporting import Figures, Row, command_line, show

QUESTION = "What of torch's own module and operator databases trains as torch trains it?"
Case = tuple[str, Callable[[], list[Verdict]]]


def main() -> None:
    """Judge both databases from the command line."""
    parser = command_line(QUESTION)
    parser.add_argument("--only", nargs="+", default=[], help="names of operators and modules, instead of all")
    parser.add_argument("--all", action="store_true", help="also operators that mean nothing in a training graph")
    parser.add_argument("--log", type=Path, help="write every verdict there as it comes, one JSON object a line")
    options = parser.parse_args()
    step = 10 if options.quick else 1
    figures: Figures = {}
    table: list[Row] = [("samples", "right", "refused", "wrong", "crashed")]
    total: Counter[str] = Counter()
    databases = {"modules": module_cases(), "operators": operator_cases(everything=options.all)}
    for database, found in databases.items():
        chosen = [case for case in found if not options.only or case[0].partition("[")[0] in options.only]
        counts = counted(chosen[::step], options.log)
        total += counts
        meaningful = sum(counts.values())
        figures[f"{database}_right"] = counts["right"] / meaningful if meaningful else 0.0
        table.append((f"{database}: {meaningful}", *(str(counts[key]) for key in table[0][1:])))
    figures |= {"wrong": total["wrong"], "crashed": total["crashed"]}
    show(QUESTION, figures, table, options.json)


def module_cases() -> Iterator[Case]:
    """Every case of the module database, with its judge."""
    for name, entry, sample in cases():
        yield name, lambda entry=entry, sample=sample: judged_module(entry, sample)  # type: ignore[misc]  # bound now


def operator_cases(*, everything: bool = False) -> Iterator[Case]:
    """Every entry of the operator database that means something in a training graph, with its judge."""
    for entry in entries():
        if everything or means_something(entry):
            yield entry_name(entry), lambda entry=entry: judged_operator(entry)  # type: ignore[misc]  # bound now


def counted(cases: list[Case], log: Path | None) -> Counter[str]:
    """How many samples ended in each way, but for those that mean nothing; what isn't right is printed."""
    counts: Counter[str] = Counter()
    for name, judge in cases:
        for verdict in isolated(judge):
            if log:
                with log.open("a") as lines:
                    lines.write(json.dumps({"name": name, "status": verdict.status, "why": verdict.why}) + "\n")
            if verdict.status == "meaningless":
                continue
            counts[verdict.status] += 1
            if verdict.status in ("wrong", "crashed"):
                print(f"{verdict.status}: {name}: {verdict.why[:200]}", file=sys.stderr, flush=True)
    return counts


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    main()
