"""A broker's address is checked as it is built."""

from pathlib import Path

import pytest

from lamina.broker.link.address import (
    BrokerAddress,
    credentials,
    host_and_port,
    plain_text_warning,
    proxy_of,
)
from lamina.models.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": 0}, "broker.port must lie between 1 and 65535, and is 0"),
        ({"port": 65536}, "broker.port must lie between 1 and 65535, and is 65536"),
        ({"protocol": "4"}, "broker.protocol must be '5' or '3.1.1', and is '4'"),
        ({"cert_file": "a.crt"}, "broker.cert_file and broker.key_file go together"),
        ({"keepalive_s": 0}, "broker.keepalive_s must be at least 1"),
        ({"host": "mqtt://pc:1", "port": 2}, "broker.host = 'mqtt://pc:1' contradicts broker.port = 2"),
        ({"host": "mqtts://pc", "tls": False}, "broker.host = 'mqtts://pc' contradicts broker.tls = false"),
        ({"host": "mqtt://pc/path"}, "broker.host mqtt://pc/path: only ws:// and wss:// have a path"),
        ({"host": "pc:mqtt"}, "broker.host pc:mqtt: the port must be a number"),
        ({"password": "a", "password_file": "b"}, "broker.password and broker.password_file: give one"),
        ({"path": "mqtt"}, "broker.path must begin with '/', and is 'mqtt'"),
        ({"proxy": "socks5://p"}, "broker.proxy = 'socks5://p': give it as http://host:port"),
    ],
)
def test_wrong_field_is_said(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BrokerAddress(**fields)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_address_reads_as_host_and_port() -> None:
    assert str(BrokerAddress(host="broker.example", port=8883)) == "broker.example:8883"


@pytest.mark.parametrize(
    ("place", "fields"),
    [
        ("pc", {"host": "pc"}),
        ("pc:1884", {"host": "pc", "port": 1884}),
        ("::1", {"host": "::1"}),
        ("[::1]:1884", {"host": "::1", "port": 1884}),
    ],
)
def test_a_flag_names_a_host_and_perhaps_a_port(place: str, fields: dict[str, object]) -> None:
    assert host_and_port(place) == fields


def test_a_port_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="--broker pc:mqtt: the port must be a number"):
        host_and_port("pc:mqtt")


@pytest.mark.parametrize(
    ("host", "reads", "encrypted"),
    [
        ("pc", "pc:1883", False),
        ("pc:1884", "pc:1884", False),
        ("::1", "[::1]:1883", False),
        ("[::1]", "[::1]:1883", False),
        ("mqtt://pc", "pc:1883", False),
        ("mqtts://pc", "pc:8883", True),
        ("mqtts://[::1]:99", "[::1]:99", True),
        ("ws://pc:8080", "ws://pc:8080/mqtt", False),
        ("wss://pc/a/b", "wss://pc:443/a/b", True),
    ],
)
def test_a_host_is_written_as_people_write_it(host: str, reads: str, encrypted: bool) -> None:
    address = BrokerAddress(host=host)
    assert (str(address), address.is_encrypted) == (reads, encrypted)
    assert BrokerAddress(**{"host": "pc"} | host_and_port(host)) == address


@pytest.mark.parametrize("fields", [{"ca_file": "ca.crt"}, {"cert_file": "a", "key_file": "b"}, {"tls": True}])
def test_a_certificate_turns_tls_on_and_nothing_turns_it_off_in_silence(fields: dict[str, object]) -> None:
    assert BrokerAddress(**fields).is_encrypted  # type: ignore[arg-type]
    assert BrokerAddress(**fields).port == 8883  # type: ignore[arg-type]
    if "tls" not in fields:
        with pytest.raises(ConfigError, match="of no use without TLS"):
            BrokerAddress(host="mqtt://pc", **fields)  # type: ignore[arg-type]


def test_a_no_such_scheme_is_named() -> None:
    with pytest.raises(ConfigError, match=r"broker.host http://pc: no such scheme; there are mqtt://"):
        BrokerAddress(host="http://pc")


def test_relative_files_start_at_a_folder() -> None:
    address = BrokerAddress(ca_file="ca.crt", cert_file="/a.crt", key_file="a.key", password_file="secret")
    assert address.anchored(Path("/etc/lamina")) == BrokerAddress(
        ca_file="/etc/lamina/ca.crt",
        cert_file="/a.crt",
        key_file="/etc/lamina/a.key",
        password_file="/etc/lamina/secret",
    )


def test_the_password_comes_from_the_file_or_the_environment(tmp_path: Path) -> None:
    environment = {"LAMINA_BROKER_USERNAME": "anna", "LAMINA_BROKER_PASSWORD": "outside"}
    (tmp_path / "secret").write_text("inside\nsecond line\n")
    assert credentials(BrokerAddress(), {}) == ("", "")
    assert credentials(BrokerAddress(), environment) == ("anna", "outside")
    assert credentials(BrokerAddress(username="ben", password="given"), environment) == ("ben", "given")
    kept = BrokerAddress(password_file=str(tmp_path / "secret"))
    assert credentials(kept, environment) == ("anna", "inside")
    with pytest.raises(ConfigError, match=r"password_file .*gone: can't be read: No such file"):
        credentials(BrokerAddress(password_file=str(tmp_path / "gone")), {})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.0.1"])
def test_plain_text_on_this_machine_is_nothing_to_warn_of(host: str) -> None:
    assert plain_text_warning(BrokerAddress(host=host), "secret") == ""


def test_plain_text_to_a_remote_host_is_warned_about() -> None:
    assert "updates can be read on the way; set broker.tls = true" in plain_text_warning(BrokerAddress(host="pc"), "")
    assert "the password" in plain_text_warning(BrokerAddress(host="192.168.1.10"), "secret")
    assert plain_text_warning(BrokerAddress(host="pc", tls=True), "secret") == ""


def test_websockets_take_the_environments_proxy_and_mqtt_its_own() -> None:
    environment = {"http_proxy": "http://one:81", "HTTPS_PROXY": "http://me:secret@two"}
    assert proxy_of(BrokerAddress(), environment, bypassed=False) is None
    assert proxy_of(BrokerAddress(proxy="three:83"), environment, bypassed=True) == ("three", 83, "")
    assert proxy_of(BrokerAddress(host="ws://pc"), environment, bypassed=False) == ("one", 81, "")
    assert proxy_of(BrokerAddress(host="ws://pc"), environment, bypassed=True) is None
    assert proxy_of(BrokerAddress(host="wss://pc"), environment, bypassed=False) == ("two", 3128, "me:secret")
