"""``agent.toml``: what it may say, and what its errors say."""

from pathlib import Path

import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.broker.settings import load_toml
from lamina.edge_agent.settings import AgentSettings, anchored
from lamina.models.errors import ConfigError
from lamina.models.readers.settings import DataSettings

LEAST = 'federation = "lab"\ndevice = "pi-1"\ndata = "train.npz"\n'


def load(folder: Path, text: str) -> AgentSettings:
    path = folder / "agent.toml"
    path.write_text(text)
    return load_toml(path, AgentSettings)


def test_three_keys_suffice(tmp_path: Path) -> None:
    settings = load(tmp_path, LEAST)
    assert settings == AgentSettings("lab", "pi-1", "train.npz")
    assert settings.broker == BrokerAddress()
    assert settings.budget_mib is None


def test_a_whole_number_serves_as_budget(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST + "budget_mib = 64\n").budget_mib == 64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('device = "pi-1"\ndata = "a.npz"\n', "missing key 'federation'"),
        (LEAST + "budget = 64\n", "unknown key 'budget'; did you mean 'budget_mib'?"),
        (LEAST + '[broker]\nhostname = "a"\n', "did you mean 'broker.host'?"),
        (LEAST + "budget_mib = 0\n", "budget_mib must be positive, and is 0"),
        (LEAST + "budget_mib = nan\n", "budget_mib must be positive, and is nan"),
        (LEAST + "threads = -1\n", "threads can't be negative, and is -1; 0 takes all cores"),
        (LEAST + "broker_s = -1\n", "broker_s must be 0"),
        (LEAST.replace("pi-1", "pi/1"), "device 'pi/1' can't stand in an MQTT topic"),
        (LEAST.replace("lab", "+"), "federation '\\+' can't stand in an MQTT topic"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_relative_paths_start_at_the_files_folder() -> None:
    settings = AgentSettings(
        "lab", "pi-1", "train.npz", BrokerAddress(ca_file="ca.crt", cert_file="/etc/pi.crt", key_file="pi.key")
    )
    found = anchored(settings, Path("/board"))
    assert found.data == "/board/train.npz"
    assert found.folder == "/board/lamina-agent"
    assert (found.broker.ca_file, found.broker.cert_file, found.broker.key_file) == (
        "/board/ca.crt",
        "/etc/pi.crt",
        "/board/pi.key",
    )


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("x.npy, y.npy", "/board/x.npy,/board/y.npy"),
        ("/data/train.npz", "/data/train.npz"),
        ("sensors:samples", "sensors:samples"),
    ],
)
def test_a_pair_of_files_is_anchored_and_a_function_is_not(data: str, found: str) -> None:
    assert anchored(AgentSettings("lab", "pi-1", data), Path("/board")).data == found


def test_an_absent_certificate_stays_absent() -> None:
    assert anchored(AgentSettings("lab", "pi-1", "a.npz"), Path("/board")).broker == BrokerAddress()


def test_data_may_be_a_table_whose_path_starts_at_the_file(tmp_path: Path) -> None:
    table = '[data]\npath = "a.csv"\ninputs = ["t"]\nwindow = 24\nhorizon = 6\nsize = [4, 4]\n'
    names = 'federation = "lab"\ndevice = "pi-1"\n'
    found = anchored(load(tmp_path, names + table), tmp_path).data
    assert found == DataSettings(str(tmp_path / "a.csv"), inputs=("t",), window=24, horizon=6, size=(4, 4))
    with pytest.raises(ConfigError, match=r"unknown key 'data\.horzon'; did you mean 'data\.horizon'"):
        load(tmp_path, names + table.replace("horizon", "horzon"))


@pytest.mark.parametrize(
    ("config", "given", "expected"),
    [
        ("/etc/lamina", {}, "/var/lib/lamina-agent"),
        ("/etc/lamina", {"folder": "state"}, "/etc/lamina/state"),
        ("/etc/lamina", {"folder": "/srv/lamina"}, "/srv/lamina"),
        ("/home/pi/board", {}, "/home/pi/board/lamina-agent"),
    ],
)
def test_the_machines_own_settings_keep_state_where_its_service_does(config: str, given: dict, expected: str) -> None:
    settings = AgentSettings(federation="f", device="d", data="s.npz", **given)
    assert anchored(settings, Path(config)).folder == expected
