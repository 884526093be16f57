"""The report: ``summary.json``, the closing tables, and the progress of rounds."""

import io
import json
from pathlib import Path

from rich.console import Console

from lamina.emulation.experiment import Experiment, Group
from lamina.emulation.progress import ProgressDisplay, due_bar, plain_line, size
from lamina.emulation.report import Summary, show, summarise, versions, write_summary
from tests.small_federation import model
from tests.synthetic_run import result, rounds


def summary(failures: list[str] | None = None) -> Summary:
    experiment = Experiment(name="garden", fleet=(Group(devices=2),))
    return summarise(experiment, result(), model((10, 20, 5)), broker="amqtt", failures=failures or [], total_s=7.5)


def printed(terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# -- summary.json


def test_the_summary_holds_what_a_program_looks_for(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", summary())
    read = json.loads((tmp_path / "summary.json").read_text())
    assert {key: read[key] for key in ("accuracy", "c_ratio", "rounds", "wall_s", "total_s", "broker")} == {
        "accuracy": 0.9375, "c_ratio": 0.75, "rounds": 4, "wall_s": 2.0, "total_s": 7.5, "broker": "amqtt",
    }  # fmt: skip
    assert (read["uplink_bytes"], read["downlink_bytes"], read["fedavg_uplink_bytes"]) == (6e6, 8e6, 16e6)
    assert read["layers"] == [
        {"name": "layer0", "parameters": 10, "aggregations": 4},
        {"name": "layer1", "parameters": 20, "aggregations": 2},
        {"name": "layer2", "parameters": 5, "aggregations": 2},
    ]
    assert read["devices"][0]["id"] == "ann"
    assert {key: read["devices"][0][key] for key in ("budget_mib", "cut", "tier", "rounds_done", "peak_mib")} == {
        "budget_mib": 20.0, "cut": 0, "tier": "strong", "rounds_done": 4, "peak_mib": 12.5,
    }  # fmt: skip
    assert read["settings"]["name"] == "garden"
    assert read["settings"]["training"]["local_steps"] == 10


def test_versions_are_those_installed_and_no_others() -> None:
    assert set(versions(["msgspec", "no-such-package-here"])) == {"msgspec"}


# -- the closing tables


def test_the_closing_tables_say_who_trained_what_and_who_was_refused(tmp_path: Path) -> None:
    console = printed()
    show(console, summary(), tmp_path)
    text = text_of(console)
    assert "strong" in text
    assert "refused: a budget of 0.5 MiB is too small" in text
    assert "0.9375 on held-out data" in text
    assert "6.00 MB, 38% of FedAvg in float32" in text  # 6 of 16 MB
    assert "2.0 s for 4 rounds, 7.5 s in all" in text
    assert str(tmp_path) in text.replace("\n", "")


def test_a_name_in_square_brackets_is_no_markup() -> None:
    console = printed()
    show(console, summary(), Path("[bold]runs"))
    assert "[bold]runs" in text_of(console)


# -- progress


def test_a_round_is_one_line() -> None:
    line = plain_line(rounds(3)[2], layers=3, rounds=40)
    assert line == (
        "round 3/40  accuracy 0.7000  loss 0.6667  layers 1/3  C 0.750"
        "  sent 4.50 MB  received 6.00 MB  devices 2  0.50 s"
    )


def test_what_was_not_evaluated_is_a_dash() -> None:
    assert "accuracy -  " in plain_line(rounds(1, evaluated=False)[0], 3, 40)


def test_without_a_terminal_each_round_is_a_line_however_narrow() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=40)
    with ProgressDisplay(console) as progress:
        progress.say("starting [2] devices")
        progress.begin(layers=3, rounds=2)
        for record in rounds(2):
            progress.observe(record)
        progress.warn("bob has gone")
    lines = text_of(console).splitlines()
    assert [line[:12] for line in lines] == ["starting [2]", "round 1/2  a", "round 2/2  a", "bob has gone"]


def test_on_a_terminal_the_latest_rounds_are_a_live_table() -> None:
    console = printed(terminal=True)
    with ProgressDisplay(console) as progress:
        progress.begin(layers=3, rounds=40)
        for record in rounds(20):
            progress.observe(record)
    last_view = text_of(console).rsplit("round ", 1)[1]
    assert "20/40" in last_view
    assert "9/40" in last_view
    assert " 8/40" not in last_view  # twelve are shown


def test_the_bar_fills_a_cell_for_each_layer_that_was_due() -> None:
    assert due_bar((0, 2), 3).plain == "■·■ 2/3"


def test_many_layers_share_cells() -> None:
    assert due_bar((0, 47), 48, width=4).plain == "■··■ 2/48"


def test_sizes_are_decimal() -> None:
    assert [size(count) for count in (999, 1_000, 2_345_678, 5 * 10**9, 10**13)] == [
        "999 B", "1.00 kB", "2.35 MB", "5.00 GB", "10000.00 GB",
    ]  # fmt: skip
