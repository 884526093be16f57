"""Simulate federations under faults, a seed each: ``python -m lamina.emulation.faults --seeds 2000``.

Prints each failing seed with the shortest list of events that still fails, and ends with status 1 if there is one.
``--seed N`` runs one seed and tells what happens in it; the same seed always tells the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from lamina.emulation.faults.federation import quiet
from lamina.emulation.faults.scenario import draw_events, draw_scenario
from lamina.emulation.faults.seeds import Failure, check_seed, played
from lamina.emulation.faults.small_bundle import small_bundle
from lamina.models.bundle import Bundle, read_bundle


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lamina.emulation.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="how many seeds to run (default 200)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, metavar="SEED", help="run this one alone, and tell what happens")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="at once")
    options = parser.parse_args(arguments)
    quiet()
    with tempfile.TemporaryDirectory(prefix="lamina-faults-") as folder:
        bundle = small_bundle(Path(folder) / "bundle")
        if options.seed is not None:
            return _tell(options.seed, bundle)
        return _run(range(options.first, options.first + options.seeds), bundle, options.processes)


def _run(seeds: range, bundle: Bundle, processes: int) -> int:
    began, failures = time.monotonic(), 0
    for failure in _checked(seeds, bundle, processes):
        if failure is not None:
            failures += 1
            print(failure, flush=True)
    print(f"{len(seeds)} seeds in {time.monotonic() - began:.0f} s: {failures or 'none'} broke a promise")
    return 1 if failures else 0


def _checked(seeds: range, bundle: Bundle, processes: int) -> Iterator[Failure | None]:
    if processes <= 1:
        yield from (check_seed(seed, bundle) for seed in seeds)
        return
    with ProcessPoolExecutor(processes, initializer=quiet) as pool:
        yield from pool.map(partial(_check, bundle.folder), seeds, chunksize=10)


def _check(folder: Path, seed: int) -> Failure | None:
    return check_seed(seed, read_bundle(folder))


def _tell(seed: int, bundle: Bundle) -> int:
    scenario = draw_scenario(seed)
    print(scenario)
    undisturbed = played(scenario, (), bundle)
    played(scenario, draw_events(scenario, undisturbed.lasted_s), bundle, print)
    failure = check_seed(seed, bundle)
    print(failure or "every promise holds")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
