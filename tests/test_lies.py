"""Devices that lie: about their weight, by huge numbers, about who they are; and what is left of their lies."""

import msgspec
import numpy as np
import pytest

from lamina.broker.wire.messages import Report
from lamina.coordinator.folds.aggregate import FOLDS, rule
from lamina.coordinator.folds.mean import LayerFold
from lamina.coordinator.rounds.federation import Federation
from lamina.coordinator.rounds.norms import bounds, remembered
from lamina.coordinator.rounds.round import PartialUpdate, Update
from lamina.coordinator.settings import Aggregation, Cohorts, Devices, FederationSettings
from lamina.models.errors import ConfigError, RejectedUpdate
from tests.test_federation import SETTINGS, SPEC, deliver, federation, profile, with_devices


def update(subject: Federation, device: str, delta: float, weight: float = 1.0, layer: int = 2) -> Update:
    assert subject.round is not None
    plan = subject.round.plan
    vector = np.full(SPEC.layers[layer].vector_size, delta, np.float32)
    return Update(device, layer, 9, plan.round, plan.versions[layer], weight, vector)


def begun(settings: FederationSettings = SETTINGS) -> Federation:
    subject = with_devices(federation(settings), ann=100.0, bob=100.0)
    subject.begin(0.0)
    return subject


def with_(**tables: msgspec.Struct) -> FederationSettings:
    return msgspec.structs.replace(SETTINGS, **tables)


# Weights.


@pytest.mark.parametrize("weight", [0.5, 2.0, 8.0, 2.0**29])
def test_under_uniform_weighting_no_weight_but_1_is_believed(weight: float) -> None:
    with pytest.raises(RejectedUpdate, match="weight: ann claims the weight"):
        begun().receive(update(begun(), "ann", 0.1, weight))


def test_by_examples_the_weight_is_what_the_profile_said() -> None:
    subject = begun(with_(aggregation=Aggregation(phi=2, weighting="num_examples")))
    subject.receive(update(subject, "ann", 0.1, 8.0))  # every profile here has 8 examples
    for weight in (1.0, 9.0, 2.0**29):
        with pytest.raises(RejectedUpdate, match="weight"):
            subject.receive(update(subject, "bob", 0.1, weight))


def test_a_weight_in_a_partial_is_checked_as_one_that_came_by_itself() -> None:
    subject, fold = begun(), LayerFold(4, 4)
    fold.add("ann", np.ones(4, np.float32), 2.0)
    assert subject.round is not None
    with pytest.raises(RejectedUpdate, match="weight"):
        subject.round.receive_partial(partial_of(subject, fold))


def partial_of(subject: Federation, fold: LayerFold) -> PartialUpdate:
    assert subject.round is not None
    plan = subject.round.plan
    return PartialUpdate("barn", 2, 9, plan.round, plan.versions[2], fold.partial())


# Norms.


@pytest.mark.parametrize("fold", sorted(FOLDS))
@pytest.mark.parametrize("delta", [1e3, 1e6, 1e30])
def test_an_update_far_out_of_proportion_is_refused_from_the_first_round_on(fold: str, delta: float) -> None:
    subject = begun(with_(aggregation=Aggregation(phi=2, fold=fold)))
    with pytest.raises(RejectedUpdate, match=r"norm|out_of_bounds"):
        subject.receive(update(subject, "ann", delta))
    subject.receive(update(subject, "ann", 0.5))  # nothing of it was kept: an honest one counts


def test_later_updates_are_measured_by_the_recent_ones() -> None:
    subject = with_devices(federation(), ann=100.0, bob=100.0)
    plan = subject.begin(0.0)
    deliver(subject, plan, {"ann": 0.5, "bob": 0.5})
    assert subject.round is not None
    subject.close(subject.round.ready(1.0))
    subject.finish(1.0, 0)
    subject.begin(1.0)
    layer = subject.round.plan.due[0]
    with pytest.raises(RejectedUpdate, match=r"norm: ann: its parameters have the norm .* of at most"):
        subject.receive(update(subject, "ann", 60.0, layer=layer))
    subject.receive(update(subject, "ann", 5.0, layer=layer))


def test_what_counts_as_recent_outlives_a_restart() -> None:
    first = with_devices(federation(), ann=100.0, bob=100.0)
    deliver(first, first.begin(0.0), {"ann": 0.5, "bob": 0.5})
    assert first.round is not None
    first.close(first.round.ready(1.0))
    snapshot = first.finish(1.0, 0).snapshot
    again = with_devices(federation(snapshot=snapshot), ann=100.0, bob=100.0)
    assert again.begin(2.0).norm_bounds == first.begin(2.0).norm_bounds


def test_the_bound_can_be_switched_off() -> None:
    subject = begun(with_(aggregation=Aggregation(phi=2, norm_bound=0)))
    assert subject.round is not None
    assert subject.round.plan.norm_bounds == ()
    subject.receive(update(subject, "ann", 1e6))


def test_a_minority_moves_no_bound() -> None:
    values = [np.ones(layer.vector_size, np.float32) for layer in SPEC.layers]
    quiet = remembered((), {2: (0.1, 0.0)}, 3)
    assert remembered(quiet, {2: (0.01, 0.0)}, 3)[2] == (0.05, 0.0)  # it fades, and doesn't fall
    assert bounds(100.0, SPEC, values, quiet)[2][0] == pytest.approx(10.0)  # a hundred times the median
    fold = rule("mean")(4, 4, most=(np.inf, np.inf))
    for device, delta in {"a": 0.1, "b": 0.1, "c": 0.1, "liar": 1000.0}.items():
        fold.add(device, np.full(4, delta, np.float32), 1.0)
    assert fold.finish(np.zeros(4, np.float32)).norms[0] == pytest.approx(0.2)  # of the honest ones


def test_statistics_are_bounded_apart_from_parameters() -> None:
    subject = begun()
    vector = np.array([0.1, 0.1, 1e6, 1e6], np.float32)  # two parameters, two running means
    assert subject.round is not None
    plan = msgspec.structs.replace(subject.round.plan, due=(1,))
    fold = LayerFold(4, 2, most=plan.norm_bounds[1])
    with pytest.raises(RejectedUpdate, match="norm: ann: its statistics"):
        fold.add("ann", vector, 1.0)
    fold.add("ann", np.array([0.1, 0.1, 5e3, 5e3], np.float32), 1.0)  # what a first round of unscaled data may bring


# Refused again and again.


def test_a_device_is_put_aside_after_so_many_refusals_and_no_longer_waited_for() -> None:
    subject = begun(with_(devices=Devices(put_aside_after=3)))
    assert subject.round is not None
    assert subject.refused("ann", "norm") is None
    assert subject.refused("ann", "stale") is None  # it is merely late
    assert subject.refused("ann", "weight") is None
    assert subject.refused("ann", "undecodable") is None  # anybody's noise
    task = subject.refused("ann", "not_finite")
    assert task is not None
    assert not task.accepted
    assert "put aside after 3 updates" in task.reason
    assert subject.refused("ann", "norm") is None  # it is said once
    subject.came("ann")
    for layer in subject.round.plan.due:
        subject.receive(update(subject, "bob", 0.1, layer=layer))
    subject.report("bob", Report(epoch=9, round=0, steps=5, loss=1.0, accuracy=0.5, step_s=0.1))
    subject.close(subject.round.ready(1.0))
    assert subject.round.done(1.0)


def test_a_stranger_who_writes_noise_below_a_name_gets_no_device_put_aside() -> None:
    subject = begun(with_(devices=Devices(put_aside_after=20)))
    for reason in ("undecodable", "stale", "late", "stranger", "not_due"):
        assert [subject.refused("ann", reason) for _ in range(1000)] == [None] * 1000
    assert subject.devices["ann"].task.accepted


def test_who_was_put_aside_stays_aside_when_it_registers_again_and_after_a_restart() -> None:
    subject = begun(with_(devices=Devices(put_aside_after=1)))
    assert subject.refused("ann", "norm") is not None
    assert not subject.register(profile("ann")).accepted
    records = {record.id: record for record in subject.device_records()}
    assert (records["ann"].accepted, records["ann"].refused, records["bob"].refused) == (False, 1, 0)
    snapshot = msgspec.structs.replace(subject.snapshot, devices=subject.device_records())
    again = federation(subject.settings, snapshot)
    assert "put aside" in again.register(profile("ann")).reason
    assert again.register(profile("bob")).accepted


def test_0_puts_nobody_aside() -> None:
    subject = begun(with_(devices=Devices(put_aside_after=0)))
    assert [subject.refused("ann", "norm") for _ in range(1000)] == [None] * 1000


# Who may come.


def test_only_those_that_are_allowed_may_come() -> None:
    subject = federation(with_(devices=Devices(allow=("ann", "barn-*"))))
    assert subject.register(profile("ann")).accepted
    assert subject.register(profile("barn-7")).accepted
    for name in ("bob", "ann2", "a-barn-7"):
        task = subject.register(profile(name))
        assert (task.accepted, task.reason) == (False, f"{name} is not among devices.allow of federation.toml")
    assert sorted(subject.devices) == ["ann", "barn-7"]


def test_thousands_of_false_profiles_take_bounded_room_and_nobodys_place() -> None:
    subject = with_devices(federation(with_(cohorts=Cohorts(min_devices=2, max_devices=10))), ann=100.0, bob=100.0)
    for index in range(5000):
        name = f"fake-{index}"
        subject.came(name)
        accepted = subject.register(profile(name)).accepted
        assert accepted == (index < 8)
        subject.went(name, 0.0, 0.0)
    assert len(subject.devices) == len(subject.device_records()) == 10
    assert len(subject._attendance.awaited(-1.0)) <= 10
    assert subject.register(profile("ann")).accepted
    assert "cohorts.max_devices" in subject.register(profile("late")).reason


def test_those_who_never_register_take_bounded_room() -> None:
    subject = federation(with_(cohorts=Cohorts(min_devices=2, max_devices=10)))
    for index in range(5000):
        subject.came(f"fake-{index}")
    assert subject._registry.online <= 20
    assert subject.register(profile("ann")).accepted
    assert subject.came("ann")


# Folds against attacks, and what is checked when settings are read.

HONEST = np.random.default_rng(1).normal(0.01, 0.002, (9, 500)).astype(np.float32)
ATTACKS = {
    "sign flip": lambda honest: -10 * honest,
    "scale": lambda honest: 50 * honest,
    "noise": lambda honest: np.random.default_rng(2).normal(0, 0.5, honest.shape).astype(np.float32),
}


def error_of(fold: str, attack: str, liars: int) -> float:
    """How far the average is from the honest one, in its norms; some of nine devices attack."""
    subject = rule(fold)(500, 500)
    for index, honest in enumerate(HONEST):
        sent = ATTACKS[attack](honest) if index < liars else honest
        subject.add(f"device-{index}", sent.astype(np.float32), 1.0)
    truth = HONEST.mean(axis=0)
    average = subject.finish(np.zeros(500, np.float32)).value
    return float(np.linalg.norm(average - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_a_single_liar_of_nine_ruins_a_mean(attack: str) -> None:
    assert error_of("mean", attack, 1) > 1.0


@pytest.mark.parametrize("fold", ["median", "trimmed_mean"])
@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_a_single_liar_of_nine_hardly_moves_a_robust_fold(fold: str, attack: str) -> None:
    assert error_of(fold, attack, 1) < 0.15


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_clipping_leaves_a_liar_the_share_of_one_device(attack: str) -> None:
    assert error_of("clipped_mean", attack, 1) < 0.35


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_the_median_bears_four_liars_of_nine(attack: str) -> None:
    assert error_of("median", attack, 4) < 0.5


def test_a_misspelt_fold_fails_when_the_settings_are_read() -> None:
    with pytest.raises(ConfigError, match=r"aggregation.fold: no rule 'medain'; did you mean 'median'\?"):
        Aggregation(fold="medain")


@pytest.mark.parametrize("factor", [-1.0, 0.5, 1.0, float("inf"), float("nan")])
def test_a_norm_bound_that_means_nothing_fails_when_the_settings_are_read(factor: float) -> None:
    with pytest.raises(ConfigError, match=r"aggregation\.norm_bound"):
        Aggregation(norm_bound=factor)
