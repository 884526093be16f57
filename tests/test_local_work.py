"""What algorithms add to messages, updates and partials: scalars, further vectors, and no byte where none asks."""

import struct
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from lamina.broker.wire import messages, partials
from lamina.broker.wire.chunks import Joiner, LayerValue, pack, split, unpack
from lamina.broker.wire.local_work import GRADIENT_WEIGHT, Control, LocalWork
from lamina.broker.wire.messages import CoordinatorStatus, RoundPlan, Task
from lamina.broker.wire.partials import Partial
from lamina.coordinator.folds.mean import LayerFold
from lamina.models.errors import DecodeError
from lamina.models.further import with_further
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec
from tests.sealing import sealed_again

LAYER = LayerSpec("conv", (TensorSpec("w", (2, 2), "kernel"),), (TensorSpec("mean", (2,), "statistic"),))
SPEC = ModelSpec("small", (LAYER,), (BlockSpec("conv", 0, 1, (1,)),), (0,), classes=2)


def update(*scalars: tuple[str, float]) -> LayerValue:
    vector = np.arange(6, dtype=np.float32)
    value = pack("update", epoch=1, round=2, layer=0, version=3, layer_spec=LAYER, vector=vector, codec="float32")
    return replace(value, scalars=scalars)


def test_named_scalars_cross_with_an_update_whole_or_in_chunks() -> None:
    said = (("gradient_weight", 0.25), ("loss", -3.5))
    for chunk_bytes in (1 << 10, 8 + 44 + 24 + 64 + 6):
        joiner = Joiner(SPEC)
        joined = [joiner.add(chunk, "pi", ("update",)) for chunk in split(update(*said), chunk_bytes)]
        assert joined[-1] is not None
        assert joined[-1].scalars == said
        assert unpack(joined[-1], LAYER).tolist() == [0, 1, 2, 3, 4, 5]


def test_an_update_without_scalars_has_no_byte_more_and_one_with_them_its_own() -> None:
    [plain], [said] = split(update(), 1 << 10), split(update(("loss", 1.0)), 1 << 10)
    assert plain[11] == 0
    assert len(said) == len(plain) + 1 + len("loss") + 8
    assert said[11] == 1


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (11, b"\x02"),  # more scalars than there are
        (11, b"\xff"),  # more than any algorithm has
        (14, b"\x00"),  # no tensors before them
        (-(8 + 4 + 1 + 24), b"\xff"),  # a name longer than the chunk
        (-(8 + 4 + 24), b"\xff"),  # a name that is no text
        (-(8 + 24), struct.pack("<d", float("nan"))),
        (-(8 + 24), struct.pack("<d", float("inf"))),
    ],
)
def test_damaged_scalars_are_refused(at: int, new: bytes) -> None:
    [payload] = split(update(("loss", 1.0)), 1 << 10)
    with pytest.raises(DecodeError):
        Joiner(SPEC).add(sealed_again(payload, at % len(payload), new), "liar", ("update",))


def test_plans_tasks_and_states_hold_nothing_of_an_algorithm_that_asks_for_nothing() -> None:
    names = {"steps", "scalars", "reference", "control", "further"}
    for message in (RoundPlan(epoch=1, round=2), Task(epoch=1, accepted=True, reason=""),
                    CoordinatorStatus(state="waiting", epoch=1)):  # fmt: skip
        assert not names & msgspec.msgpack.decode(messages.encode(message)).keys()
    assert LocalWork().given == {}
    assert RoundPlan(epoch=1, round=2).work == LocalWork()


def test_a_plan_says_what_an_algorithm_asks_for() -> None:
    work = LocalWork(steps={"pi": 3}, scalars=(GRADIENT_WEIGHT,), reference=2.0, control=Control(1, -1, -1, 1))
    plan = RoundPlan(epoch=1, round=2, local_steps=5, **work.given)
    again = messages.decode(messages.encode(plan), RoundPlan)
    assert again.work.correction == Control(1, -1, -1, 1)
    assert (again.steps_of("pi"), again.steps_of("other")) == (3, 5)
    assert again.work.fault == ""


@pytest.mark.parametrize(
    "work", [LocalWork(scalars=("mood",)), LocalWork(control=(1.0,)), LocalWork(steps={"pi": 0}, scalars=())]
)
def test_what_a_device_cannot_do_is_a_fault(work: LocalWork) -> None:
    assert work.fault


def test_further_vectors_stand_behind_the_models_and_have_its_tensors() -> None:
    assert with_further(SPEC, ()) is SPEC
    [layer] = with_further(SPEC, ("control",)).layers
    assert (layer.size, layer.vector_size) == (4, 10)
    assert layer.shapes == ((2, 2), (2,), (2, 2))
    with pytest.raises(DecodeError, match="at most 4"):
        with_further(SPEC, tuple("abcde"))


def test_a_partial_carries_the_scalars_of_its_devices_and_no_byte_without_them() -> None:
    fold = LayerFold(6, 4)
    fold.add("a", np.ones(6, np.float32), 2.0)
    fold.add("b", np.ones(6, np.float32), 1.0)
    plain = fold.partial()
    said = replace(plain, scalars={"loss": (0.5, 1.5)})
    assert partials.decode(partials.encode(said), 6).scalars == {"loss": (0.5, 1.5)}
    assert partials.decode(partials.encode(plain), 6).scalars == {}
    assert partials.encode(plain)[:4] == (len(partials.encode(plain)[8:]) - _sums(plain)).to_bytes(4, "little")
    assert len(partials.encode(said)) < partials.most_bytes(6)


def _sums(partial: Partial) -> int:
    roster = msgspec.msgpack.encode([partial.devices, partial.weights, partial.moments])
    return len(partials.encode(partial)) - 8 - len(roster)


@pytest.mark.parametrize("scalars", [{"loss": (0.5,)}, {"loss": (0.5, float("nan"))}, {"loss": (1.0, 2.0, 3.0)}])
def test_a_partial_with_scalars_of_other_devices_is_refused(scalars: dict[str, tuple[float, ...]]) -> None:
    fold = LayerFold(6, 4)
    for device in ("a", "b"):
        fold.add(device, np.ones(6, np.float32), 1.0)
    with pytest.raises(DecodeError):
        partials.decode(partials.encode(replace(fold.partial(), scalars=scalars)), 6)
