"""``lamina broker``: an MQTT broker on this machine, mosquitto where it is installed and else the embedded one."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from lamina.broker.brokers.starter import running_broker

HELP = "run an MQTT broker on this machine"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--kind", choices=("auto", "mosquitto", "amqtt"), default="auto")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--folder", type=Path, default=None, help="where it keeps its configuration and its state")


def run(options: argparse.Namespace) -> int:
    """Run it until interrupted."""
    with running_broker(options.kind, port=options.port, folder=options.folder) as broker:
        print(f"{broker.kind} listens on {broker.address}; Ctrl-C ends it", flush=True)
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # a goodbye, as Ctrl-C is
            signal.pause()
        except KeyboardInterrupt:
            return 0
    return 0
