"""TOML into frozen values: what is wrong, where, and what was meant."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.broker.settings import convert, load_toml
from lamina.coordinator.algorithms.server import next_value
from lamina.coordinator.settings import Server
from lamina.models.errors import ConfigError


class Oven(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    degrees: int = 180
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.degrees < 0:
            raise ConfigError("oven.degrees can't be negative")


class Guest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    seat: int | None = None


class Kitchen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cook: str
    oven: Oven = msgspec.field(default_factory=Oven)
    spare: Oven | None = None
    spices: tuple[str, ...] = ()
    guests: tuple[Guest, ...] = ()
    stock: dict[str, float] = {}
    broker: BrokerAddress = msgspec.field(default_factory=BrokerAddress)


def load(folder: Path, text: str) -> Kitchen:
    file = folder / "kitchen.toml"
    file.write_text(text, encoding="utf-8")
    return load_toml(file, Kitchen)


def refusal(folder: Path, text: str) -> str:
    """The error's one line, after the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    prefix = f"{folder / 'kitchen.toml'}: "
    assert message.startswith(prefix)
    return message.removeprefix(prefix)


def test_tables_lists_and_defaults_load(tmp_path: Path) -> None:
    text = """
    cook = "Ada"
    spices = ["salt"]
    stock = { flour = 2, any_key_at_all = 0.5 }
    [oven]
    share = 1
    [[guests]]
    name = "Bo"
    """
    expected = Kitchen(
        cook="Ada",
        oven=Oven(degrees=180, share=1.0),
        spices=("salt",),
        guests=(Guest("Bo"),),
        stock={"flour": 2.0, "any_key_at_all": 0.5},
    )
    assert load(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cok = 'Ada'", "unknown key 'cok'; did you mean 'cook'?"),
        ("cook = 'A'\n[oven]\ndegres = 1", "unknown key 'oven.degres'; did you mean 'oven.degrees'?"),
        ("cook = 'A'\n[spare]\ndegres = 1", "unknown key 'spare.degres'; did you mean 'spare.degrees'?"),
        ("cook = 'A'\ndegrees = 1", "unknown key 'degrees'; did you mean 'oven.degrees'?"),
        ("cook = 'A'\n[broker]\nhots = 'x'", "unknown key 'broker.hots'; did you mean 'broker.host'?"),
        (
            "cook = 'A'\n[[guests]]\nname = 'B'\n[[guests]]\nnam = 'C'",
            "unknown key 'guests[1].nam'; did you mean 'guests.name'?",
        ),
        ("cook = 'A'\n[oven]\nzzz = 1", "unknown key 'oven.zzz'; known here: degrees, share"),
        ("[oven]\n", "missing key 'cook'"),
        ("cook = 'A'\n[[guests]]\nseat = 1", "missing key 'guests[0].name'"),
        ("cook = 1", "cook: expected str, got int"),
        ("cook = 'A'\n[oven]\ndegrees = 'hot'", "oven.degrees: expected int, got str"),
        ("cook = 'A'\noven = 1", "oven: expected table, got int"),
        ("cook = 'A'\n[stock]\nflour = 'much'", "stock[...]: expected float, got str"),
        ("cook = 'A'\n[oven]\ndegrees = -1", "oven.degrees can't be negative"),
        ("cook = 'A'\n[broker]\nport = 0", "broker.port must lie between 1 and 65535, and is 0"),
    ],
)
def test_wrong_key_or_value_is_named_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text) == message


def test_broken_toml_names_its_line(tmp_path: Path) -> None:
    message = refusal(tmp_path, "cook = 'A'\noven =\n")
    assert message.startswith("not TOML: ")
    assert "line 2" in message


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file"):
        load_toml(tmp_path / "nowhere.toml", Kitchen)


def test_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load_toml(tmp_path, Kitchen)


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes(b"cook = '\xe4'")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 8"):
        load_toml(file, Kitchen)


def test_parsed_table_converts_with_its_source_in_errors() -> None:
    assert convert({"name": "Bo"}, Guest, "--guest") == Guest("Bo")
    with pytest.raises(ConfigError, match="--guest: missing key 'name'"):
        convert({}, Guest, "--guest")


@pytest.mark.parametrize(("optimiser", "rate"), [("none", 1.0), ("fedavgm", 1.0), ("fedadam", 0.01), ("fedyogi", 0.01)])
def test_each_server_optimiser_has_a_rate_of_its_own(optimiser: str, rate: float) -> None:
    assert Server(optimiser).rate == rate  # type: ignore[arg-type]
    assert Server(optimiser, lr=0.3).rate == 0.3  # type: ignore[arg-type]


def test_fedadam_as_it_comes_moves_a_value_by_its_rate_at_most() -> None:
    server = Server("fedadam")
    value, average = np.zeros(1, np.float32), np.full(1, 0.01, np.float32)
    moved, _ = next_value(server, value, average, None, 1)
    assert 0 < moved[0] < 0.01
