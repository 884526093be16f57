"""How does a command line say where the broker is? The flags that several commands share."""

from __future__ import annotations

import argparse

from lamina.broker.link.address import BrokerAddress


def add_broker_flags(parser: argparse.ArgumentParser) -> None:
    """Add what `address_of` reads."""
    parser.add_argument("--host", default="127.0.0.1", help="of the broker")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--username", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("--ca-file", default="", help="certificate of the authority: turns TLS on")
    parser.add_argument("--cert-file", default="", help="this program's certificate, where the broker asks for one")
    parser.add_argument("--key-file", default="", help="its key")


def address_of(options: argparse.Namespace) -> BrokerAddress:
    """The broker that the flags name."""
    return BrokerAddress(
        host=options.host,
        port=options.port,
        username=options.username,
        password=options.password,
        ca_file=options.ca_file,
        cert_file=options.cert_file,
        key_file=options.key_file,
    )
