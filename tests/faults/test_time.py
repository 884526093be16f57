"""What takes long and what must not: deaths, links that hang or are cut, devices that are slow or of no use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lamina.emulation.rig.program import wait_until
from lamina.emulation.rig.proxy import Proxy
from tests.faults.conftest import MakeRig

QUICK: dict[str, dict[str, Any]] = {
    "training": {"rounds": 10, "local_steps": 200, "lr": 0.05},
    "aggregation": {"phi": 1},
}
HOUR_S = 3600  # nothing in these tests may wait so long


def settings(**tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: {**QUICK.get(name, {}), **tables.get(name, {})} for name in {*QUICK, *tables}}


def test_after_a_board_died_for_ever_no_cycle_waits_for_it(rig: MakeRig) -> None:
    run = rig(settings=settings(training={"rounds": 40}, deadlines={"round_s": HOUR_S, "lost_s": 1}))
    run.start()
    run.wait_for_round(3)
    run.agents[2].kill()
    assert run.wait_for_end() == 0
    assert run.rows[-1]["cohort"] == "device-1"


def test_a_deadline_is_kept_while_the_coordinators_link_hangs_and_the_round_is_not_lost(rig: MakeRig) -> None:
    undisturbed = rig(settings=settings())
    undisturbed.start()
    assert undisturbed.wait_for_end() == 0
    hung = rig(settings=settings(training={"local_steps": 3000}, deadlines={"round_s": 4, "broker_s": 0}))
    with Proxy(hung.broker.port) as proxy:
        hung.coordinator_port = proxy.port
        hung.start()
        hung.wait_for_round(3)
        proxy.freeze()
        wait_until(lambda: "nobody delivered in round" in hung.coordinator.words, what="the deadline of a round")
        proxy.thaw()
        assert hung.wait_for_end() == 0
    assert [int(row["round"]) for row in hung.rows] == list(range(10))
    assert all(row["updates"] == row["expected"] for row in hung.rows)


def test_a_link_that_lives_two_seconds_still_brings_a_federation_to_its_end(rig: MakeRig) -> None:
    undisturbed = rig(settings=settings())
    undisturbed.start()
    assert undisturbed.wait_for_end() == 0
    cut = rig(settings=settings(deadlines={"round_s": HOUR_S, "lost_s": 60, "broker_s": 0}))
    with Proxy(cut.broker.port, seed=1) as proxy:
        cut.coordinator_port = cut.agent_port = proxy.port
        proxy.cut_after(0.3, 2.0)
        cut.start()
        assert cut.wait_for_end(500) == 0
    assert cut.model == undisturbed.model


def test_a_coordinator_whose_link_is_cut_does_not_send_the_bundle_again(rig: MakeRig) -> None:
    run = rig(settings=settings(training={"rounds": 20, "local_steps": 3000}))
    bundle_bytes = sum(path.stat().st_size for path in run.bundle.rglob("*") if path.is_file())
    with Proxy(run.broker.port) as proxy:
        run.coordinator_port = proxy.port
        run.start()
        run.wait_for_round(2)
        before = proxy.carried_bytes
        for rounds in (3, 4, 5):
            proxy.cut()
            run.wait_for_round(rounds + 1)
        assert proxy.carried_bytes - before < bundle_bytes
        run.coordinator.kill()
        before = proxy.carried_bytes
        run.start_coordinator()
        run.wait_for_round(8)
        assert proxy.carried_bytes - before < bundle_bytes


SLOW = """
import sys, time
import lamina.edge_agent.training.learner as module
train = module.Learner.train
def slow_train(self, plan, *args, stop=None, **options):
    until = time.monotonic() + {seconds}
    while time.monotonic() < until:
        if stop is not None and stop():
            return None
        time.sleep(0.05)
    return train(self, plan, *args, stop=stop, **options)
module.Learner.train = slow_train
from lamina.edge_agent.cli import main
sys.exit(main())
"""


def slow_agent(folder: Path, seconds: float) -> list[str]:
    """A program that trains so much longer."""
    file = folder / "slow_agent.py"
    file.write_text(SLOW.format(seconds=seconds), encoding="utf-8")
    return [sys.executable, "-P", str(file), "--config"]


def test_a_device_that_misses_deadlines_is_named_and_tried_again(rig: MakeRig) -> None:
    run = rig(settings=settings(training={"rounds": 8}, deadlines={"round_s": 5}))
    run.agent(2, program=slow_agent(run.folder, 3600)).start()
    run.agent(1).start()
    run.start_coordinator()
    assert run.wait_for_end() == 0
    assert "device-2 still owed something when the deadline of round 0 passed" in run.coordinator.words
    cohorts = [row["cohort"].count("device-2") for row in run.rows]
    assert cohorts == [1, 0, 1, 0, 0, 0, 1, 0]


def test_rounds_in_which_nobody_delivered_do_not_count(rig: MakeRig) -> None:
    run = rig(settings=settings(training={"rounds": 3}, deadlines={"round_s": 4}))
    for index in (1, 2):
        run.agent(index, program=slow_agent(run.folder, 6)).start()
    run.start_coordinator()
    assert run.wait_for_end() == 0
    assert "it does not count, and is planned again" in run.coordinator.words
    assert [(row["updates"], row["expected"]) for row in run.rows] == [("6", "6")] * 3


def test_while_it_waits_it_says_for_whom_who_was_refused_and_what_would_help(rig: MakeRig) -> None:
    run = rig(devices=2, settings=settings())
    run.start_coordinator()
    wait_until(lambda: "waiting for devices: 0 of 2 are here" in run.coordinator.words)
    run.agent(1, budget_mib=1).start()
    wait_until(lambda: "refused: device-1 (a budget of 1.0 MiB is too small" in run.coordinator.words)
    assert "start lamina-agent on more devices, or lower cohorts.min_devices" in run.coordinator.words
