"""Fuzzes every decoder: ``python -m tests.fuzz --inputs 1000000 [--seed 0] [--only NAME]``.

Each input is made from its own number and the seed, so a failure repeats: it is printed with both. Exit status 1 where
an input met anything but a declared error.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections import Counter
from itertools import cycle

from tests.fuzz.targets import TARGETS


def fuzzed(inputs: int, seed: int, names: list[str]) -> tuple[Counter[str], list[str]]:
    """How many inputs each target saw, and was able to take; and what failed, one text for each kind."""
    turns = cycle([name for name in names for _ in range(TARGETS[name][1])])
    counts, failures = Counter[str](), dict[str, str]()
    for number, name in zip(range(inputs), turns, strict=False):
        counts[name] += 1
        try:
            counts[f"{name} taken"] += TARGETS[name][0](random.Random(f"{seed} {number}"))
        except Exception as error:  # the kinds of errors that are looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{name}: {type(error).__name__} at {where.name}:{where.lineno}"
            failures.setdefault(kind, f"{kind} (seed {seed}, input {number}): {str(error)[:200]}")
    return counts, list(failures.values())


def main() -> int:
    """Fuzz, print a table, and say what failed."""
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(TARGETS), action="append")
    options = parser.parse_args()
    began = time.perf_counter()
    counts, failures = fuzzed(options.inputs, options.seed, options.only or list(TARGETS))
    for name in options.only or TARGETS:
        print(f"{name:10} {counts[name]:>9} inputs, {counts[f'{name} taken']:>8} taken")
    print(f"{options.inputs} inputs in {time.perf_counter() - began:.0f} s, {len(failures)} kinds of undeclared errors")
    print("\n".join(failures))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
