"""The time of a round of a whole federation with 2 to 1,000 agents, beside a federation of nothing but paho and NumPy.

One mosquitto on this machine. A round's time is from its end to the end of the one before, as the coordinator records
them; all else there is to a round (its commit to disk, the next plan) is in it.

    round_s_N_agents          one dense layer of 650 parameters, one local step of one sample; 2 agents in processes of
                              their own, 100 and 1,000 in eight processes, each agent with a link of its own
    round_vs_bare_5_agents    ResNet20 in int8, five agents whose training takes no time, in five processes, over the
                              time of a bare federation (`benchmarks.bare`): one message an update, one for the model
    round_vs_layers_5_agents  the same over a bare federation with a message a layer each way, a plan and reports
    throughput_vs_bare        MB/s of updates from link to link, joined, decoded and folded, over bare paho's
    coordinator_s_per_update  the coordinator's processor time per layer update, with the largest of the trivial fleets
    *_s_per_resnet20_device   what one more device costs coordinator and broker a round: 45 untrained devices against 5

Ours and the bare ones take turns; a ratio is of the medians over all turns. Everything runs on the cores of this
machine, agents and clients included.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.bare import Shape, bare_federation
from benchmarks.fleets import Asked, Measured, federate, resnet_bundle, trivial_bundle
from benchmarks.reporting import Figures, Row, main
from benchmarks.stream import megabytes_a_second
from benchmarks.untrained import PROGRAM as UNTRAINED
from lamina.broker.brokers.starter import RunningBroker, running_broker
from lamina.models.bundle import Bundle

_PROCESSES = 8  # that a large fleet shares
_FIVE = 5
_MANY = 45


def measure(quick: bool) -> tuple[Figures, list[Row]]:
    """All figures."""
    figures: Figures = {}
    table: list[Row] = [("what", "agents", "median ms", "coordinator ms", "broker ms", "updates", "broker MiB")]
    with tempfile.TemporaryDirectory() as name, running_broker("mosquitto") as broker:
        folder = Path(name)
        trivial = trivial_bundle(folder)
        for devices, rounds in _sizes(quick):
            measured = _trivial(trivial, devices, rounds, broker, folder)
            table.append(_row("trivial", devices, measured))
            figures[f"round_s_{devices}_agents"] = measured.median_s
            figures["coordinator_s_per_update"] = measured.coordinator_s / measured.updates
            figures["coming_s"] = measured.coming_s
        resnet = resnet_bundle(folder)
        figures |= _beside_bare(resnet, broker, folder, table, turns=1 if quick else 3)
        if not quick:
            figures |= _one_more_device(resnet, broker, folder, table)
        figures |= _throughput(resnet, broker, table, turns=1 if quick else 3)
    return figures, table


def _sizes(quick: bool) -> list[tuple[int, int]]:
    """Devices, and rounds."""
    return [(2, 45), (100, 15)] if quick else [(2, 105), (100, 35), (1000, 12)]


def _trivial(bundle: Bundle, devices: int, rounds: int, broker: RunningBroker, folder: Path) -> Measured:
    asked = Asked(
        name=f"trivial-{devices}",
        bundle=bundle,
        data="benchmarks.untrained:digit",
        devices=devices,
        rounds=rounds,
        a_process=max(1, devices // _PROCESSES),
        warm_up=5 if devices < 1000 else 2,
    )
    return federate(asked, broker, folder)


def _beside_bare(bundle: Bundle, broker: RunningBroker, folder: Path, table: list[Row], turns: int) -> Figures:
    sizes = tuple(layer.vector_size for layer in bundle.manifest.spec.layers)
    minimal = Shape("minimal", _FIVE, (sum(sizes),), talks=False)
    layers = Shape("layers", _FIVE, sizes, talks=True)
    ours: list[float] = []
    bare: dict[str, list[float]] = {"minimal": [], "layers": []}
    for turn in range(turns):
        asked = Asked(f"five-{turn}", bundle, "benchmarks.untrained:image", _FIVE, rounds=35, program=UNTRAINED)
        measured = federate(asked, broker, folder)
        ours += measured.round_s
        for shape in (minimal, layers):
            with bare_federation(broker.address, shape) as server:
                bare[shape.name] += [server.round() for _ in range(40)][10:]
    table.append(_row("ResNet20, untrained", _FIVE, measured))
    medians = {name: statistics.median(seconds) for name, seconds in bare.items()}
    table += [(f"bare, {name}", str(_FIVE), f"{1e3 * took:.1f}", "", "", "", "") for name, took in medians.items()]
    median = statistics.median(ours)
    return {
        "round_s_5_agents": median,
        "round_vs_bare_5_agents": median / medians["minimal"],
        "round_vs_layers_5_agents": median / medians["layers"],
    }


def _one_more_device(bundle: Bundle, broker: RunningBroker, folder: Path, table: list[Row]) -> Figures:
    few, many = (
        federate(
            Asked(
                f"untrained-{devices}",
                bundle,
                "benchmarks.untrained:image",
                devices,
                rounds=15,
                a_process=max(1, devices // _PROCESSES),
                program=UNTRAINED,
            ),
            broker,
            folder,
        )
        for devices in (_FIVE, _MANY)
    )
    table.append(_row("ResNet20, untrained", _MANY, many))
    more = _MANY - _FIVE
    return {
        "coordinator_s_per_resnet20_device": (many.coordinator_s - few.coordinator_s) / more,
        "broker_s_per_resnet20_device": (many.broker_s - few.broker_s) / more,
        "uplink_bytes_per_resnet20_device": many.uplink_bytes / _MANY,
        "coordinator_grew_mib": many.peak_mib - few.peak_mib,
    }


def _throughput(bundle: Bundle, broker: RunningBroker, table: list[Row], turns: int) -> Figures:
    rates: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(turns):
        for way, measured in rates.items():
            measured.append(megabytes_a_second(broker.address, bundle.manifest.spec, way, devices=100))
    best = {way: statistics.median(measured) for way, measured in rates.items()}
    table += [(f"updates, {way}: {rate:.1f} MB/s", "", "", "", "", "", "") for way, rate in best.items()]
    return {"throughput_mb_s": best["ours"], "throughput_vs_bare": best["ours"] / best["bare"]}


def _row(what: str, devices: int, measured: Measured) -> Row:
    return (
        what,
        str(devices),
        f"{1e3 * measured.median_s:.1f}",
        f"{1e3 * measured.coordinator_s:.1f}",
        f"{1e3 * measured.broker_s:.1f}",
        f"{measured.updates:.0f}",
        f"{measured.broker_mib:.0f}",
    )


if __name__ == "__main__":
    main("What does a round of a whole federation take?", measure)
