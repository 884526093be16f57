"""What is on the disk survives real kills and damage, and is there for the commands that export and roll back."""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import wait_until
from tests.faults.conftest import MakeRig

ROUNDS = 10


def settings(data: list[Path], **tables: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rounds of some ten milliseconds, evaluated on one device's samples."""
    own: dict[str, dict[str, Any]] = {
        "training": {"rounds": ROUNDS, "local_steps": 200, "lr": 0.05, "hyperparameters": {"momentum": 0.9}},
        "aggregation": {"phi": 2},
        "deadlines": {"round_s": 3600, "lost_s": 120},
        "evaluation": {"data": str(data[0])},
    }
    return {name: own.get(name, {}) | tables.get(name, {}) for name in own | tables}


def lamina(rig: Rig, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    toml = str(rig.folder / "federation.toml")
    program = [sys.executable, "-P", "-m", "lamina.coordinator.cli", command, toml, *arguments]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def timeless(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Records without what may differ from run to run: how long it took, and what repeats added to the bytes."""
    kept = ("round", "cycle", "cohort", "due", "updates", "expected", "rejected", "lr", "loss", "accuracy", "c_ratio")
    return [{name: row[name] for name in kept} for row in rows]


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def commits(rig: Rig) -> list[Path]:
    return sorted((rig.run_folder / "state").glob("*.commit"))


def test_kills_while_rounds_are_recorded_lose_no_row_and_no_bit(rig: MakeRig, fault_data: list[Path]) -> None:
    undisturbed, killed = rig(settings=settings(fault_data)), rig(settings=settings(fault_data))
    undisturbed.start()
    assert undisturbed.wait_for_end() == 0
    killed.start()
    draw = random.Random(3)
    for rounds in (1, 3, 4, 6, 8):
        killed.wait_for_round(rounds)
        time.sleep(draw.random() * 0.05)
        killed.coordinator.kill()
        killed.start_coordinator()
    assert killed.wait_for_end() == 0
    assert killed.model == undisturbed.model
    assert timeless(killed.rows) == timeless(undisturbed.rows)
    cycles = [(each.run_folder / "cycles.jsonl").read_bytes() for each in (killed, undisturbed)]
    assert cycles[0] == cycles[1]


def test_torn_and_missing_records_are_made_anew(rig: MakeRig, fault_data: list[Path]) -> None:
    run = rig(settings=settings(fault_data))
    run.start()
    run.wait_for_round(5)
    run.coordinator.kill()
    rounds = run.run_folder / "rounds.csv"
    lines = rounds.read_bytes().splitlines(keepends=True)
    rounds.write_bytes(b"".join(lines[:-1]) + lines[-1][:1])
    (run.run_folder / "cycles.jsonl").unlink()
    run.start_coordinator()
    assert run.wait_for_end() == 0
    assert [row["round"] for row in run.rows] == [str(round_) for round_ in range(ROUNDS)]
    assert all(row["accuracy"] for row in run.rows)
    assert (run.run_folder / "cycles.jsonl").read_bytes().count(b"\n") == ROUNDS // 2


@pytest.mark.parametrize(
    ("which", "phi"),
    [
        ("newest", 1),
        ("newest", 5),
        ("newest is empty", 2),
        ("newest is missing", 2),
        ("oldest", 2),
        ("cycle's end", 2),
    ],
)
def test_a_damaged_commit_is_named_and_the_one_before_is_used(
    rig: MakeRig, fault_data: list[Path], which: str, phi: int
) -> None:
    undisturbed = rig(settings=settings(fault_data, aggregation={"phi": phi}))
    run = rig(settings=settings(fault_data, aggregation={"phi": phi}))
    for each in (undisturbed, run):
        each.start()
    run.wait_for_round(7)
    time.sleep(0.05)  # devices are in the next round: what the coordinator then says again must count again
    run.coordinator.kill()
    files = commits(run)
    ends = [path for path in files if int(path.stem) % phi == 0]
    hurt = {"oldest": files[0], "cycle's end": ends[-1]}.get(which, files[-1])
    if which == "newest is empty":
        hurt.write_bytes(b"")
    elif which == "newest is missing":
        hurt.unlink()
    else:
        damage(hurt)
    run.start_coordinator()
    assert run.wait_for_end() == 0
    assert undisturbed.wait_for_end() == 0
    went_on_after = int(re.findall(r"going on after round (\d+) of", run.coordinator.words)[-1])
    if went_on_after % phi == 0:  # within a cycle, devices are ahead, and begin it afresh
        assert run.model == undisturbed.model
    assert (f"{hurt.name} (damaged)" in run.coordinator.words) == (which != "newest is missing")
    assert [row["round"] for row in run.rows] == [str(round_) for round_ in range(ROUNDS)]


def test_a_finished_run_that_is_started_again_keeps_its_summary(rig: MakeRig, fault_data: list[Path]) -> None:
    run = rig(settings=settings(fault_data))
    run.start()
    assert run.wait_for_end() == 0
    left = {name: (run.run_folder / name).read_bytes() for name in ("summary.json", "rounds.csv", "model.onnx")}
    assert json.loads(left["summary.json"])["accuracy"] is not None
    run.start_coordinator()
    assert run.wait_for_end() == 0
    assert {name: (run.run_folder / name).read_bytes() for name in left} == left


def test_a_second_coordinator_is_told_who_has_the_folder(rig: MakeRig, fault_data: list[Path]) -> None:
    run = rig(settings=settings(fault_data, training={"rounds": 400}))
    run.start()
    run.wait_for_round(2)
    for command, arguments in (("run", ()), ("run", ("--fresh",)), ("rollback", ("1",))):
        second = lamina(run, command, *arguments)
        assert second.returncode == 2
        assert f"lamina run (process {run.coordinator.pid} on " in second.stderr
        assert second.stderr.count("\n") == 1
    assert run.coordinator.running
    twin = subprocess.run(run.agent(1).command, capture_output=True, text=True, check=False)
    assert twin.returncode == 2
    assert f"lamina-agent of device device-1 (process {run.agent(1).pid} on " in twin.stderr


def test_a_model_is_exported_while_training_goes_on_and_after_it_was_broken_off(
    rig: MakeRig, fault_data: list[Path]
) -> None:
    run = rig(settings=settings(fault_data, training={"rounds": 4000}))
    run.start()
    run.wait_for_round(4)
    for _ in range(3):  # while generations come and go
        done = lamina(run, "export", "--out", str(run.folder / "out"))
        assert done.returncode == 0, done.stderr
    assert run.coordinator.running
    run.coordinator.signal(signal.SIGINT)
    run.coordinator.wait()
    last = run.committed
    done = lamina(run, "export")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"after round {last}, ")
    assert run.model
    best = lamina(run, "export", "--best")
    assert best.returncode == 0, best.stderr
    assert (run.run_folder / "best.onnx").exists()
    kept = [int(path.stem) for path in commits(run)]
    older = lamina(run, "export", "--round", str(kept[-2]))
    assert older.returncode == 0, older.stderr
    assert (run.run_folder / f"round-{kept[-2]}.safetensors").exists()
    lost = lamina(run, "export", "--round", "999999")
    assert lost.returncode == 2
    assert "round 999999 is not kept; kept rounds: " in lost.stderr
    assert lost.stderr.count("\n") == 1


def test_a_run_rolls_back_and_goes_on_with_its_devices(rig: MakeRig, fault_data: list[Path]) -> None:
    run = rig(settings=settings(fault_data, state={"generations": 4}))
    run.start()
    run.wait_for_round(7)
    run.coordinator.signal(signal.SIGINT)
    run.coordinator.wait()
    newest = run.committed
    rounds = [int(path.stem) for path in commits(run) if int(path.stem) < newest and int(path.stem) % 2 == 0][-1]
    done = lamina(run, "rollback", str(rounds))
    assert done.returncode == 0, done.stderr
    assert run.committed == rounds
    assert [row["round"] for row in run.rows] == [str(round_) for round_ in range(rounds)]
    run.start_coordinator()
    assert run.wait_for_end() == 0
    assert [row["round"] for row in run.rows] == [str(round_) for round_ in range(ROUNDS)]
    assert all(row["updates"] == row["expected"] for row in run.rows)


def test_training_stops_where_it_gets_no_better_and_the_best_model_is_beside_the_last(
    rig: MakeRig, fault_data: list[Path]
) -> None:
    chosen = settings(fault_data, training={"rounds": 4000, "lr": 1e-9}, evaluation={"stop_after": 4})
    first, second = rig(settings=chosen), rig(settings=chosen)
    for run in (first, second):
        run.start()
    second.wait_for_round(3)
    second.coordinator.kill()
    second.start_coordinator()
    for run in (first, second):
        assert run.wait_for_end() == 0
        assert "training ends" in run.coordinator.words
        summary = json.loads((run.run_folder / "summary.json").read_text())
        assert (summary["rounds"], summary["best_round"]) == (6, 1)  # four no better: with round 5, so after its cycle
        assert (run.run_folder / "best.safetensors").exists()
    assert first.model == second.model


def test_a_disk_that_takes_no_more_ends_in_one_line_and_a_state_that_is_whole(
    rig: MakeRig, fault_data: list[Path]
) -> None:
    undisturbed, full = rig(settings=settings(fault_data)), rig(settings=settings(fault_data))
    for each in (undisturbed, full):
        each.start()
    full.wait_for_round(4)
    history = full.run_folder / "state" / "history.log"
    limit = history.stat().st_size + 100
    _, hard = resource.prlimit(full.coordinator.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(full.coordinator.pid, resource.RLIMIT_FSIZE, (limit, hard))
    assert full.coordinator.wait() == 2
    assert "Traceback" not in full.coordinator.words
    assert full.coordinator.words.splitlines()[-1].startswith(f"lamina: {full.run_folder}")
    full.start_coordinator()
    assert full.wait_for_end() == 0
    assert undisturbed.wait_for_end() == 0
    assert full.model == undisturbed.model
    assert timeless(full.rows) == timeless(undisturbed.rows)


def test_a_deleted_bundle_ends_in_one_line(rig: MakeRig, fault_data: list[Path], fault_bundle: Path) -> None:
    run = rig(settings=settings(fault_data, training={"rounds": 4000}))
    run.bundle = run.folder / "bundle"
    shutil.copytree(fault_bundle, run.bundle)
    run.start()
    run.wait_for_round(2)
    shutil.rmtree(run.bundle)
    run.broker.kill()
    run.broker.start()  # it has lost everything: the bundle is sent anew
    assert run.coordinator.wait() == 2
    assert "Traceback" not in run.coordinator.words
    assert f"bundle file {run.bundle}" in run.coordinator.words.splitlines()[-1]
    again = lamina(run, "run")
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith("lamina: bundle ")
    shutil.copytree(fault_bundle, run.bundle)
    before = run.committed
    run.start_coordinator()
    wait_until(lambda: run.committed > before, what="another round")
