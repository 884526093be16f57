"""The federation machine: who is accepted, what is due, what the model becomes, and how a restart goes on."""

import msgspec
import numpy as np
import pytest

from lamina.broker.wire.messages import DeviceProfile, Report, RoundPlan
from lamina.coordinator.records.snapshot import Snapshot, fresh
from lamina.coordinator.rounds.federation import Federation, RoundOutcome
from lamina.coordinator.rounds.round import Update
from lamina.coordinator.settings import Aggregation, Cohorts, FederationSettings, Local, Server, Training, Wire
from lamina.models.errors import ConfigError, RejectedUpdate
from lamina.models.manifest import FileEntry, Manifest, SubModel
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

# Three layers of 1, 2 and 4 parameters; the second has two running statistics.
SPEC = ModelSpec(
    name="three",
    layers=(
        LayerSpec("a", (TensorSpec("a.w", (1,), "kernel"),)),
        LayerSpec("b", (TensorSpec("b.w", (2,), "kernel"),), (TensorSpec("b.mean", (2,), "statistic"),)),
        LayerSpec("c", (TensorSpec("c.w", (4,), "kernel"),)),
    ),
    blocks=tuple(BlockSpec(name, index, index + 1, (3,)) for index, name in enumerate("abc")),
    cuts=(0, 1, 2),
    classes=5,
)
FILE = FileEntry("0" * 64, 1, ".onnx")
PEAKS = {0: 30.0, 1: 20.0, 2: 10.0}
MANIFEST = Manifest(
    spec=SPEC,
    batch_size=4,
    sub_models=tuple(SubModel(cut, FILE, 7, 7, 1.0, peak) for cut, peak in PEAKS.items()),
    pieces=(),
    inference=FILE,
    values=FILE,
    optimiser="sgd",
    optimiser_state=("momentum_state",),
    hyperparameters={"lr": 0.5, "momentum": 0.9},
)
SETTINGS = FederationSettings(
    federation="lab",
    bundle="",
    training=Training(rounds=4, local_steps=5, lr=0.1, hyperparameters={"momentum": 0.8}),
    cohorts=Cohorts(min_devices=2),
    aggregation=Aggregation(phi=2),
    wire=Wire(update_codec="float32", global_codec="float32", delta_codec=""),
)


def profile(name: str, budget_mib: float = 100.0, **changes: object) -> DeviceProfile:
    fields: dict[str, object] = {
        "device": name,
        "budget_mib": budget_mib,
        "cores": 4,
        "architecture": "aarch64",
        "engine": "onnxruntime 1.32.0",
        "codecs": ("float32",),
        "num_examples": 8,
        "classes": 5,
        "sample_shape": (3,),
        "agent_version": "0",
    }
    return DeviceProfile(**{**fields, **changes})  # type: ignore[arg-type]


def federation(settings: FederationSettings = SETTINGS, snapshot: Snapshot | None = None) -> Federation:
    values = [np.zeros(layer.vector_size, np.float32) for layer in SPEC.layers]
    return Federation(settings, MANIFEST, "cafe", values, snapshot or fresh(MANIFEST, "cafe", 9, settings))


def with_devices(subject: Federation, **budgets: float) -> Federation:
    for name, budget in budgets.items():
        subject.register(profile(name, budget))
        subject.came(name)
    return subject


def deliver(subject: Federation, plan: RoundPlan, deltas: dict[str, float]) -> None:
    """Every device sends its delta, the same in every element, for every due layer that it trains."""
    for name, delta in deltas.items():
        for layer in plan.due:
            if subject.devices[name].task.cut <= layer:
                vector = np.full(SPEC.layers[layer].vector_size, delta, np.float32)
                subject.receive(Update(name, layer, 9, plan.round, plan.versions[layer], 1.0, vector))
        subject.report(name, Report(epoch=9, round=plan.round, steps=5, loss=1.0, accuracy=0.5, step_s=0.1))


def play(subject: Federation, deltas: dict[str, float], rounds: int = 1) -> list[RoundPlan]:
    plans = []
    for _ in range(rounds):
        plan = subject.begin(now=0.0)
        deliver(subject, plan, deltas)
        subject.close(subject.round.ready(now=1.0))  # type: ignore[union-attr]
        subject.finish(now=1.0, uplink_bytes=0)
        plans.append(plan)
    return plans


def test_the_budget_decides_the_cut() -> None:
    subject = with_devices(federation(), strong=30.0, moderate=29.9, weak=10.0, none=9.9)
    verdicts = {name: (device.task.accepted, device.task.cut) for name, device in subject.devices.items()}
    assert verdicts == {"strong": (True, 0), "moderate": (True, 1), "weak": (True, 2), "none": (False, 0)}
    assert "9.9 MiB" in subject.devices["none"].task.reason
    assert subject.accepted == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_examples": 0}, "no training examples"),
        ({"sample_shape": (4,)}, "shape (4,)"),
        ({"classes": 6}, "labels reach 5"),
        ({"codecs": ("float16",)}, "can't encode float32"),
    ],
)
def test_a_device_that_can_not_train_is_refused_with_the_reason(changes: dict[str, object], words: str) -> None:
    task = federation().register(profile("odd", **changes))
    assert not task.accepted
    assert words in task.reason


def test_the_first_round_waits_for_min_devices() -> None:
    subject = with_devices(federation(), one=100.0)
    assert not subject.can_begin(now=1e9)
    assert with_devices(subject, two=100.0).can_begin(now=0.0)


def test_a_later_cycle_goes_on_at_once_without_a_device_that_said_goodbye() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    subject.went("two", now=0.0, patience_s=0.0)
    assert subject.can_begin(now=0.0)
    assert subject.begin(now=0.0).cohort == ("one",)


def test_a_later_cycle_waits_for_a_device_that_vanished_until_its_patience_ends() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    subject.went("two", now=100.0, patience_s=10.0)
    assert subject.awaited(now=109.9) == {"two": 110.0}
    assert not subject.can_begin(now=109.9)
    assert subject.can_begin(now=110.0)
    subject.came("two")
    assert subject.can_begin(now=101.0)
    assert subject.begin(now=101.0).cohort == ("one", "two")


def test_where_nobody_is_left_a_later_cycle_waits_for_the_first_to_come() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    for name in ("one", "two"):
        subject.went(name, now=0.0, patience_s=0.0)
    assert not subject.can_begin(now=1e9)
    subject.came("two")
    assert subject.can_begin(now=1e9)


def test_phi_1_is_fedavg_every_layer_is_due_every_round() -> None:
    settings = msgspec.structs.replace(SETTINGS, aggregation=Aggregation(phi=1))
    subject = with_devices(federation(settings), one=100.0, two=100.0)
    plans = play(subject, {"one": 1.0, "two": 3.0}, rounds=4)
    assert [plan.due for plan in plans] == [(0, 1, 2)] * 4
    assert [value.tolist() for value in subject.values] == [[8.0], [8.0] * 4, [8.0] * 4]  # 4 rounds of (1 + 3) / 2
    assert subject.snapshot.ledger.c_ratio == 1.0


def test_a_relaxed_layer_skips_a_round_and_is_due_at_the_cycles_end() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    first = play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    assert [plan.due for plan in first] == [(0, 1, 2), (0, 1, 2)]
    # Nobody drifts apart: d is 0 everywhere, so every layer is relaxed in the second cycle.
    assert subject.snapshot.intervals == (10, 10, 10)
    second = play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    assert [plan.due for plan in second] == [(), (0, 1, 2)]
    assert [plan.cycle for plan in first + second] == [0, 0, 1, 1]
    assert subject.finished


def test_warm_up_leaves_the_intervals_alone() -> None:
    settings = msgspec.structs.replace(SETTINGS, aggregation=Aggregation(phi=2, warmup_rounds=3))
    subject = with_devices(federation(settings), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    assert subject.snapshot.intervals == (5, 5, 5)
    play(subject, {"one": 1.0, "two": 1.0}, rounds=2)
    assert subject.snapshot.intervals == (10, 10, 10)


def test_the_divisor_of_layer_l_is_the_number_of_its_trainers() -> None:
    subject = with_devices(federation(), strong=30.0, weak=10.0)
    play(subject, {"strong": 6.0, "weak": 2.0})
    # Layers a and b: the strong device alone. Layer c: both, (6 + 2) / 2.
    assert [value[0] for value in subject.values] == [6.0, 6.0, 4.0]


def test_a_layer_without_trainers_keeps_its_value_and_version() -> None:
    subject = with_devices(federation(), weak=10.0, feeble=10.0)
    play(subject, {"weak": 1.0, "feeble": 1.0})
    assert [value[0] for value in subject.values] == [0.0, 0.0, 1.0]
    assert subject.snapshot.versions == (0, 0, 1)


def test_the_discrepancy_is_taken_per_step_and_parameter_without_statistics() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 3.0})
    # Each element lies 1 from the mean on both devices: sum_i w_i ||u - x_i||^2 = dim_l, over tau_l dim_l = 1 / 5.
    assert subject.snapshot.discrepancy == pytest.approx((0.2, 0.2, 0.2))


def test_the_codec_of_globals_rounds_the_truth_too() -> None:
    settings = msgspec.structs.replace(
        SETTINGS, wire=Wire(update_codec="float32", global_codec="float16", delta_codec="")
    )
    subject = with_devices(federation(settings), one=100.0, two=100.0)
    play(subject, {"one": 1.0001, "two": 1.0001})
    assert subject.values[0][0] == 1.0  # float16 has steps of 2^-10 above 1


def test_the_servers_momentum_carries_a_layer_on() -> None:
    settings = msgspec.structs.replace(SETTINGS, aggregation=Aggregation(phi=1), server=Server("fedavgm", beta=0.5))
    subject = with_devices(federation(settings), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 3.0}, rounds=2)
    # Each round the average lies 2 ahead: m = 2, then 0.5 * 2 + 2 = 3. Statistics take the average as it is: 2, then 4.
    assert [value.tolist() for value in subject.values] == [[5.0], [5.0, 5.0, 4.0, 4.0], [5.0] * 4]
    # ... and the drift is about the average, as it is without a server's step
    assert subject.snapshot.discrepancy == pytest.approx((0.2, 0.2, 0.2))


@pytest.mark.parametrize("optimiser", ["fedavgm", "fedadam"])
def test_a_run_that_goes_on_remembers_the_servers_steps(optimiser: str) -> None:
    settings = msgspec.structs.replace(SETTINGS, server=Server(optimiser, lr=0.5))  # type: ignore[arg-type]
    devices, deltas = {"one": 100.0, "two": 100.0}, {"one": 1.0, "two": 3.0}
    undisturbed = with_devices(federation(settings), **devices)
    play(undisturbed, deltas, rounds=4)
    before = with_devices(federation(settings), **devices)
    play(before, deltas, rounds=2)
    again = federation(settings, before.snapshot)
    again.values[:], again.memory = before.values, dict(before.memory)
    play(with_devices(again, **devices), deltas, rounds=2)
    assert [value.tolist() for value in again.values] == [value.tolist() for value in undisturbed.values]
    # Another optimiser makes nothing of what the first one remembered.
    other = federation(msgspec.structs.replace(settings, server=Server()), before.snapshot)
    other.memory = dict(before.memory)
    play(with_devices(other, **devices), deltas, rounds=2)
    assert other.memory == {}


def test_the_rate_falls_where_the_operator_says() -> None:
    training = Training(rounds=4, lr=1.0, lr_decay_at=(0.5, 0.75), hyperparameters={"momentum": 0.8})
    subject = federation(msgspec.structs.replace(SETTINGS, training=training))
    assert [subject.hyperparameters(round_)["lr"] for round_ in range(4)] == [1.0, 1.0, 0.1, 0.01]
    assert subject.hyperparameters(0)["momentum"] == 0.8


def test_rounds_come_in_whole_cycles() -> None:
    training = msgspec.structs.replace(SETTINGS.training, rounds=5)
    assert federation(msgspec.structs.replace(SETTINGS, training=training)).rounds == 6


def test_a_restarted_coordinator_plans_the_same_round_again() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 3.0}, rounds=1)
    saved = msgspec.json.decode(msgspec.json.encode(subject.snapshot), type=Snapshot)
    again = Federation(SETTINGS, MANIFEST, "cafe", list(subject.values), saved)
    again.listen(now=0.0)
    with_devices(again, one=100.0)
    assert again.awaited(now=9.9) == {"two": 10.0}  # the cycle's cohort must register first
    assert not again.can_begin(now=9.9)
    assert again.can_begin(now=10.0)
    with_devices(again, two=100.0)
    assert again.can_begin(now=0.0)
    assert again.begin(now=0.0) == msgspec.structs.replace(subject.begin(now=0.0), advanced=())
    assert {record.id: record.rounds_done for record in again.device_records()} == {"one": 1, "two": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": msgspec.structs.replace(SETTINGS.training, local_steps=7)}, "local_steps was 5"),
        ({"aggregation": Aggregation(phi=4)}, "phi was 2"),
    ],
)
def test_a_run_can_not_go_on_with_other_rounds(changes: dict[str, object], words: str) -> None:
    snapshot = fresh(MANIFEST, "cafe", 9, SETTINGS)
    snapshot.check(SETTINGS)
    with pytest.raises(ConfigError, match=words):
        snapshot.check(msgspec.structs.replace(SETTINGS, **changes))


def past_deadline(subject: Federation, began: float, deltas: dict[str, float]) -> RoundOutcome:
    """A round in which only these deliver, and which ends by its deadline of 600 s."""
    plan = subject.begin(now=began)
    deliver(subject, plan, deltas)
    subject.close(subject.round.ready(now=began + 600.0))  # type: ignore[union-attr]
    return subject.finish(now=began + 600.0, uplink_bytes=0)


def test_a_late_device_sits_out_cycles_ever_more_of_them_and_is_drawn_again() -> None:
    training = msgspec.structs.replace(SETTINGS.training, rounds=40)
    settings = msgspec.structs.replace(SETTINGS, aggregation=Aggregation(phi=1), training=training)
    subject = with_devices(federation(settings), one=100.0, two=100.0)
    outcome = past_deadline(subject, 0.0, {"one": 1.0})
    assert (outcome.updates, outcome.expected, outcome.late) == (3, 6, {"two": 1})
    assert {record.id: record.rounds_done for record in subject.device_records()} == {"one": 1, "two": 0}
    assert [plan.cohort for plan in play(subject, {"one": 1.0}, rounds=1)] == [("one",)]
    assert past_deadline(subject, 0.0, {"one": 1.0}).late == {"two": 3}
    assert [plan.cohort for plan in play(subject, {"one": 1.0}, rounds=3)] == [("one",)] * 3
    assert [plan.cohort for plan in play(subject, {"one": 1.0, "two": 1.0}, rounds=1)] == [("one", "two")]
    assert past_deadline(subject, 0.0, {"one": 1.0}).late == {"two": 1}  # it was in time meanwhile


def test_a_late_device_is_not_waited_for_in_the_rest_of_its_cycle_and_counts_if_it_delivers() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    past_deadline(subject, 0.0, {"one": 1.0})
    plan = subject.begin(now=0.0)
    assert plan.cohort == ("one", "two")
    deliver(subject, plan, {"one": 1.0})
    assert subject.round is not None
    assert subject.round.ready(now=0.0) == (0, 1, 2)


def test_where_everyone_would_sit_out_all_are_drawn() -> None:
    settings = msgspec.structs.replace(SETTINGS, aggregation=Aggregation(phi=1))
    subject = with_devices(federation(settings), one=100.0, two=100.0)
    past_deadline(subject, 0.0, {"one": 1.0})
    subject.went("one", now=0.0, patience_s=0.0)
    assert subject.begin(now=0.0).cohort == ("two",)


def test_a_round_in_which_nobody_delivered_does_not_count_and_its_time_is_waited() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 1.0})
    before = subject.snapshot
    subject.begin(now=100.0)
    assert subject.round is not None
    subject.close(subject.round.ready(now=700.0))
    assert subject.round.done(now=700.0)
    assert subject.round.empty
    subject.abandon(now=700.0)
    assert subject.snapshot == msgspec.structs.replace(before, cohort=())
    plan = subject.begin(now=700.0)
    assert plan.round == before.round
    assert plan.cohort == ("one", "two")
    deliver(subject, plan, {"one": 1.0, "two": 1.0})
    subject.close(subject.round.ready(now=701.0))  # type: ignore[union-attr]
    outcome = subject.finish(now=701.0, uplink_bytes=0)
    assert outcome.seconds == 1.0
    assert outcome.waited_s >= 600.0
    assert outcome.snapshot.wall_s == before.wall_s + outcome.waited_s + 1.0


def test_a_device_that_came_back_too_late_for_a_layer_is_not_taken_for_lost() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    plan = subject.begin(now=0.0)
    subject.went("two", now=0.0, patience_s=0.0)
    deliver(subject, plan, {"one": 1.0})
    subject.close(subject.round.ready(now=1.0))  # type: ignore[union-attr]
    subject.came("two")
    subject.report("two", Report(epoch=9, round=plan.round, steps=5, loss=1.0, accuracy=0.5, step_s=0.1))
    subject.finish(now=2.0, uplink_bytes=0)
    assert subject.accepted == 2


def test_a_vanished_device_is_waited_for_across_the_rounds_of_a_cycle() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    play(subject, {"one": 1.0, "two": 1.0})
    subject.went("two", now=1.0, patience_s=10.0)
    plan = subject.begin(now=2.0)
    deliver(subject, plan, {"one": 1.0})
    assert subject.round is not None
    assert subject.round.ready(now=10.9) == ()
    assert subject.round.ready(now=11.0) == (0, 1, 2)


def test_updates_between_rounds_and_reports_of_strangers_change_nothing() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    with pytest.raises(RejectedUpdate, match="round"):
        subject.receive(Update("one", 0, 9, 0, 0, 1.0, np.zeros(1, np.float32)))
    report = Report(epoch=9, round=0, steps=5, loss=1.0, accuracy=0.5, step_s=0.1)
    subject.begin(now=0.0)
    subject.report("stranger", report)
    subject.report("one", msgspec.structs.replace(report, epoch=8))
    assert subject.round is not None
    assert subject.round.reports == {}
    subject.report("one", report)
    assert set(subject.round.reports) == {"one"}


def test_the_next_plan_says_what_was_not_folded() -> None:
    subject = with_devices(federation(), one=100.0, two=100.0)
    plan = subject.begin(now=0.0)
    assert plan.unfolded == {}
    deliver(subject, plan, {"one": 1.0})
    subject.close(subject.round.ready(now=600.0))  # type: ignore[union-attr]
    subject.finish(now=600.0, uplink_bytes=0)
    subject.came("two")
    assert subject.begin(now=601.0).unfolded == {"two": (0, 1, 2)}


def test_a_device_that_lacks_the_codec_is_told_to_use_another() -> None:
    wire = Wire(update_codec="int8", small_codec="float32", small_elements=3, fallback_codec="float16")
    subject = federation(msgspec.structs.replace(SETTINGS, wire=wire))
    for name, codecs in (("new", ("int8", "float32")), ("old", ("float16", "float32"))):
        subject.register(profile(name, codecs=codecs))
        subject.came(name)
    plan = subject.begin(now=0.0)
    assert plan.codecs == {"old": "float16"}
    assert [plan.codec_of("new", elements) for elements in (1, 2, 3, 400)] == ["float32", "float32", "int8", "int8"]
    assert [plan.codec_of("old", elements) for elements in (1, 400)] == ["float16", "float16"]


def test_what_the_bundles_graphs_lack_is_refused_with_what_to_do() -> None:
    for local, words in (
        (Local(proximal=0.1), r"local\.proximal: .* lamina bundle --proximal"),
        (Local(clip_norm=1.0), r"local\.clip_norm: .* lamina bundle --clip"),
    ):
        with pytest.raises(ConfigError, match=words):
            federation(msgspec.structs.replace(SETTINGS, local=local))
    wrong = msgspec.structs.replace(SETTINGS.training, hyperparameters={"beta1": 0.9})
    with pytest.raises(ConfigError, match="beta1: sgd has lr, momentum"):
        federation(msgspec.structs.replace(SETTINGS, training=wrong))


def test_without_a_rate_the_bundles_own_is_taken() -> None:
    subject = federation(msgspec.structs.replace(SETTINGS, training=Training(rounds=4, lr_decay_at=(0.5,))))
    assert [subject.hyperparameters(round_)["lr"] for round_ in (0, 2)] == [0.5, 0.05]
