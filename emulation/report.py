"""Reports a run: ``summary.json`` for programs, a table for people."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lamina.coordinator.dashboard.text import figure
from lamina.coordinator.records.device_figures import DeviceFigures
from lamina.coordinator.records.records import DeviceRecord, RunResult
from lamina.emulation.experiment import Experiment
from lamina.emulation.progress import size
from lamina.models.metrics import ACCURACY
from lamina.models.spec import ModelSpec
from lamina.models.storage.replace import replace_file

_PACKAGES = ("lamina-fl", "numpy", "onnxruntime", "torch", "aiomqtt", "paho-mqtt", "amqtt", "msgspec")


class LayerSummary(msgspec.Struct, frozen=True):
    """One layer of the run.

    Attributes:
        name: as in the model.
        parameters: dim_l.
        aggregations: times it was averaged.
    """

    name: str
    parameters: int
    aggregations: int


class Summary(msgspec.Struct, frozen=True):
    """All of ``summary.json``.

    Attributes:
        experiment: its name.
        accuracy: of the final averaged model on held-out data.
        c_ratio: parameters communicated, relative to FedAvg.
        rounds: rounds completed.
        wall_s: from the first round's start to the last one's end.
        total_s: of the whole command up to here, the bundle, the broker and the processes' start included.
        devices: every device that registered.
        uplink_bytes: payload bytes of updates.
        downlink_bytes: payload bytes of layer values that devices received.
        fedavg_uplink_bytes: what FedAvg, float32, would have sent up for the same steps.
        layers: in forward order.
        broker: ``mosquitto``, ``amqtt`` or ``memory``.
        failures: devices' processes that ended badly, each with the last words of its log.
        platform: operating system, architecture, Python.
        versions: of the packages that took part.
        settings: the experiment, as it was run.
        judge: name of the figure that the model is judged by.
        metrics: of the final averaged model by name; left out where there is no other than accuracy.
        on_devices: what it comes to on the devices' own samples; left out where they didn't judge.
    """

    experiment: str
    accuracy: float | None
    c_ratio: float
    rounds: int
    wall_s: float
    total_s: float
    devices: tuple[DeviceRecord, ...]
    uplink_bytes: int
    downlink_bytes: int
    fedavg_uplink_bytes: int
    layers: tuple[LayerSummary, ...]
    broker: str
    failures: tuple[str, ...]
    platform: str
    versions: dict[str, str]
    settings: Experiment
    judge: str = ACCURACY
    metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    on_devices: DeviceFigures | msgspec.UnsetType = msgspec.UNSET


def summarise(
    experiment: Experiment,
    result: RunResult,
    spec: ModelSpec,
    *,
    broker: str,
    failures: Sequence[str],
    total_s: float,
    judge: str = ACCURACY,
) -> Summary:
    """The summary of a run."""
    return Summary(
        experiment=experiment.name,
        accuracy=result.accuracy,
        c_ratio=result.c_ratio,
        rounds=result.rounds,
        wall_s=result.wall_s,
        total_s=total_s,
        devices=result.devices,
        uplink_bytes=result.uplink_bytes,
        downlink_bytes=result.downlink_bytes,
        fedavg_uplink_bytes=result.fedavg_uplink_bytes,
        layers=tuple(
            LayerSummary(layer.name, layer.size, count)
            for layer, count in zip(spec.layers, result.aggregations, strict=True)
        ),
        broker=broker,
        failures=tuple(failures),
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions=versions(),
        settings=experiment,
        judge=judge,
        metrics=result.metrics,
        on_devices=result.on_devices,
    )


def write_summary(path: Path, summary: Summary) -> None:
    """Put it at ``path``, as indented JSON."""
    replace_file(path, msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")


def versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Installed versions; what is not installed is left out."""
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def show(console: Console, summary: Summary, folder: Path) -> None:
    """Print the run as two tables and a line."""
    console.print(_device_table(summary.devices))
    console.print(_layer_table(summary.layers))
    for label, value in _closing(summary, folder):
        console.print(Text.assemble((f"{label:>10}", "bold"), f"  {value}"), soft_wrap=True)


def _closing(summary: Summary, folder: Path) -> list[tuple[str, str]]:
    share = summary.uplink_bytes / summary.fedavg_uplink_bytes if summary.fedavg_uplink_bytes else 1.0
    metrics = summary.metrics or ({} if summary.accuracy is None else {ACCURACY: summary.accuracy})
    found = metrics.get(summary.judge)
    others = [f"{name} {figure(value)}" for name, value in metrics.items() if name != summary.judge]
    return [
        (summary.judge, "not evaluated" if found is None else f"{figure(found)} on held-out data"),
        *([("besides", ", ".join(others))] if others else []),
        *([("devices", summary.on_devices.text)] if summary.on_devices else []),
        ("C ratio", f"{summary.c_ratio:.3f} of FedAvg's parameters"),
        ("sent", f"{size(summary.uplink_bytes)}, {share:.0%} of FedAvg in float32"),
        ("received", size(summary.downlink_bytes)),
        ("time", f"{summary.wall_s:.1f} s for {summary.rounds} rounds, {summary.total_s:.1f} s in all"),
        ("broker", summary.broker),
        ("results", str(folder)),
    ]


def _device_table(devices: Sequence[DeviceRecord]) -> Table:
    table = Table(title="devices", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("device", "budget MiB", "peak MiB", "tier", "from layer", "rounds", "ms a step"):
        table.add_column(name, justify="left" if name in ("device", "tier") else "right")
    for device in devices:
        table.add_row(
            device.id,
            f"{device.budget_mib:.1f}",
            _or_dash(device.peak_mib, "{:.1f}"),
            Text(device.tier if device.accepted else f"refused: {device.reason}"),
            str(device.cut) if device.accepted else "-",
            str(device.rounds_done),
            _or_dash(None if device.step_s is None else device.step_s * 1000, "{:.1f}"),
        )
    return table


def _layer_table(layers: Sequence[LayerSummary]) -> Table:
    table = Table(title="layers", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("layer", "parameters", "averaged"):
        table.add_column(name, justify="left" if name == "layer" else "right")
    for layer in layers:
        table.add_row(layer.name, f"{layer.parameters:,}", f"{layer.aggregations} times")
    return table


def _or_dash(value: Any, pattern: str) -> str:
    return "-" if value is None else pattern.format(value)
