"""How a federation stands, as lines for a terminal. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from lamina.coordinator.dashboard.overview import DeviceView, JudgeView, Overview

_BLOCKS = "▁▂▃▄▅▆▇█"


def summary_lines(overview: Overview, now: float) -> list[str]:
    """What matters most, in a few lines; ``now`` in seconds since 1970."""
    o = overview
    lines = [f"{o.federation}: {_state(o)}, round {o.round} of {o.rounds}{_left(o)}"]
    if o.waiting:
        since = "" if o.waiting_since is None else f" (for {duration(now - o.waiting_since)})"
        lines.append(f"  {o.waiting}{since}")
    lines += _judged(o.judge)
    if o.fedavg_uplink_bytes:
        share = o.uplink_bytes / o.fedavg_uplink_bytes
        lines.append(
            f"  C {o.c_ratio:.3f}; up {size(o.uplink_bytes)} ({share:.1%} of FedAvg's), down {size(o.downlink_bytes)}"
        )
    if o.deployment is not None:
        reason = f": {o.deployment.reason}" if o.deployment.reason else ""
        last = f"; {o.deployment.rollout}{reason}" if o.deployment.rollout else ""
        lines.append(f"  on the devices: {o.deployment.in_force or 'no model'}{last}")
    here = sum(device.state == "online" for device in o.devices)
    refused = sum(device.state == "refused" for device in o.devices)
    lines.append(f"  {here} of {len(o.devices)} devices are here" + (f", {refused} refused" if refused else ""))
    return lines


def _judged(judge: JudgeView) -> list[str]:
    """What the model came to: the figure that it is judged by, the others, and what devices say."""
    lines = []
    if judge.last is not None:
        best = "" if judge.best_round is None else f", best {figure(judge.best)} after round {judge.best_round}"
        lines.append(
            f"  {judge.name} {figure(judge.last)}{best}{' (lower is better)' if judge.lower_is_better else ''}"
        )
    if others := [f"{name} {figure(value)}" for name, value in judge.figures.items() if name != judge.name]:
        lines.append(f"  on held-out data: {', '.join(others)}")
    if judge.on_devices:
        lines.append(f"  {judge.on_devices.text}, after round {judge.on_devices.rounds}")
    return lines


def figure(value: float | None) -> str:
    """A metric's value."""
    return "-" if value is None else f"{value:.4f}" if 0.01 <= abs(value) < 100 else f"{value:.4g}"


def device_lines(overview: Overview, now: float) -> list[str]:
    """A table of the devices; ``now`` in seconds since 1970."""
    columns: tuple[tuple[str, Callable[[DeviceView], str]], ...] = (
        ("device", lambda d: d.id),
        ("state", lambda d: "training" if d.owes and d.state == "online" else d.state),
        ("trains from", lambda d: "-" if d.cut is None else f"{d.cut} {d.layer}"),
        ("MiB", lambda d: f"{d.budget_mib:.0f}"),
        ("peak", lambda d: "-" if d.peak_mib is None else f"{d.peak_mib:.0f}"),
        ("step", lambda d: "-" if d.step_s is None else f"{1000 * d.step_s:.1f} ms"),
        ("rounds", lambda d: str(d.rounds_done)),
        ("up", lambda d: "-" if d.uplink_bytes is None else size(d.uplink_bytes)),
        ("seen", lambda d: "-" if d.seen_at is None else f"{duration(now - d.seen_at)} ago"),
        ("", lambda d: d.reason if d.state == "refused" else ""),
    )
    if any(device.certificate_until is not None for device in overview.devices):
        columns = (*columns[:-1], ("certificate", lambda d: until(d.certificate_until, now)), columns[-1])
    return table([name for name, _ in columns], [[cell(device) for _, cell in columns] for device in overview.devices])


def until(ends: int | None, now: float) -> str:
    """The time for which a certificate is still good."""
    if ends is None:
        return "-"
    return "ended" if ends < now else f"{(ends - now) / 86400:.0f} days"


def layer_lines(overview: Overview) -> list[str]:
    """A table of the layers."""
    head = ["layer", "parameters", "interval", "averaged", "discrepancy"]
    rows = [
        [
            layer.name,
            f"{layer.parameters:,}",
            str(layer.interval),
            str(layer.aggregations),
            f"{layer.discrepancy:.3g}",
        ]
        for layer in overview.layers
    ]
    return table(head, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; two blanks between."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    ]


def sparkline(values: Sequence[float]) -> str:
    """Values as a row of blocks, the least as the lowest."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    spread = (high - low) or 1.0
    return "".join(_BLOCKS[round((value - low) / spread * (len(_BLOCKS) - 1))] for value in values)


def duration(seconds: float) -> str:
    """A duration in its two largest units."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(bytes_: float) -> str:
    """A number of bytes in the unit that suits it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if bytes_ >= scale:
            return f"{bytes_ / scale:.1f} {unit}"
    return f"{bytes_:.0f} B"


def local_time(at: float) -> str:
    """A time in seconds since 1970, as clocks show it here."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def _state(overview: Overview) -> str:
    return overview.state if overview.live or overview.state == "finished" else "stopped"


def _left(overview: Overview) -> str:
    return "" if overview.left_s is None else f", about {duration(overview.left_s)} to go"
