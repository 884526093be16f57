"""The path from a drawer of boards to a model on them, as its script walks it: real processes, TLS, mosquitto."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.ten_minutes import BOARDS, Path10

pytestmark = [pytest.mark.exhaustive, pytest.mark.broker]


def test_three_boards_join_train_get_the_model_and_predict(mosquitto_program: str, tmp_path: Path) -> None:
    path = Path10(tmp_path, rounds=2)
    steps = path.walk()
    assert [step.name for step in steps if not step.typed] == []
    assert sum(len(step.typed) for step in steps) < 20
    assert path.said.startswith("seven.npy: ")
    for board in BOARDS:
        assert (tmp_path / board / "state" / "deployed" / "shelf.json").exists()
