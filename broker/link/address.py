"""The broker's address, and the client's credentials: what ``[broker]`` holds, and what a place in words says.

A host may be written as people write it: ``broker.local``, ``broker.local:1884``, ``[::1]:1883``, ``mqtts://broker.local``
or ``wss://broker.local/mqtt``. What it says of port, TLS and transport goes into the fields of those names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from lamina.models.errors import ConfigError, require

PASSWORD_VARIABLE = "LAMINA_BROKER_PASSWORD"
USERNAME_VARIABLE = "LAMINA_BROKER_USERNAME"

Transport = Literal["tcp", "websockets"]

_LEFT_OUT = -1  # a port
_SCHEMES: dict[str, tuple[Transport, bool]] = {
    "mqtt": ("tcp", False),
    "tcp": ("tcp", False),
    "mqtts": ("tcp", True),
    "ssl": ("tcp", True),
    "ws": ("websockets", False),
    "wss": ("websockets", True),
}
_PORTS: dict[tuple[Transport, bool], int] = {
    ("tcp", False): 1883,
    ("tcp", True): 8883,
    ("websockets", False): 80,
    ("websockets", True): 443,
}


class BrokerAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A broker's address, and the client's credentials.

    Attributes:
        host: name or address; or with a port, or as a URL, which then says the fields below, too.
        port: left out, 1883, or 8883 with TLS; 80 and 443 of websockets.
        username: empty: that of the environment variable ``LAMINA_BROKER_USERNAME``, or none.
        password: empty: see ``password_file``.
        password_file: its first line is the password; without it, ``LAMINA_BROKER_PASSWORD`` is.
        tls: whether the connection is encrypted. Left out, it is where a certificate or ``mqtts://`` asks for it.
        ca_file: certificates of the authorities that may have signed the broker's; empty: the system's.
        cert_file: the client's certificate.
        key_file: the client's key.
        transport: ``tcp``, or ``websockets`` where only HTTP gets through.
        path: of the broker's websocket.
        proxy: ``http://proxy:3128``, through which to connect; empty: none, but for websockets what the environment's
            ``https_proxy`` and ``http_proxy`` say.
        protocol: ``5``, or ``3.1.1`` for brokers that know no better.
        keepalive_s: silence after which either side takes the other for dead.
    """

    host: str = "127.0.0.1"
    port: int = _LEFT_OUT
    username: str = ""
    password: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    protocol: str = "5"
    keepalive_s: int = 30
    tls: bool | None = None
    transport: Transport = "tcp"
    path: str = "/mqtt"
    proxy: str = ""
    password_file: str = ""

    def __post_init__(self) -> None:
        place = self.host
        for name, value in _place(place, "broker.host").items():
            given = getattr(self, name)
            if name not in ("host", "transport", "path") and given not in (_default(name), value):
                raise ConfigError(f"broker.host = {place!r} contradicts broker.{name} = {_shown(name, given)}")
            msgspec.structs.force_setattr(self, name, value)
        require(
            self.tls is not False or not (self.ca_file or self.cert_file),
            "broker.ca_file and broker.cert_file are of no use without TLS, which broker.tls or broker.host rules out",
        )
        if self.port == _LEFT_OUT:
            msgspec.structs.force_setattr(self, "port", _PORTS[self.transport, self.is_encrypted])
        require(1 <= self.port <= 65535, f"broker.port must lie between 1 and 65535, and is {self.port}")
        require(self.protocol in ("5", "3.1.1"), f"broker.protocol must be '5' or '3.1.1', and is {self.protocol!r}")
        require(bool(self.cert_file) == bool(self.key_file), "broker.cert_file and broker.key_file go together")
        require(self.keepalive_s >= 1, "broker.keepalive_s must be at least 1")
        require(self.path.startswith("/"), f"broker.path must begin with '/', and is {self.path!r}")
        require(not (self.password and self.password_file), "broker.password and broker.password_file: give one")
        if self.proxy:
            _proxy_parts(self.proxy)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.transport == "websockets":
            return f"{'wss' if self.is_encrypted else 'ws'}://{host}:{self.port}{self.path}"
        return f"{host}:{self.port}"

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is on: asked for, or because a certificate is given."""
        return bool(self.tls or self.ca_file or self.cert_file)

    @property
    def is_local(self) -> bool:
        """Whether what is sent there stays on this machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def anchored(self, folder: Path) -> BrokerAddress:
        """The address with every relative path taken to start at ``folder``."""
        files = ("ca_file", "cert_file", "key_file", "password_file")
        return msgspec.structs.replace(
            self, **{name: str(folder / getattr(self, name)) for name in files if getattr(self, name)}
        )


def host_and_port(place: str) -> dict[str, Any]:
    """A flag ``--broker``, such as ``HOST[:PORT]`` or a URL, as fields of a `BrokerAddress`.

    Raises:
        ConfigError: it is no such thing.
    """
    return _place(place, "--broker")


def credentials(address: BrokerAddress, environment: Mapping[str, str]) -> tuple[str, str]:
    """The username and password to sign in with; empty where there is none.

    Raises:
        ConfigError: the password's file can't be read.
    """
    username = address.username or environment.get(USERNAME_VARIABLE, "")
    if not address.password_file:
        return username, address.password or environment.get(PASSWORD_VARIABLE, "")
    try:
        lines = Path(address.password_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"broker.password_file {address.password_file}: can't be read: {reason}") from None
    return username, lines[0] if lines else ""


def plain_text_warning(address: BrokerAddress, password: str) -> str:
    """What a person must know of a connection that isn't encrypted; empty where there is nothing to say."""
    if address.is_encrypted or address.is_local:
        return ""
    what = "the password, the model and all updates" if password else "the model and all updates"
    return f"broker {address}: the connection is not encrypted, so {what} can be read on the way; set broker.tls = true"


def proxy_of(address: BrokerAddress, environment: Mapping[str, str], bypassed: bool) -> tuple[str, int, str] | None:
    """The HTTP proxy to connect through: its host, its port, and ``user:password`` or nothing.

    Args:
        address: of the broker.
        environment: the process's.
        bypassed: whether the environment's ``no_proxy`` names the broker's host.
    """
    named = address.proxy
    if not named and address.transport == "websockets" and not bypassed:
        name = "https_proxy" if address.is_encrypted else "http_proxy"
        named = environment.get(name) or environment.get(name.upper()) or ""
    return _proxy_parts(named) if named else None


def _proxy_parts(proxy: str) -> tuple[str, int, str]:
    parts = _split_url(proxy if "://" in proxy else f"http://{proxy}", "broker.proxy", proxy)
    if parts.scheme != "http" or not parts.hostname:
        raise ConfigError(f"broker.proxy = {proxy!r}: give it as http://host:port")
    credential = parts.netloc.rpartition("@")[0]
    return parts.hostname, parts.port or 3128, unquote(credential)


def _place(place: str, source: str) -> dict[str, Any]:
    """The fields that a place in words says."""
    scheme, double_slash, rest = place.partition("://")
    if not double_slash:
        if place.count(":") > 1 and not place.startswith("["):  # a bare IPv6 address
            return {"host": place}
        scheme, rest = "", place
    if scheme and scheme.lower() not in _SCHEMES:
        raise ConfigError(f"{source} {place}: no such scheme; there are {', '.join(f'{name}://' for name in _SCHEMES)}")
    parts = _split_url(f"//{rest}", source, place)
    if not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"{source} {place!r}: give it as HOST, HOST:PORT or a URL such as mqtts://HOST:PORT")
    transport, tls = _SCHEMES.get(scheme.lower(), ("tcp", False))
    if parts.path not in ("", "/") and transport != "websockets":
        raise ConfigError(f"{source} {place}: only ws:// and wss:// have a path")
    fields: dict[str, Any] = {"host": parts.hostname}
    if parts.port is not None:
        fields["port"] = parts.port
    if scheme:
        fields["tls"] = tls
    if transport == "websockets":
        fields["transport"] = transport
        if parts.path:
            fields["path"] = parts.path
    if parts.username:
        fields |= {"username": unquote(parts.username), "password": unquote(parts.password or "")}
    return fields


def _split_url(url: str, source: str, place: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        why = "the port must be a number" if "Port could not be cast" in str(error) else str(error)
        raise ConfigError(f"{source} {place}: {why}") from None
    return parts


def _default(name: str) -> Any:
    return next(field.default for field in msgspec.structs.fields(BrokerAddress) if field.name == name)


def _shown(name: str, value: Any) -> str:
    return "..." if name == "password" else f"{value!r}".lower() if isinstance(value, bool) else f"{value!r}"
