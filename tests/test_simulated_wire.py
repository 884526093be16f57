"""What values lose on the wire of a simulated federation, and the bytes that are counted, are those of a real one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.broker.wire import batches
from lamina.broker.wire.chunks import pack, split
from lamina.coordinator.settings import Aggregation, Cohorts, Wire
from lamina.emulation.simulator.backends.choice import open_way
from lamina.emulation.simulator.rows import to_row
from lamina.emulation.simulator.run_context import Ground, lay
from lamina.emulation.simulator.setting import Fleet, Setting
from lamina.emulation.simulator.simulated_wire import Crossing
from lamina.emulation.simulator.simulation import Simulation
from lamina.models.bundle import Bundle
from tests import test_simulator_and_federation as parity
from tests.simulated import setting, simulate

bundle = parity.bundle


def crossed(ground: Ground, wire: Wire) -> tuple[Simulation, Crossing]:
    """A whole run over that wire."""
    crossing = Crossing(ground.spec, wire, ground.setting.names)
    with open_way("loop", ground) as way:
        simulation = Simulation(ground, way, crossing=crossing)
        while not simulation.finished:
            simulation.advance()
    return simulation, crossing


def test_a_wire_that_loses_nothing_changes_no_bit(tmp_path: Path) -> None:
    ground = lay(setting(tmp_path, aggregation={"phi": 2}, training={"rounds": 6}))
    simulation, _ = crossed(ground, parity.FLOATS)
    plain = simulate(ground)
    assert simulation.values.tobytes() == plain.base.tobytes()
    assert simulation.standing.intervals == plain.standing.intervals


def test_bytes_are_those_of_the_messages(tmp_path: Path) -> None:
    ground = lay(setting(tmp_path, training={"rounds": 2}))  # FedAvg, two rounds, four devices that are always active
    _, crossing = crossed(ground, parity.FLOATS)
    layers = [split(_update(ground, layer), 1 << 18)[0] for layer in range(len(ground.spec.layers))]
    together = len(batches.pack(layers))
    assert crossing.up.payload_bytes == 2 * 4 * together
    assert crossing.up.messages == 2 * 4
    # Values one by one, then an advance; that of the last round is heard by nobody.
    assert crossing.down.payload_bytes == 4 * (sum(map(len, layers)) + together)
    assert crossing.down.messages == 4 * (len(layers) + 1)


def _update(ground: Ground, layer: int):  # type: ignore[no-untyped-def]
    spec = ground.spec.layers[layer]
    return pack(
        "update", epoch=1, round=0, layer=layer, version=0, layer_spec=spec,
        vector=np.ones(spec.vector_size, np.float32), codec="float32",
    )  # fmt: skip


def test_a_device_that_missed_a_version_fetches_the_value_and_others_the_delta() -> None:
    ground = lay(Setting(model="digits_cnn,width=8"))
    crossing = Crossing(ground.spec, Wire(), ["a", "b"])
    values = [np.zeros(layer.vector_size, np.float32) for layer in ground.spec.layers]
    last = len(values) - 1

    def begun(round_: int, *cohort: str) -> int:
        before = crossing.down.payload_bytes
        crossing.begin(round_, cohort, values)
        return crossing.down.payload_bytes - before

    def moved() -> None:
        change = np.random.default_rng(0).normal(size=values[last].size).astype(np.float32)
        values[last] = crossing.next_value(last, values[last], values[last] + change)

    first = begun(0, "a", "b")
    assert first == begun(0, "a", "b") + first  # the same plan again: they have it all
    moved()
    delta = begun(1, "a")
    moved()
    assert begun(2, "a") == pytest.approx(delta, rel=0.05)
    assert begun(2, "b") > 3 * delta  # b has missed a version: float32, not int8


@pytest.mark.parametrize(("update_codec", "apart"), [("int8", 0.001), ("top10", 0.1)])
async def test_a_federation_loses_the_same_and_sends_as_many_bytes(
    tmp_path: Path, bundle: Bundle, update_codec: str, apart: float
) -> None:
    # Engines differ in the last bits of a float32, and a value between two codes may fall to either side; top10 may
    # then send another element, and owe the one. So the courses part: by 0.00001 and 0.04 of the way when last seen.
    wire = Wire(update_codec=update_codec)
    ground = parity.ground_of(
        Setting(aggregation=Aggregation(phi=2), fleet=Fleet(strong=3, weak=3), cohorts=Cohorts(active=0.5))
    )
    simulation, crossing = crossed(ground, wire)
    result, tensors = await parity.federate(ground, bundle, MemoryBroker().dial, tmp_path, wire)
    assert tuple(result.aggregations) == simulation.standing.aggregations
    assert result.uplink_bytes == pytest.approx(crossing.up.payload_bytes, rel=0.01)
    # Devices that leave the cohort hear of it with an advance more, and don't report any more that they got it.
    assert 0.94 * crossing.down.payload_bytes < result.downlink_bytes <= crossing.down.payload_bytes
    federated, moved = to_row(ground.spec, tensors), np.linalg.norm(simulation.values - ground.initial)
    assert np.linalg.norm(simulation.values - federated) < apart * moved
    exact, _ = crossed(ground, parity.FLOATS)
    assert np.linalg.norm(simulation.values - exact.values) > 2 * apart * moved  # what the codec itself changes


def test_no_crossing_for_narrow_networks_or_half_runs(tmp_path: Path) -> None:
    chosen = setting(tmp_path)
    ground = lay(chosen)
    crossing = Crossing(ground.spec, Wire(), chosen.names)
    with open_way("loop", ground) as way, pytest.raises(ValueError, match="whole runs"):
        Simulation(ground, way, simulate(ground, rounds=1), crossing=crossing)
    narrow = lay(msgspec.structs.replace(chosen, reduction="width", fleet=Fleet(strong=2, weak=2)))
    with open_way("loop", narrow) as way, pytest.raises(ValueError, match="whole runs"):
        Simulation(narrow, way, crossing=crossing)
