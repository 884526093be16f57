"""The federation's figures as Prometheus reads them. https://prometheus.io/docs/instrumenting/exposition_formats/"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from lamina.coordinator.dashboard.overview import DeviceView, LayerView, Overview
from lamina.models.metrics import ACCURACY

_View = TypeVar("_View", LayerView, DeviceView)

_WHOLE: tuple[tuple[str, str, Callable[[Overview], float | None]], ...] = (
    ("lamina_round", "Rounds done.", lambda o: o.round),
    ("lamina_rounds", "Rounds to do.", lambda o: o.rounds),
    (
        "lamina_accuracy",
        "Accuracy of the averaged model when it was last evaluated.",
        lambda o: o.judge.figures.get(ACCURACY),
    ),
    ("lamina_c_ratio", "Parameters communicated, relative to FedAvg.", lambda o: o.c_ratio),
    ("lamina_waiting_since", "Since when the coordinator waits for the same.", lambda o: o.waiting_since),
    ("lamina_training_seconds", "Seconds since the first round began.", lambda o: o.wall_s),
)
_BYTES: tuple[tuple[str, str, Callable[[Overview], int]], ...] = (
    ("lamina_uplink_bytes", "Payload bytes of updates received.", lambda o: o.uplink_bytes),
    ("lamina_downlink_bytes", "Payload bytes of layer values that devices received.", lambda o: o.downlink_bytes),
    ("lamina_fedavg_uplink_bytes", "What FedAvg would have sent up.", lambda o: o.fedavg_uplink_bytes),
)
_LAYER: tuple[tuple[str, str, Callable[[LayerView], float | None]], ...] = (
    ("lamina_layer_interval_steps", "Local steps between two aggregations of a layer.", lambda v: v.interval),
    ("lamina_layer_discrepancy", "Last discrepancy of a layer.", lambda v: v.discrepancy),
    ("lamina_layer_aggregations", "Times a layer was averaged.", lambda v: v.aggregations),
    ("lamina_layer_uplink_bytes", "Payload bytes of a layer's updates since the start.", lambda v: v.uplink_bytes),
)
_DEVICE: tuple[tuple[str, str, Callable[[DeviceView], float | None]], ...] = (
    ("lamina_device_online", "Whether a device is there and takes part.", lambda v: v.state == "online"),
    ("lamina_device_rounds", "Rounds of which a device delivered everything.", lambda v: v.rounds_done),
    ("lamina_device_owes", "Whether the open round waits for a device.", lambda v: v.owes),
    ("lamina_device_step_seconds", "Mean time of a device's training step.", lambda v: v.step_s),
    ("lamina_device_peak_mebibytes", "Peak memory above a device's idle agent.", lambda v: v.peak_mib),
    ("lamina_device_seen_at", "When a device was last heard of.", lambda v: v.seen_at),
    ("lamina_device_uplink_bytes", "Payload bytes of a device's updates since the start.", lambda v: v.uplink_bytes),
    ("lamina_device_refused_updates", "Updates that no honest device sends.", lambda v: v.refused),
)


class _Figures:
    def __init__(self, overview: Overview) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        overview, name = self._overview, self._overview.federation
        for metric, text, whole in _WHOLE:
            if (value := whole(overview)) is not None:
                gauge = GaugeMetricFamily(metric, text, labels=["federation"])
                gauge.add_metric([name], value)
                yield gauge
        for metric, text, size in _BYTES:
            counter = CounterMetricFamily(metric, text, labels=["federation"])
            counter.add_metric([name], size(overview))
            yield counter
        figures = GaugeMetricFamily(
            "lamina_evaluation",
            "Metrics of the averaged model when it was last evaluated, and their mean over devices' own samples.",
            labels=["federation", "metric", "on"],
        )
        judge = overview.judge
        for metric, value in judge.figures.items():
            figures.add_metric([name, metric, "held-out data"], value)
        if judge.on_devices:
            figures.add_metric([name, judge.name, "devices"], judge.on_devices.mean)
        yield figures
        yield from _by_name(_LAYER, name, "layer", {layer.name: layer for layer in overview.layers})
        yield from _by_name(_DEVICE, name, "device", {device.id: device for device in overview.devices})


def _by_name(
    figures: Iterable[tuple[str, str, Callable[[_View], float | None]]],
    federation: str,
    label: str,
    views: Mapping[str, _View],
) -> Iterator[Metric]:
    """Each figure of all layers, or of all devices, where it is known."""
    for metric, text, figure in figures:
        gauge = GaugeMetricFamily(metric, text, labels=["federation", label])
        for name, view in views.items():
            if (value := figure(view)) is not None:
                gauge.add_metric([federation, name], value)
        yield gauge


def exposition(overview: Overview) -> bytes:
    """The figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(overview))
    return generate_latest(registry)
