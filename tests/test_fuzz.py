"""A small part of the fuzzing, the same inputs at every run: nothing but declared errors."""

import pytest

from tests.fuzz.__main__ import fuzzed
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_spoilt_inputs_end_in_declared_errors_and_some_are_taken(name: str) -> None:
    counts, failures = fuzzed(1500, 7, [name])
    assert failures == []
    assert counts[name] == 1500
    assert 0 < counts[f"{name} taken"] < 1500
