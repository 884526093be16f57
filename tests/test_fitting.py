"""Which plan to train fits a budget: a larger sub-model first, then a faster plan; and why."""

import math

import pytest
from msgspec.structs import replace

from lamina.models.fitting import SAVINGS, MemoryPlan, choose, choose_plan, memory_plans, with_forms_that_fit
from lamina.models.manifest import Cost, FileEntry, GraphsOfEngine, Manifest, SubModel
from lamina.models.spec import BlockSpec, LayerSpec, ModelSpec, TensorSpec

FILE = FileEntry("0" * 64, 0, ".onnx")


def manifest_of(*, statistics: bool = False, predicted: bool = True) -> Manifest:
    """Three cuts of measured 64, 40 and 12 MiB; in parts a sample takes 1 MiB, recomputing half of that."""
    moving = (TensorSpec("m", (1,), "statistic"),) if statistics else ()
    spec = ModelSpec(
        "three",
        tuple(LayerSpec(name, (TensorSpec(name, (1,), "kernel"),), moving) for name in "abc"),
        tuple(BlockSpec(name, index, index + 1, (1,)) for index, name in enumerate("abc")),
        cuts=(0, 1, 2),
        classes=2,
    )
    peaks = {0: 64.0, 1: 40.0, 2: 12.0}
    sub_models = tuple(
        SubModel(
            cut,
            FILE,
            7,
            7,
            1.0,
            peak,
            cost=Cost(peak - 36, 4.0, ((1, 1.0), (32, 32.0))) if predicted else None,
            cost_in_parts=Cost(peak - 26, 4.0, ((1, 1.0), (32, 32.0))) if predicted and cut < 2 else None,
            cost_recomputing=Cost(peak - 26, 4.0, ((1, 0.5), (32, 16.0))) if predicted and cut < 2 else None,
        )
        for cut, peak in peaks.items()
    )
    return Manifest(
        spec=spec,
        batch_size=32,
        sub_models=sub_models,
        pieces=(),
        inference=FILE,
        values=FILE,
        optimiser="sgd",
        optimiser_state=(),
        hyperparameters={"lr": 0.1},
    )


def tried(manifest: Manifest, cut: int = 0, **changes: object) -> list[tuple[int, bool]]:
    return [(plan.micro_batch, plan.checkpoints) for plan in memory_plans(manifest, manifest.sub_model(cut), **changes)]  # type: ignore[arg-type]


def test_a_batch_at_once_then_smaller_parts_then_recomputation() -> None:
    small = [(size, False) for size in (16, 8, 4, 2, 1)]
    again = [(size, True) for size in (32, 16, 8)]  # what is kept of four samples or fewer is not worth the time
    assert tried(manifest_of()) == [(0, False), *small, *again]
    assert tried(manifest_of(), savings=("micro_batches",)) == [(0, False), *small]
    assert tried(manifest_of(), savings=("recomputation",)) == [(0, False), (32, True)]
    assert tried(manifest_of(), savings=()) == tried(manifest_of(predicted=False)) == [(0, False)]


def test_a_batch_norm_does_not_learn_from_fewer_than_eight() -> None:
    manifest = manifest_of(statistics=True)
    assert tried(manifest) == [(0, False), (16, False), (8, False), (32, True), (16, True), (8, True)]
    assert tried(replace(manifest, batch_size=6)) == [(0, False), (6, True)]


@pytest.mark.parametrize(
    ("budget_mib", "plan"),
    [
        (64.0, MemoryPlan(0, 0)),
        (63.9, MemoryPlan(0, 16)),
        (45.2, MemoryPlan(0, 1)),
        (44.0, MemoryPlan(1, 0)),
        (39.0, MemoryPlan(1, 16)),
        (12.0, MemoryPlan(2, 0)),
    ],
)
def test_a_larger_sub_model_goes_before_a_faster_plan(budget_mib: float, plan: MemoryPlan) -> None:
    found = choose(manifest_of(), budget_mib).plan
    assert found is not None
    assert (found.cut, found.micro_batch, found.checkpoints) == (plan.cut, plan.micro_batch, plan.checkpoints)
    assert found.peak_mib <= budget_mib


def test_where_micro_batches_end_activations_are_computed_again() -> None:
    found = choose(manifest_of(statistics=True), 49.0).plan
    assert found is not None
    assert (found.cut, found.micro_batch, found.checkpoints) == (0, 8, True)


@pytest.mark.parametrize("budget_mib", [64.0, 63.9, 50.0, 45.0, 39.0, 20.0, 12.0])
def test_a_device_comes_to_the_coordinators_choice(budget_mib: float) -> None:
    coordinators = choose(manifest_of(), budget_mib).plan
    assert coordinators is not None
    assert choose_plan(manifest_of(), coordinators.cut, budget_mib).plan == coordinators


@pytest.mark.parametrize(("budget_mib", "cut"), [(100, 0), (64.0, 0), (63.9, 1), (40.0, 1), (12.0, 2)])
def test_without_savings_the_largest_sub_model_whose_measured_peak_fits(budget_mib: float, cut: int) -> None:
    found = choose(manifest_of(), budget_mib, ()).plan
    assert found == MemoryPlan(cut, peak_mib={0: 64.0, 1: 40.0, 2: 12.0}[cut])


def test_the_choice_says_why() -> None:
    manifest = manifest_of()
    assert choose(manifest, 100).reason == "trains the whole network: 64.0 MiB fits the budget of 100.0 MiB"
    assert choose(manifest, 50, ()).reason == (
        "trains layers from cut 1 on: 40.0 MiB fits the budget of 50.0 MiB, and cut 0 would need 64.0 MiB"
    )
    assert choose(manifest, 61).reason == (
        "trains the whole network in micro-batches of 16: 60.9 MiB fits the budget of 61.0 MiB, "
        "and a batch at once would need 64.0 MiB"
    )
    assert "micro-batches of 8, with recomputation" in choose(manifest_of(statistics=True), 49).reason


def test_a_prediction_below_the_measured_peak_is_raised_by_as_much() -> None:
    manifest = manifest_of()
    higher = [replace(each, peak_mib=2 * each.peak_mib) for each in manifest.sub_models]
    before, after = (
        [plan.peak_mib for plan in memory_plans(each, each.sub_model(0))]
        for each in (manifest, replace(manifest, sub_models=tuple(higher)))
    )
    assert after[0] == 2 * before[0]
    assert after[1:] == pytest.approx([2 * peak for peak in before[1:]], abs=0.2)


@pytest.mark.parametrize("budget_mib", [11.9, 0.0, -1.0, math.nan])
def test_a_budget_under_the_smallest_plan_is_refused_by_the_coordinator_and_warned_of_by_a_device(
    budget_mib: float,
) -> None:
    choice = choose(manifest_of(), budget_mib)
    assert choice.plan is None
    assert "the smallest sub-model (cut 2, batches at once) needs 12.0 MiB" in choice.reason
    assert "raise the device's budget_mib" in choice.reason
    least = choose_plan(manifest_of(), 1, budget_mib)
    assert least.plan is not None
    assert least.plan.micro_batch == 1
    assert "no way to train cut 1 fits" in least.reason


def test_a_bundle_without_sub_models_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="no sub-models"):
        choose(replace(manifest_of(), sub_models=()), 10.0)


def test_a_cost_lies_on_lines_between_and_beyond_its_points() -> None:
    cost = Cost(10.0, 5.0, ((1, 1.0), (2, 4.0), (4, 6.0)))
    assert [cost.peak_mib(samples) for samples in (1, 2, 3, 4, 6)] == [16.0, 19.0, 20.0, 21.0, 23.0]
    assert Cost(10.0, 5.0, ((1, 1.0),)).peak_mib(7) == 16.0
    assert SAVINGS == ("micro_batches", "recomputation")


@pytest.mark.parametrize(
    ("budget_mib", "fitting"),
    [(64.0, set()), (80.0, {"equal", "smaller"}), (100.0, {"equal", "smaller", "larger"})],
)
def test_a_form_is_run_only_where_the_budget_has_room_for_what_it_takes_more(
    budget_mib: float, fitting: set[str]
) -> None:
    manifest = manifest_of()
    whole = manifest.sub_model(0)
    costs = {"smaller": 0.9, "equal": 1.0, "larger": 1.2}
    forms = {
        form: GraphsOfEngine(FILE, FILE, Cost(28 * more, 4 * more, ((32, 32 * more),)), whole.cost_in_parts)
        for form, more in costs.items()
    } | {"untold": GraphsOfEngine(FILE, FILE)}
    manifest = replace(manifest, sub_models=(replace(whole, forms=forms), *manifest.sub_models[1:]))
    affordable = with_forms_that_fit(manifest, MemoryPlan(0, peak_mib=64.0), budget_mib)
    assert affordable.sub_model(0).forms.keys() == fitting
    assert affordable.sub_model(1) == manifest.sub_model(1)
    in_parts = with_forms_that_fit(manifest, MemoryPlan(0, 16, peak_mib=60.0), 80.0)
    assert in_parts.sub_model(0).forms.keys() == {"smaller", "equal", "larger"}
