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
from lamina.emulation.simulator.backends.choosing import open_backend
from lamina.emulation.simulator.rows import to_row
from lamina.emulation.simulator.run_context import RunContext, prepare_run
from lamina.emulation.simulator.setting import Setting, TierCounts
from lamina.emulation.simulator.simulated_wire import SimulatedWire
from lamina.emulation.simulator.simulation import Simulation
from lamina.models.bundle import Bundle
from tests import test_simulator_and_federation as parity
from tests.simulated import setting, simulate

bundle = parity.bundle


def crossed(context: RunContext, codecs: Wire) -> tuple[Simulation, SimulatedWire]:
    """A whole run over that wire."""
    wire = SimulatedWire(context.spec, codecs, context.setting.names)
    with open_backend("loop", context) as backend:
        simulation = Simulation(context, backend, wire=wire)
        while not simulation.finished:
            simulation.advance()
    return simulation, wire


def test_a_wire_that_loses_nothing_changes_no_bit(tmp_path: Path) -> None:
    context = prepare_run(setting(tmp_path, aggregation={"phi": 2}, training={"rounds": 6}))
    simulation, _ = crossed(context, parity.FLOATS)
    plain = simulate(context)
    assert simulation.values.tobytes() == plain.base.tobytes()
    assert simulation.run_state.intervals == plain.run_state.intervals


def test_bytes_are_those_of_the_messages(tmp_path: Path) -> None:
    context = prepare_run(
        setting(tmp_path, training={"rounds": 2})
    )  # FedAvg, two rounds, four devices that are always active
    _, wire = crossed(context, parity.FLOATS)
    layers = [split(_update(context, layer), 1 << 18)[0] for layer in range(len(context.spec.layers))]
    together = len(batches.pack(layers))
    assert wire.up.payload_bytes == 2 * 4 * together
    assert wire.up.messages == 2 * 4
    # Values one by one, then an advance; that of the last round is heard by nobody.
    assert wire.down.payload_bytes == 4 * (sum(map(len, layers)) + together)
    assert wire.down.messages == 4 * (len(layers) + 1)


def _update(context: RunContext, layer: int):  # type: ignore[no-untyped-def]
    spec = context.spec.layers[layer]
    return pack(
        "update", epoch=1, round=0, layer=layer, version=0, layer_spec=spec,
        vector=np.ones(spec.vector_size, np.float32), codec="float32",
    )  # fmt: skip


def test_a_device_that_missed_a_version_fetches_the_value_and_others_the_delta() -> None:
    context = prepare_run(Setting(model="digits_cnn,width=8"))
    wire = SimulatedWire(context.spec, Wire(), ["a", "b"])
    values = [np.zeros(layer.vector_size, np.float32) for layer in context.spec.layers]
    last = len(values) - 1

    def begun(round_: int, *cohort: str) -> int:
        before = wire.down.payload_bytes
        wire.begin(round_, cohort, values)
        return wire.down.payload_bytes - before

    def moved() -> None:
        change = np.random.default_rng(0).normal(size=values[last].size).astype(np.float32)
        values[last] = wire.next_value(last, values[last], values[last] + change)

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
    codecs = Wire(update_codec=update_codec)
    context = parity.context_of(
        Setting(aggregation=Aggregation(phi=2), fleet=TierCounts(strong=3, weak=3), cohorts=Cohorts(active=0.5))
    )
    simulation, wire = crossed(context, codecs)
    result, tensors = await parity.federate(context, bundle, MemoryBroker().dial, tmp_path, codecs)
    assert tuple(result.aggregations) == simulation.run_state.versions
    assert result.uplink_bytes == pytest.approx(wire.up.payload_bytes, rel=0.01)
    # Devices that leave the cohort hear of it with an advance more, and don't report any more that they got it.
    assert 0.94 * wire.down.payload_bytes < result.downlink_bytes <= wire.down.payload_bytes
    federated, moved = to_row(context.spec, tensors), np.linalg.norm(simulation.values - context.initial)
    assert np.linalg.norm(simulation.values - federated) < apart * moved
    exact, _ = crossed(context, parity.FLOATS)
    assert np.linalg.norm(simulation.values - exact.values) > 2 * apart * moved  # what the codec itself changes


def test_no_wire_for_narrow_networks_or_half_runs(tmp_path: Path) -> None:
    chosen = setting(tmp_path)
    context = prepare_run(chosen)
    wire = SimulatedWire(context.spec, Wire(), chosen.names)
    with open_backend("loop", context) as backend, pytest.raises(ValueError, match="whole runs"):
        Simulation(context, backend, simulate(context, rounds=1), wire=wire)
    narrow = prepare_run(msgspec.structs.replace(chosen, reduction="width", fleet=TierCounts(strong=2, weak=2)))
    with open_backend("loop", narrow) as backend, pytest.raises(ValueError, match="whole runs"):
        Simulation(narrow, backend, wire=wire)
