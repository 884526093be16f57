"""Studies: what their files say, what is run once and what again, and the tables that they end in."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import msgspec
import pytest

from lamina.emulation.commands import reproduce, simulate
from lamina.emulation.datasets import BUILT_IN
from lamina.emulation.simulator.run import RESULT, folder_of, run
from lamina.emulation.simulator.studies.many import Means, carry_out
from lamina.emulation.simulator.studies.study import Claim, Study, merged, plan, read_study, with_methods
from lamina.emulation.simulator.studies.studying import conduct, sweep
from lamina.emulation.simulator.studies.tables import ClaimVerdict, entries, verdicts
from lamina.models.errors import ConfigError
from tests.patience import PATIENCE_S
from tests.simulated import setting

pytestmark = pytest.mark.no_cover  # simulations: see conftest.py

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def study(folder: Path, **more: object) -> Study:
    """Two methods, two seeds; the second method has twice the interval."""
    tree = {
        "name": "tiny",
        "question": "Which?",
        "setting": msgspec.to_builtins(setting(folder)),
        "seeds": [0, 1],
        "method": [
            {"label": "short", "paper": {"accuracy": 81.66, "c_percent": 100.0}},
            {"label": "long", "set": {"training": {"local_steps": 4, "rounds": 2}}},
        ],
        "claim": [{"method": "short", "against": "long", "least": -100.0}],
        **more,
    }
    return msgspec.convert(tree, Study)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_studies_that_come_with_the_project_can_be_planned(path: Path) -> None:
    found = read_study(path)
    assert found.name == path.stem
    full, small = plan(found, "full"), plan(found, "small")
    assert full
    assert {run.setting.fleet.holders for run in full} <= {32, 128}
    assert {run.setting.fleet.holders for run in small} == {32}
    assert {run.setting.data for run in small} <= set(BUILT_IN)  # so that it runs anywhere


def test_tables_are_merged_key_by_key() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "d": 5}) == {"a": {"b": 1, "c": 4}, "d": 5}


def test_methods_can_be_chosen_and_claims_about_others_fall_away(tmp_path: Path) -> None:
    chosen = with_methods(study(tmp_path), ["long"])
    assert {run.label for run in plan(chosen, "full")} == {"long"}
    assert not chosen.claims
    assert with_methods(study(tmp_path), ["long", "short"]) == study(tmp_path)
    with pytest.raises(ConfigError, match=r"no method 'lonk'.*did you mean 'long'"):
        with_methods(study(tmp_path), ["lonk"])


def test_changes_of_the_command_line_come_last(tmp_path: Path) -> None:
    planned = plan(study(tmp_path), "full", {"training.local_steps": 3})
    assert {run.setting.training.local_steps for run in planned} == {3}


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    wrong = study(tmp_path, method=[{"label": "a", "set": {"training": {"local_stps": 1}}}], claim=[])
    with pytest.raises(ConfigError, match=r"method 'a'.*local_steps"):
        plan(wrong, "full")


def test_a_claim_on_no_method_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no method 'b'"):
        study(tmp_path, claim=[{"method": "b", "against": "long"}])


def test_equal_settings_have_one_digest(tmp_path: Path) -> None:
    assert setting(tmp_path).digest == setting(tmp_path).digest
    assert setting(tmp_path, seed=1).digest != setting(tmp_path).digest


def test_width_has_no_intervals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="phi must be 1"):
        setting(tmp_path, reduction="width", aggregation={"phi": 2})


def test_a_known_result_is_not_computed_again(tmp_path: Path) -> None:
    chosen = setting(tmp_path)
    first = run(chosen, tmp_path / "cache", backend="loop")
    written = (folder_of(chosen, tmp_path / "cache") / RESULT).stat().st_mtime_ns
    assert run(chosen, tmp_path / "cache", backend="loop") == first
    assert (folder_of(chosen, tmp_path / "cache") / RESULT).stat().st_mtime_ns == written


def test_runs_beside_each_other_are_those_in_turn(tmp_path: Path) -> None:
    settings = [setting(tmp_path, seed=seed) for seed in range(3)]
    in_turn = carry_out(settings, Means(tmp_path / "one", "loop", 1))
    shares: list[float] = []
    beside = carry_out(settings, Means(tmp_path / "two", "auto", 2), shares.append)
    for chosen in settings:
        names = [folder_of(chosen, tmp_path / cache) / "model.safetensors" for cache in ("one", "two")]
        assert names[0].read_bytes() == names[1].read_bytes()
        assert in_turn[chosen.digest].points == beside[chosen.digest].points
    assert shares[-1] == 1.0


def test_the_choice_of_the_way_is_recorded(tmp_path: Path) -> None:
    history = run(setting(tmp_path, "dense"), tmp_path / "cache", processes=2).history
    assert history.backend in history.samples_per_s
    assert {"loop", "stack"} <= history.samples_per_s.keys()


def test_a_study_ends_in_a_table_a_csv_and_figures(tmp_path: Path) -> None:
    findings = conduct(study(tmp_path), "full", tmp_path / "out", Means(tmp_path / "cache", "loop", 1))
    assert [entry.label for entry in findings.table] == ["short", "long"]
    short, long = findings.table
    assert (short.c_percent, long.c_percent) == (100, 50)  # long's interval is twice as long
    assert short.sent_mb == 2 * long.sent_mb
    assert findings.verdicts[0].holds
    text = (findings.folder / "table.md").read_text()
    assert "| short " in text
    assert "81.66" in text
    assert (findings.folder / "table.csv").read_text().count("\n") == 3
    assert (findings.folder / "plots" / "accuracy.png").stat().st_size > 1000


def test_a_margin_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    asked = study(tmp_path, claim=[{"method": "short", "against": "short", "least": 1.0}])
    planned = plan(asked, "full")
    results = carry_out([run.setting for run in planned], Means(tmp_path / "cache", "loop", 1))
    by_label = {"short": [results[run.setting.digest] for run in planned if run.label == "short"]}
    (verdict,) = verdicts(asked, by_label)
    assert (verdict.difference, verdict.holds) == (0, False)
    assert "NOT shown" in verdict.text
    assert [entry.seeds for entry in entries(asked, by_label)] == [2]


def test_a_claim_can_ask_for_more_than_the_spread_and_for_few_strong_devices(tmp_path: Path) -> None:
    # paired differences: 2 and 4 points, mean 3, deviation sqrt 2; "short" itself deviates by 4 sqrt 2 over seeds
    asked = study(tmp_path, claim=[])
    (first, *_) = plan(asked, "full")
    known = run(first.setting, tmp_path / "cache", backend="loop")
    results = {
        "short": [msgspec.structs.replace(known, accuracy=accuracy) for accuracy in (0.92, 1.0)],
        "long": [msgspec.structs.replace(known, accuracy=accuracy) for accuracy in (0.90, 0.96)],
    }

    def verdict(**more: object) -> ClaimVerdict:
        claim = msgspec.convert({"method": "short", "against": "long", **more}, Claim)
        return verdicts(msgspec.structs.replace(asked, claims=(claim,)), results)[0]

    assert verdict().difference == pytest.approx(3)
    assert verdict().spread == pytest.approx(2**0.5)
    assert verdict().largest_spread == pytest.approx(2**0.5 * 4)
    assert verdict(least=2.9).holds
    assert not verdict(beyond_spread=True).holds
    assert not verdict(strong_percent=50).holds  # all four are strong
    assert "at most 50% strong" in verdict(strong_percent=50).text


def test_federated_evaluation_is_in_table_and_csv(tmp_path: Path) -> None:
    asked = study(tmp_path, claim=[], setting=msgspec.to_builtins(setting(tmp_path, holdout={"own": 0.3})))
    findings = conduct(asked, "full", tmp_path / "out", Means(tmp_path / "cache", "loop", 1))
    by_device = findings.table[0].devices
    assert by_device is not None
    assert 0 <= by_device.worst <= by_device.mean <= 100
    assert "worst tenth" in (findings.folder / "table.md").read_text()
    head, first, _ = (findings.folder / "table.csv").read_text().splitlines()
    row = dict(zip(head.split(","), first.split(","), strict=True))
    assert float(row["device_worst_tenth"]) == pytest.approx(by_device.worst, abs=1e-4)


@pytest.mark.exhaustive
def test_a_sweep_is_judged_by_validation_samples_and_reads_the_cache(tmp_path: Path) -> None:
    shares: list[float] = []
    asked = (study(tmp_path, claim=[]), "full", "training.lr", [0.01, 0.05], tmp_path / "out")
    tried = sweep(*asked, Means(tmp_path / "cache", "loop", 1), progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert [(one.label, one.value) for one in tried] == [(m, lr) for m in ("short", "long") for lr in (0.01, 0.05)]
    settings = [json.loads(path.read_text())["setting"] for path in (tmp_path / "cache").glob("*/result.json")]
    assert {chosen["holdout"]["validation"] for chosen in settings} == {0.2}
    assert len(settings) == 8  # two methods, two rates, two seeds
    assert sweep(*asked, Means(tmp_path / "cache", "loop", 1)) == tried
    assert (tmp_path / "out" / "tiny" / "sweep-training.lr.csv").read_text().count("\n") == 5


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_killed_run_goes_on_to_the_same_model(tmp_path: Path) -> None:
    chosen = setting(tmp_path, aggregation={"phi": 2}, training={"rounds": 100})
    script = (
        "import sys, msgspec; from pathlib import Path; from lamina.emulation.simulator.run import run;"
        "from lamina.emulation.simulator.setting import Setting;"
        "run(msgspec.json.decode(sys.argv[1], type=Setting), Path(sys.argv[2]), backend='loop', checkpoint_s=0)"
    )
    cache = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", script, msgspec.json.encode(chosen).decode(), str(cache)])
    checkpoint = folder_of(chosen, cache) / "checkpoint.npz"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.exists()
    run(chosen, cache, backend="loop")
    run(chosen, tmp_path / "whole", backend="loop")
    models = [folder_of(chosen, folder) / "model.safetensors" for folder in (cache, tmp_path / "whole")]
    assert models[0].read_bytes() == models[1].read_bytes()
    rounds = [(path.parent / "rounds.csv").read_text().count("\n") for path in models]
    assert rounds == [101, 101]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_killed_command_takes_its_lanes_along_and_goes_on_to_the_same_models(tmp_path: Path) -> None:
    setting(tmp_path)  # writes small.npz
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\nquestion = "Which?"\nseeds = [0, 1]\n[setting]\ndata = "small.npz"\nbatch_size = 5\n'
        f'model = "{os.path.relpath(NETS_FILE, tmp_path)}:dense"\nfleet = {{ strong = 4 }}\n'
        'partition = { kind = "iid" }\naggregation = { phi = 1 }\ntraining = { rounds = 300, local_steps = 2 }\n'
        '[[method]]\nlabel = "only"\n'
    )
    command = [sys.executable, "-m", "lamina.coordinator.cli", "simulate", str(path), "--processes", "2", "--out"]
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], cwd=EXPERIMENTS.parent, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while not list((tmp_path / "killed").glob("simulations/*/rounds.csv")) and time.monotonic() < deadline:
        time.sleep(0.02)
    lanes = _descendants(killed.pid)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(lanes) > 2  # two, and the server that they were forked from
    assert not list((tmp_path / "killed").glob("simulations/*/result.json"))
    while any(Path(f"/proc/{lane}").exists() for lane in lanes) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{lane}").exists() for lane in lanes)
    for out in ("killed", "whole"):
        subprocess.run([*command, str(tmp_path / out)], cwd=EXPERIMENTS.parent, check=True, stdout=subprocess.DEVNULL)
    models = [sorted((tmp_path / out).glob("simulations/*/model.safetensors")) for out in ("killed", "whole")]
    assert [path.read_bytes() for path in models[0]] == [path.read_bytes() for path in models[1]]
    assert {path.parent.name for path in models[0]} == {path.parent.name for path in models[1]}
    for path in models[0]:
        assert (path.parent / "rounds.csv").read_text().count("\n") == 301


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return children + [below for child in children for below in _descendants(child)]


def test_the_commands_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\nquestion = "Which?"\n[setting]\ndata = "small.npz"\nbatch_size = 5\n'
        f'model = "{os.path.relpath(NETS_FILE, tmp_path)}:dense"\nfleet = {{ strong = 4 }}\n'
        'partition = { kind = "iid" }\naggregation = { phi = 1 }\ntraining = { rounds = 2, local_steps = 2 }\n'
        '[[method]]\nlabel = "only"\n'
    )
    setting(tmp_path)  # writes small.npz
    options = ["--out", str(tmp_path / "out"), "--processes", "1", "--backend", "loop"]
    assert _command(simulate, [str(path), *options]) == 0
    assert "only" in capsys.readouterr().out
    assert _command(simulate, [str(path), *options, "--sweep", "lr=0.01,0.1", "--seeds", "5,6"]) == 0
    shown = capsys.readouterr().out
    assert "best" in shown
    assert "±" in shown
    assert _command(reproduce, ["--studies", str(tmp_path), *options]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 runs were known" in shown
    assert (tmp_path / "out" / "reproduction.md").read_text().count("## Which?") == 1
    with pytest.raises(ConfigError, match="no studies"):
        _command(reproduce, ["--studies", str(tmp_path / "none"), *options])


@pytest.mark.parametrize("text", ["lr", "lr=", "=1"])
def test_a_sweep_needs_a_key_and_values(text: str) -> None:
    with pytest.raises(ConfigError, match="--sweep takes"):
        simulate.parse_sweep(text)


def test_a_sweep_knows_short_names() -> None:
    assert simulate.parse_sweep("lr=0.1,0.3") == ("training.lr", [0.1, 0.3])
    assert simulate.parse_sweep("server.optimiser=fedadam") == ("server.optimiser", ["fedadam"])


NETS_FILE = Path(__file__).with_name("small_nets.py")


def _command(module, arguments: list[str]) -> int:
    parser = ArgumentParser()
    module.configure(parser)
    return module.run(parser.parse_args(arguments))
