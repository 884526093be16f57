"""The flags that say where the broker is, the same for every program, and how they go before what a file says."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lamina.broker.link.address import PASSWORD_VARIABLE, BrokerAddress, host_and_port
from lamina.broker.settings import convert, read_toml

_PLAIN = ("username", "password")
_FILES = ("password_file", "ca_file", "cert_file", "key_file")


class _Named(msgspec.Struct, frozen=True):
    """What a command needs of a ``federation.toml`` or an ``agent.toml``."""

    federation: str
    broker: BrokerAddress = msgspec.field(default_factory=BrokerAddress)


def add_broker_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `broker_table` reads."""
    group = parser.add_argument_group("broker")
    group.add_argument("--broker", metavar="HOST[:PORT]", help="where it is; or a URL: mqtt, mqtts, ws or wss://HOST")
    group.add_argument("--username", metavar="NAME", help="to sign in with")
    group.add_argument(
        "--password-file", metavar="FILE", help=f"its first line is the password (or set {PASSWORD_VARIABLE})"
    )
    group.add_argument("--tls", action="store_true", default=None, help="encrypt the connection")
    group.add_argument("--ca-file", metavar="FILE", help="authorities to trust, in place of the system's; turns TLS on")
    group.add_argument("--cert-file", metavar="FILE", help="this program's certificate, where the broker asks for one")
    group.add_argument("--key-file", metavar="FILE", help="its key")
    group.add_argument("--password", help=argparse.SUPPRESS)  # every user of the machine sees it in the process list
    group.add_argument("--host", help=argparse.SUPPRESS)
    group.add_argument("--port", type=int, help=argparse.SUPPRESS)


def add_federation_argument(parser: argparse.ArgumentParser) -> None:
    """Add what `federation_and_broker` reads."""
    parser.add_argument("federation", help="its name; or its federation.toml, which says where the broker is, too")
    add_broker_flags(parser)


def federation_and_broker(options: argparse.Namespace, here: Path | None = None) -> tuple[str, BrokerAddress]:
    """A federation's name and its broker, by the flags, and the file if one stands in place of the name.

    Args:
        options: parsed.
        here: where relative paths of flags start; ``None`` is the current folder.

    Raises:
        ConfigError: the file can't be read, or a key or flag is wrong.
    """
    here = here or Path.cwd()
    if not options.federation.endswith(".toml"):
        table = {"federation": options.federation, "broker": broker_table({}, options, here)}
        return options.federation, convert(table, _Named, "flags").broker
    path = here / options.federation
    table = {key: value for key, value in read_toml(path).items() if key in ("federation", "broker")}
    table["broker"] = broker_table(table.get("broker", {}), options, here)
    named = convert(table, _Named, str(path))
    return named.federation, named.broker.anchored(path.parent)


def broker_table(table: Any, options: argparse.Namespace, here: Path) -> Any:
    """A file's ``[broker]`` with the flags over it. What is no table is left for `convert` to complain of.

    Args:
        table: of the file, or empty.
        options: parsed.
        here: where relative paths of flags start.

    Raises:
        ConfigError: a place makes no sense.
    """
    if not isinstance(table, Mapping):
        return table
    given: dict[str, Any] = {name: getattr(options, name) for name in _PLAIN}
    given |= {name: str(here / file) if (file := getattr(options, name)) else None for name in _FILES}
    given |= {"host": options.host, "port": options.port, "tls": options.tls}
    given = {name: value for name, value in given.items() if value is not None}
    place = host_and_port(options.broker) if options.broker else {}
    said = dict(table)
    if (place or given) and isinstance(said.get("host"), str):  # a URL there says more than the host
        said = host_and_port(said["host"]) | {name: value for name, value in said.items() if name != "host"}
    if "password" in given or "password_file" in given:
        said = {name: value for name, value in said.items() if name not in ("password", "password_file")}
    return {**said, **given, **place}
