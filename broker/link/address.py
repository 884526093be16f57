"""Where is the broker, and how is one let in?"""

from __future__ import annotations

from typing import Any

import msgspec

from lamina.models.errors import ConfigError


class BrokerAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A broker's address, and the client's credentials.

    Attributes:
        host: name or address.
        port: TCP port; 1883, or 8883 with TLS.
        username: empty for none.
        password: empty for none.
        ca_file: certificate of the authority that signed the broker's; its presence turns TLS on.
        cert_file: the client's certificate.
        key_file: the client's key.
        protocol: ``5``, or ``3.1.1`` for brokers that know no better.
        keepalive_s: silence after which either side takes the other for dead.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    protocol: str = "5"
    keepalive_s: int = 30

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"broker.port must lie between 1 and 65535, and is {self.port}")
        if self.protocol not in ("5", "3.1.1"):
            raise ConfigError(f"broker.protocol must be '5' or '3.1.1', and is {self.protocol!r}")
        if bool(self.cert_file) != bool(self.key_file):
            raise ConfigError("broker.cert_file and broker.key_file go together")
        if self.keepalive_s < 1:
            raise ConfigError("broker.keepalive_s must be at least 1")

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def host_and_port(place: str) -> dict[str, Any]:
    """A flag ``--broker``, host or host:port, as fields; the last colon counts unless the host is a bare IPv6 address.

    Raises:
        ConfigError: the port is no number.
    """
    host, colon, port = place.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        return {"host": place}
    if not port.isdecimal():
        raise ConfigError(f"--broker {place}: the port must be a number")
    return {"host": host.strip("[]"), "port": int(port)}
