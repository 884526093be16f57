"""A broker's address is checked as it is built."""

import pytest

from lamina.broker.link.address import BrokerAddress, host_and_port
from lamina.models.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": 0}, "broker.port must lie between 1 and 65535, and is 0"),
        ({"port": 65536}, "broker.port must lie between 1 and 65535, and is 65536"),
        ({"protocol": "4"}, "broker.protocol must be '5' or '3.1.1', and is '4'"),
        ({"cert_file": "a.crt"}, "broker.cert_file and broker.key_file go together"),
        ({"keepalive_s": 0}, "broker.keepalive_s must be at least 1"),
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
