"""``lamina bundle MODEL FOLDER``: build what devices need to train a model, and measure what each sub-model costs."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.models.errors import BundleError
from lamina.models.gradient_terms import TERMS
from lamina.models.machine import module_command
from lamina.models.manifest import ENGINES, ONNXRUNTIME, Manifest

HELP = "build a bundle from a model: training graphs per cut, initial values, costs"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina bundle digits_cnn bundles/digits --batch-size 32"
    parser.add_argument("model", help="a network of the zoo (digits_cnn, resnet20, ...), or path/to/file.py:function")
    parser.add_argument("folder", type=Path, help="where the bundle goes")
    parser.add_argument("--batch-size", type=int, default=32, help="samples a step (default: 32)")
    parser.add_argument("--optimiser", default="sgd", help="sgd (default), nesterov, adam or adamw")
    for term in TERMS:
        parser.add_argument(term.flag, dest=term.argument, action="store_true", help=term.help)
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ONNXRUNTIME,
        help="another than onnxruntime gets training graphs of its own beside (default: onnxruntime)",
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="write the bundle without comparing its graphs with torch: a wrong gradient is then not noticed",
    )
    parser.add_argument(
        "--values",
        type=Path,
        metavar="FILE",
        help="a .safetensors file with the module's state dictionary, to start from (a pretrained network)",
    )
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="names of the classes in the order of their labels: cat,dog,fox, or a file with one a line",
    )
    parser.add_argument("--seed", type=int, default=0, help="for the initial values (default: 0)")


UNCHECKED = (
    "WARNING: --no-check: the graphs are not compared with torch. If one of them computes a wrong gradient, every "
    "device trains by it, and nothing will say so."
)


def run(options: argparse.Namespace) -> int:
    """Build it, and print a table of its cuts."""
    # torch is imported only where a model is traced: every other command starts without it.
    from lamina.models.build import build_bundle
    from lamina.models.definition import load_definition

    definition = load_definition(options.model, seed=options.seed, values=options.values)
    if options.classes:
        definition = dataclasses.replace(definition, class_names=class_names(options.classes))
    if options.no_check:
        print(UNCHECKED, file=sys.stderr)
    manifest = build_bundle(
        definition,
        options.folder,
        batch_size=options.batch_size,
        optimiser=options.optimiser,
        **{term.argument: getattr(options, term.argument) for term in TERMS},
        seed=options.seed,
        engines=[engine for engine in (options.engine,) if engine != ONNXRUNTIME],
        measure=measured_peak_mib,
        check=not options.no_check,
        progress=lambda message: print(f"{definition.name}: {message}", file=sys.stderr, flush=True),
    )
    if options.no_check:
        print(UNCHECKED, file=sys.stderr)
    print(f"{definition.name}: {manifest.spec.size:,} parameters in {len(manifest.spec.layers)} layers")
    print(table(manifest))
    return ExitStatus.DONE


def class_names(given: str) -> tuple[str, ...]:
    """The names that a flag gives, or the lines of the file that it names."""
    path = Path(given)
    names = path.read_text("utf-8").splitlines() if path.is_file() else given.split(",")
    return tuple(name.strip() for name in names if name.strip())


def measured_peak_mib(folder: Path, cut: int) -> float:
    """Peak memory of a sub-model above the idle runtime, measured by the agent's own trainer in a fresh process.

    Raises:
        BundleError: the sub-model does not run.
    """
    command = [*module_command("lamina.edge_agent.training.measure"), str(folder), "--cut", str(cut)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last_line = done.stderr.strip().rpartition("\n")[2]
        raise BundleError(f"the sub-model at cut {cut} does not train: {last_line}")
    return float(json.loads(done.stdout)["peak_mib"])


def table(manifest: Manifest) -> str:
    """One line a cut: what a device trains from there, and what it costs; one a way to train it, with its peak."""
    heads = ("parameters", "activations", "capacity", "peak MiB", "predicted")
    lines = [
        f"{'cut':>4} {'first layer':<28} {'tier':<9} {heads[0]:>11} {heads[1]:>12} {heads[2]:>9} {heads[3]:>9}"
        f" {heads[4]:>9}"
    ]
    for sub in manifest.sub_models:
        predicted = f"{sub.cost.peak_mib(manifest.batch_size):>9.1f}" if sub.cost else ""
        lines.append(
            f"{sub.cut:>4} {manifest.spec.layers[sub.cut].name:<28} {manifest.spec.tier(sub.cut):<9}"
            f" {sub.parameters:>11,} {sub.activations:>12,} {sub.capacity:>9.2f} {sub.peak_mib:>9.1f} {predicted}"
        )
        for name, cost in (("in micro-batches", sub.cost_in_parts), ("recomputing", sub.cost_recomputing)):
            if cost is not None:
                peaks = (f"{cost.peak_mib(samples):.1f} of {samples}" for samples, _ in cost.arena[::-1])
                lines.append(f"     {name}, predicted MiB: {', '.join(peaks)}")
    return "\n".join(lines)
