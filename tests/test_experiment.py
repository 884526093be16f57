"""Experiments: what a file says, what the command line changes, and what neither may say."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from lamina.emulation.changes import changed, parse_change, with_devices
from lamina.emulation.commands import emulate
from lamina.emulation.experiment import DEMO, Experiment, Group, Partition, read_experiment
from lamina.models.errors import ConfigError

FILE = """
name = "garden"
data = "flowers.npz"
model = "nets.py:build,width=4"
out = "results"

[partition]
kind = "shards"
shards = 3

[[fleet]]
name = "big"
devices = 2

[[fleet]]
name = "small"
devices = 6
budget_mib = 20.0

[training]
rounds = 7
local_steps = 4

[aggregation]
phi = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "garden.toml"
    path.write_text(FILE)
    return path


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    emulate.configure(parser)
    return parser.parse_args(words)


# -- the file


def test_paths_in_a_file_start_at_its_folder(file: Path) -> None:
    experiment = read_experiment(file)
    assert experiment.data == str(file.parent / "flowers.npz")
    assert experiment.model == str(file.parent / "nets.py:build,width=4")
    assert experiment.folder == file.parent / "results"


def test_names_that_come_with_lamina_are_no_paths() -> None:
    demo = read_experiment(DEMO)
    assert (demo.data, demo.model) == ("digits", "digits_cnn")
    assert demo.folder == Path("runs/demo")


def test_a_file_says_the_fleet_in_groups(file: Path) -> None:
    experiment = read_experiment(file)
    assert experiment.fleet == (Group("big", 2), Group("small", 6, budget_mib=20.0))
    assert experiment.devices == 8
    assert experiment.partition == Partition("shards", shards=3)


def test_rounds_are_whole_cycles(file: Path) -> None:
    assert read_experiment(file).rounds == 9  # 7, up to a multiple of phi = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam = 'x'", "unknown key 'nam'; did you mean 'name'"),
        ("[training]\nlocalsteps = 3", "did you mean 'training.local_steps'"),
        ("[[fleet]]\nbudget = 3.0", "unknown key"),
        ("name = 'a/b'", "can't stand in an MQTT topic"),
        ("batch_size = 0", "batch_size must be at least 1"),
        ("threads = 0", "threads must be at least 1"),
        ("agents_per_process = -1", "agents_per_process"),
        ("[[fleet]]\ndevices = 0", "at least one device"),
        ("[[fleet]]\ndevices = 1\n[[fleet]]\ndevices = 2", "same name: device, device"),
        ("[[fleet]]\nbudget_mib = 0.0", "budget_mib must be positive"),
        ("[partition]\nalpha = 0.0", "alpha must be positive"),
        ("[partition]\nshards = 0", "shards must be at least 1"),
        ("[training]\nseed = 3", "give it once, as seed at the top"),
        ("[evaluation]\ndata = 'x.npz'", "test set of its data"),
        ("[cohorts]\nmin_devices = 3", "the fleet's size here"),
        ("name = ", "not TOML"),
    ],
)
def test_a_file_that_can_not_be_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_experiment(path)
    assert "bad.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "asked", "a_process"), [(8, 0, 1), (16, 0, 1), (17, 0, 3), (100, 0, 13), (8, 4, 4)]
)
def test_large_fleets_share_processes_unless_told_otherwise(devices: int, asked: int, a_process: int) -> None:
    assert Experiment(fleet=(Group(devices=devices),), agents_per_process=asked).devices_a_process == a_process


# -- changes


def test_a_dotted_key_is_changed_and_nothing_else() -> None:
    before = Experiment()
    after = changed(before, {"training.lr": 0.25, "name": "other"})
    assert (after.training.lr, after.name) == (0.25, "other")
    assert changed(after, {"training.lr": before.training.lr, "name": before.name}) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training.lrr": 1}, "did you mean 'training.lr'"),
        ({"trainig.lr": 1}, "did you mean 'training'"),
        ({"name.first": 1}, "name is no table"),
        ({"training.lr": "fast"}, r"training.lr: expected float \| null, got str"),
        ({"training.rounds": 0}, "training.rounds must be at least 1"),
    ],
)
def test_a_change_that_can_not_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"the command line: .*{message}"):
        changed(Experiment(), changes)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("training.lr=0.1", ("training.lr", 0.1)),
        ("wire.update_codec=float16", ("wire.update_codec", "float16")),
        ("training.lr_decay_at=[0.5, 0.75]", ("training.lr_decay_at", [0.5, 0.75])),
        ("aggregation.accelerate=true", ("aggregation.accelerate", True)),
        ("name='a=b'", ("name", "a=b")),
    ],
)
def test_values_are_read_as_toml_and_else_as_text(text: str, change: Any) -> None:
    assert parse_change(text) == change


@pytest.mark.parametrize("text", ["training.lr", "=3", ""])
def test_a_change_without_a_key_or_an_equals_sign_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        parse_change(text)


@pytest.mark.parametrize(
    ("groups", "devices", "sizes"),
    [
        ((3, 2, 3), 8, (3, 2, 3)),
        ((3, 2, 3), 80, (30, 20, 30)),
        ((3, 2, 3), 4, (2, 1, 1)),  # 1.5, 1, 1.5: one is over, and the first of equal remainders gets it
        ((3, 2, 3), 3, (1, 1, 1)),  # 1.125, 0.75, 1.125: the largest remainder gets what is over
        ((3, 2, 3), 1, (1, 0, 0)),
        ((1,), 5, (5,)),
    ],
)
def test_a_fleet_keeps_its_proportions(groups: tuple[int, ...], devices: int, sizes: tuple[int, ...]) -> None:
    fleet = [Group(f"g{index}", size) for index, size in enumerate(groups)]
    assert tuple(group.devices for group in with_devices(fleet, devices)) == sizes


def test_no_devices_are_no_fleet() -> None:
    with pytest.raises(ConfigError, match="--devices must be at least 1"):
        with_devices([Group()], 0)


# -- flags and the environment


def test_without_a_file_it_is_the_demo() -> None:
    assert emulate.chosen(options(), {}) == read_experiment(DEMO)


def test_flags_change_what_the_file_says(file: Path) -> None:
    words = ["--data", "digits", "--rounds", "12", "--alpha", "0.1", "--phi", "4", "--devices", "4", "--out", "here"]
    experiment = emulate.chosen(options(str(file), *words, "--set", "wire.chunk_kib=64"), {})
    assert (experiment.data, experiment.out) == ("digits", "here")
    assert (experiment.training.rounds, experiment.aggregation.phi) == (12, 4)
    assert experiment.training.local_steps == 4  # from the file
    assert experiment.partition.alpha == 0.1
    assert experiment.wire.chunk_kib == 64
    assert [(group.name, group.devices) for group in experiment.fleet] == [("big", 1), ("small", 3)]


def test_every_flag_names_a_key_that_there_is() -> None:
    for _, key, more in emulate._FLAGS:
        value = more["choices"][0] if "choices" in more else {int: 2, float: 0.5}.get(more.get("type", str), "name")
        changed(Experiment(), {key: value})


def test_the_environment_chooses_the_broker_and_a_flag_goes_before_it() -> None:
    assert emulate.chosen(options(), {}).broker == "auto"
    assert emulate.chosen(options(), {"BROKER": ""}).broker == "auto"
    assert emulate.chosen(options(), {"BROKER": "amqtt"}).broker == "amqtt"
    assert emulate.chosen(options("--broker", "mosquitto"), {"BROKER": "amqtt"}).broker == "mosquitto"


def test_an_unknown_broker_in_the_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="BROKER is 'emqx': use auto, mosquitto, amqtt, memory"):
        emulate.chosen(options(), {"BROKER": "emqx"})
