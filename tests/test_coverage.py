"""A fixed sample of torch's own module and operator databases trains as torch trains it; all of them, every night."""

import warnings
from collections import Counter

import pytest

from benchmarks.coverage import __main__ as coverage
from benchmarks.coverage.isolation import isolated
from benchmarks.coverage.judge import Verdict
from benchmarks.coverage.modules import cases, judged_module
from benchmarks.coverage.operators import entries, entry_name, judged_operator, means_something

MODULES = ("nn.AdaptiveMaxPool2d[1]", "nn.AvgPool2d[1]", "nn.GroupNorm[0]", "nn.SmoothL1Loss[0]", "nn.HuberLoss[0]")
OPERATORS = (
    *("argmin", "softmax", "clamp", "cummax", "__getitem__", "scatter_reduce.mean", "cdist", "sort", "atan2", "erfinv"),
    *("median", "roll", "diagonal", "nn.functional.grid_sample", "nn.functional.conv_transpose3d", "logcumsumexp"),
)
REFUSED = {"nn.functional.grid_sample": 1}  # volumes


@pytest.fixture(scope="module", autouse=True)
def _quiet_databases() -> None:
    """Torch's databases warn while they are loaded."""
    with warnings.catch_warnings(action="ignore"):
        entries()
        next(cases())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODULES)
def test_modules_train_as_torch_trains_them(name: str) -> None:
    entry, sample = next((entry, sample) for known, entry, sample in cases() if known == name)
    assert judged_module(entry, sample) == [Verdict("right")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_train_as_torch_trains_them(name: str) -> None:
    entry = next(entry for entry in entries() if entry_name(entry) == name)
    assert means_something(entry)
    verdicts = Counter(verdict.status for verdict in judged_operator(entry))
    assert verdicts["right"] > 0
    assert verdicts == Counter(right=verdicts["right"], refused=REFUSED.get(name, 0))


def test_what_kills_a_case_is_its_verdict() -> None:
    def deadly() -> list[Verdict]:
        raise SystemExit(3)

    (verdict,) = isolated(deadly)
    assert verdict.status == "crashed"
    assert "SystemExit" in verdict.why


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_no_sample_of_the_databases_is_wrong_or_crashes() -> None:
    modules = coverage.counted(list(coverage.module_cases()), None)
    operators = coverage.counted(list(coverage.operator_cases()), None)
    for counts, goal in ((modules, 0.95), (operators, 0.85)):
        assert not counts["wrong"]
        assert not counts["crashed"]
        assert counts["right"] / sum(counts.values()) >= goal
