"""Power cuts at every write of some runs; ``python -m emulation.faults.power_cuts --cuts 10000`` tries many more."""

import pytest

from lamina.coordinator.records import store
from lamina.emulation.faults.power_cuts import Broken, Cutter, main


def test_power_cuts_leave_what_was_committed_and_never_a_mixture(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cuts", "400", "--seed", "1000"]) == 0
    assert "0 mixtures, 0 rows lost" in capsys.readouterr().out


def test_a_store_that_forgets_to_sync_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(self: store.Store, pinned: object = None, first: object = None) -> None:
        """Says that all is settled, and does nothing."""

    monkeypatch.setattr(store.Store, "settle", settle)
    with pytest.raises(Broken, match=r"seed \d+, stop after \d+ changes: .*was settled"):
        _many_cuts()


def _many_cuts() -> None:
    cutter = Cutter()
    for seed in range(100):
        cutter.seed(seed, most_cuts=400)
