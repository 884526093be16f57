"""``lamina broker``: an MQTT broker on this machine.

Without a federation's folder it is for a desk: open to all, so it listens on the loopback interface alone. With the
folder that ``lamina init`` made it is mosquitto with TLS, certificates and rules, and follows what ``lamina enrol`` and
``lamina revoke`` write there.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import time
from pathlib import Path
from typing import Never

from lamina.broker.brokers.starter import RunningBroker, Tls, running_broker
from lamina.broker.programs.exit_status import ExitStatus
from lamina.coordinator.enrolment.broker_files import configuration
from lamina.coordinator.enrolment.home import Home
from lamina.models.errors import ConfigError, require

HELP = "run an MQTT broker on this machine; for a network, with the folder that `lamina init` made"

_LOOK_S = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina broker --folder greenhouse"
    parser.add_argument("--kind", choices=("auto", "mosquitto", "amqtt"), default="auto")
    parser.add_argument("--port", type=int, help="1883, or what `lamina init` was told")
    parser.add_argument("--host", help="address to listen on; other than loopback only with a folder of `lamina init`")
    parser.add_argument("--folder", type=Path, help="of `lamina init`; or where the broker keeps its state")


def run(options: argparse.Namespace) -> int:
    """Run it until interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a goodbye, as Ctrl-C is
    home = Home(options.folder) if options.folder is not None else None
    try:
        if home is not None and home.exists:
            return _with_certificates(home, options)
        return _open(options)
    except KeyboardInterrupt:
        return ExitStatus.DONE


def _open(options: argparse.Namespace) -> int:
    host = options.host or "127.0.0.1"
    if not _is_loopback(host):
        raise ConfigError(
            f"--host {host}: without TLS a broker is open to everybody who reaches it, so it listens on this machine "
            "alone; for a network: lamina init FOLDER, then lamina broker --folder FOLDER"
        )
    with running_broker(options.kind, port=options.port or 1883, host=host, folder=options.folder) as broker:
        print(f"{broker.kind} listens on {broker.address}; Ctrl-C ends it", flush=True)
        signal.pause()
    return ExitStatus.DONE


def _with_certificates(home: Home, options: argparse.Namespace) -> Never:
    require(options.kind != "amqtt", "--kind amqtt knows no certificates: a federation's broker is mosquitto")
    require(options.port is None, "--port: a federation's ports stand in its register; `lamina init` is told them")
    register = home.register
    with home.held():
        home.write_broker_files()
    tls = Tls(
        folder=home.broker,
        configuration=lambda extra: configuration(register, host=options.host or "", extra=extra + home.bridge),
    )
    last = register.coordinator_port  # once it is open, so is the one before
    with running_broker("mosquitto", port=last, host=options.host or "0.0.0.0", tls=tls) as broker:
        print(
            f"mosquitto listens with TLS on port {register.port} for devices and {register.coordinator_port} for the "
            "coordinator; Ctrl-C ends it",
            flush=True,
        )
        _follow(home.broker, broker)


def _follow(folder: Path, broker: RunningBroker) -> Never:
    """Have the broker read its files again whenever they change."""
    seen = _state(folder)
    while True:
        time.sleep(_LOOK_S)
        now = _state(folder)
        if now != seen:
            time.sleep(_LOOK_S)  # several files change together
            seen = _state(folder)
            os.kill(broker.pid, signal.SIGHUP)
            print("mosquitto reads its files again", flush=True)


def _state(folder: Path) -> dict[str, int]:
    names = ("acl", "acl.coordinator", "crl.pem", "coordinator-crl.pem", "broker.crt", "broker.key")
    return {name: path.stat().st_mtime_ns for name in names if (path := folder / name).exists()}


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
