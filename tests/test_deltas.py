"""The way down: deltas that devices add up, hundreds of rounds long, and values for everyone else."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import google_crc32c
import msgspec
import numpy as np
import pytest

from lamina.broker.wire.chunks import Joiner, LayerValue, split, unpack
from lamina.broker.wire.deltas import applied, check_of, pack_deltas
from lamina.broker.wire.messages import Report, RoundPlan
from lamina.coordinator.records.snapshot import fresh
from lamina.coordinator.records.store import Store
from lamina.coordinator.rounds.federation import Federation
from lamina.coordinator.rounds.round import Update
from lamina.coordinator.settings import Aggregation, FederationSettings, Server, Training, Wire
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.test_federation import MANIFEST, SETTINGS, profile

LAYER = LayerSpec(
    "dense",
    (TensorSpec("w", (20, 30), "kernel"), TensorSpec("b", (30,), "bias")),
    (TensorSpec("mean", (30,), "statistic"),),
)
SIZE = LAYER.vector_size
# Three layers with kernels, whose devices' samples have 3 features.
SPEC = ModelSpec(
    "three",
    layers=(
        LayerSpec("a", (TensorSpec("a.w", (3, 40), "kernel"), TensorSpec("a.b", (40,), "bias"))),
        LayerSpec("b", (TensorSpec("b.w", (40, 9), "kernel"),), (TensorSpec("b.mean", (9,), "statistic"),)),
        LayerSpec("c", (TensorSpec("c.w", (9, 5), "kernel"),)),
    ),
    blocks=tuple(BlockSpec(name, index, index + 1, (3,)) for index, name in enumerate("abc")),
    cuts=(0, 1, 2),
    classes=5,
)


def noise(seed: int, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(SIZE) * scale).astype(np.float32)


def delta(base: np.ndarray, target: np.ndarray, codec: str = "int8", version: int = 1) -> tuple[LayerValue, np.ndarray]:
    [made] = pack_deltas(
        epoch=9,
        round=5,
        layers=[0],
        versions=[version],
        layer_specs=[LAYER],
        bases=[base],
        targets=[target],
        codecs=[codec],
    )
    return made


def apply_delta(value: LayerValue, layer: LayerSpec, base: np.ndarray) -> np.ndarray:
    [vector] = applied([value], [layer], [base])
    assert not isinstance(vector, DecodeError)
    return vector


def test_a_check_is_the_crc_of_the_numbers() -> None:
    vector = np.array([1.5, 1], np.float32)
    assert check_of(vector) == google_crc32c.value(struct.pack("<2f", 1.5, 1)) == 0xF28C008A
    other = vector.copy()
    other[1] = np.nextafter(other[1], np.float32(9))
    assert check_of(other) != check_of(vector)


@pytest.mark.parametrize("codec", ["float32", "int8", "int4", "sign", "top10"])
def test_a_delta_crosses_the_wire_within_its_bound(codec: str) -> None:
    base, scattered = np.zeros(SIZE, np.float32), noise(1)
    value, result = delta(base, scattered, codec)
    joiner = Joiner(models_spec())
    joined = [back for payload in split(value, 200) if (back := joiner.add(payload, "coordinator"))]
    assert joined == [value]
    assert apply_delta(joined[0], LAYER, base).tobytes() == result.tobytes()


def models_spec() -> ModelSpec:
    return ModelSpec("one", (LAYER,), (BlockSpec("dense", 0, 1, (20,)),), (0,), classes=30)


def federation(settings: FederationSettings) -> Federation:
    """Two devices, and values of zero."""
    manifest = msgspec.structs.replace(MANIFEST, spec=SPEC)
    values = [np.zeros(layer.vector_size, np.float32) for layer in SPEC.layers]
    return with_devices(Federation(settings, manifest, "cafe", values, fresh(manifest, "cafe", 9, settings)))


def with_devices(subject: Federation) -> Federation:
    for name in ("one", "two"):
        subject.register(profile(name))
        subject.came(name)
    return subject


def lossy(codec: str, **changes: object) -> FederationSettings:
    wire = Wire(update_codec="float32", delta_codec=codec, small_elements=0)
    return msgspec.structs.replace(SETTINGS, wire=wire, **changes)


class Listener:
    """A device that takes the advance where it can, and values where it must."""

    def __init__(self) -> None:
        self.versions: list[int | None] = [None] * len(SPEC.layers)
        self.values: list[np.ndarray] = [np.empty(0, np.float32)] * len(SPEC.layers)
        self.deltas = self.wholes = 0

    def hear(self, subject: Federation, plan: RoundPlan) -> None:
        """A plan, its advance, and whatever value is requested."""
        advance = {value.layer: value for value in subject.advance}
        assert tuple(advance) == plan.advanced
        for layer, (spec, version) in enumerate(zip(SPEC.layers, plan.versions, strict=True)):
            if self.versions[layer] == version:
                continue
            if layer in advance and self.versions[layer] == version - 1:
                assert advance[layer].version == version
                vector = apply_delta(advance[layer], spec, self.values[layer])
                self.deltas += 1
            else:
                vector = unpack(subject.whole(layer), spec)
                self.wholes += 1
            assert check_of(vector) == plan.checks[layer]
            self.values[layer], self.versions[layer] = vector, version


def run_rounds(
    subject: Federation, rounds: int, listeners: dict[int, Listener], seeds: Sequence[int] | None = None
) -> None:
    """Every round: random updates of two devices; each listener hears every so many rounds."""
    for round_ in range(rounds):
        rng = np.random.default_rng(seeds[round_] if seeds else round_)
        plan = subject.begin(now=0.0)
        for every, listener in listeners.items():
            if round_ % every == 0:
                listener.hear(subject, plan)
                assert [value.tobytes() for value in listener.values] == [value.tobytes() for value in subject.values]
        for name in ("one", "two"):
            for layer in plan.due:
                vector = rng.standard_normal(SPEC.layers[layer].vector_size).astype(np.float32)
                subject.receive(Update(name, layer, 9, plan.round, plan.versions[layer], 1.0, vector))
            subject.report(name, Report(epoch=9, round=plan.round, steps=5, loss=1.0, accuracy=0.5, step_s=0.1))
        subject.close(subject.round.ready(now=1.0))  # type: ignore[union-attr]
        subject.finish(now=1.0, uplink_bytes=0)


@pytest.mark.parametrize("codec", ["int8", "int4+stochastic", "sign", "top10", "rank2"])
def test_devices_and_coordinator_agree_bit_for_bit_after_hundreds_of_rounds(codec: str) -> None:
    settings = lossy(codec, training=Training(rounds=300, local_steps=5))
    subject = federation(settings)
    listeners = {1: Listener(), 7: Listener(), 299: Listener()}
    run_rounds(subject, 300, listeners)
    assert listeners[1].wholes == 3  # version 0 of each layer
    assert listeners[1].deltas > 500
    assert listeners[7].wholes > 90  # it has missed versions


@pytest.mark.parametrize("codec", ["int8", "sign", "top10"])
def test_what_a_delta_loses_is_sent_with_the_next_ones(codec: str) -> None:
    settings = lossy(codec, training=Training(rounds=400, local_steps=5), aggregation=Aggregation(phi=1))
    exact = msgspec.structs.replace(settings, wire=Wire(update_codec="float32", global_codec="float32", delta_codec=""))
    ends = []
    for each in (settings, exact):
        subject = federation(each)
        run_rounds(subject, 400, {})
        ends.append(np.concatenate(subject.values))
    apart = np.abs(ends[0] - ends[1]).max()
    assert apart < 5  # steps are of 0.7; without what is owed, sign and top10 end tens away


def test_small_layers_go_whole_in_their_own_codec() -> None:
    wire = Wire(update_codec="float32", delta_codec="sign", small_elements=200)  # of 160, 369 and 45 elements
    subject = federation(msgspec.structs.replace(SETTINGS, wire=wire))
    run_rounds(subject, 1, {})
    assert [(value.purpose, value.codec) for value in subject.advance] == [
        ("delta", "float32"),
        ("delta", "sign"),
        ("delta", "float32"),
    ]


def test_without_a_codec_for_deltas_values_are_what_advances() -> None:
    wire = Wire(update_codec="float32", global_codec="int8", delta_codec="")
    subject = federation(msgspec.structs.replace(SETTINGS, wire=wire))
    run_rounds(subject, 1, {})
    assert [(value.purpose, value.codec) for value in subject.advance] == [("global", "int8")] * 3
    for layer, value in enumerate(subject.advance):
        assert unpack(value, SPEC.layers[layer]).tobytes() == subject.values[layer].tobytes()
        assert subject.whole(layer) == value  # not encoded once more, which would lose more


def test_an_advance_is_of_the_last_round_in_which_something_moved() -> None:
    subject = federation(lossy("int8"))
    run_rounds(subject, 1, {})
    first = subject.advance
    plan = subject.begin(now=0.0)
    for name in ("one", "two"):
        subject.report(name, Report(epoch=9, round=plan.round, steps=5, loss=math.nan, accuracy=0.5, step_s=0.1))
    subject.close(plan.due)
    subject.finish(now=1.0, uplink_bytes=0)
    assert subject.advance == first
    assert subject.begin(now=0.0).advanced == (0, 1, 2)


def test_restarted_coordinator_offers_values_until_it_has_made_an_advance() -> None:
    subject = federation(lossy("int8"))
    run_rounds(subject, 1, {})
    assert subject.begin(now=0.0).advanced == (0, 1, 2)
    again = Federation(subject.settings, subject.manifest, "cafe", list(subject.values), subject.snapshot)
    with_devices(again)
    assert again.begin(now=0.0).advanced == ()
    assert again.advance == []
    assert [again.whole(layer).purpose for layer in range(3)] == ["global"] * 3


def test_deltas_need_a_codec_of_values_that_loses_nothing() -> None:
    with pytest.raises(ConfigError, match=r"wire\.delta_codec needs a wire\.global_codec that loses nothing"):
        Wire(delta_codec="int8", global_codec="float16")


@pytest.mark.parametrize("key", ["update_codec", "global_codec", "delta_codec", "small_codec", "fallback_codec"])
def test_unknown_codec_is_an_error_of_the_configuration(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"wire\.{key}: unknown codec 'int9'; did you mean 'int8'"):
        Wire(**{key: "int9"})  # type: ignore[arg-type]


@pytest.mark.parametrize("optimiser", ["none", "fedavgm", "fedadam"])
def test_a_coordinator_that_restarts_owes_and_remembers_as_before(
    tmp_path: Path, optimiser: Literal["none", "fedavgm", "fedadam"]
) -> None:
    settings = lossy("sign", training=Training(rounds=12, local_steps=5), server=Server(optimiser, lr=0.1))
    undisturbed, subject = federation(settings), federation(settings)
    run_rounds(undisturbed, 12, {}, seeds=range(12))
    run_rounds(subject, 6, {}, seeds=range(6))
    store = Store(tmp_path)
    store.commit(subject.snapshot, subject.values, subject.owed, subject.memory)
    saved = store.load(SPEC, "cafe")
    assert saved is not None
    again = with_devices(
        Federation(settings, subject.manifest, "cafe", saved.values, saved.snapshot, saved.owed, saved.memory)
    )
    run_rounds(again, 6, {}, seeds=range(6, 12))
    assert [value.tobytes() for value in again.values] == [value.tobytes() for value in undisturbed.values]
    store.commit(again.snapshot, again.values, again.owed, again.memory)
    store.settle()
    kept = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert kept == ["00000006.commit", "00000012.commit"]  # the cycles' ends; what else is past is deleted
