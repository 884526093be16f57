"""``lamina init FOLDER``: a federation's folder, with all that a network needs: authority, broker, operator's key."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.wire.topics import check_name
from lamina.coordinator.enrolment.home import Home
from lamina.coordinator.enrolment.register import Register
from lamina.models.errors import ConfigError, require

HELP = "make a federation's folder: settings, an authority, the broker's configuration, the operator's key"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina init greenhouse --host broker.local"
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--name", help="of the federation; left out, the folder's")
    parser.add_argument(
        "--host", action="append", default=[], metavar="NAME",
        help="name or address of the broker, as boards reach it; given again: others that it has; left out, this "
        "machine's name",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8883, help="of the broker, for devices (default: 8883)")
    parser.add_argument("--coordinator-port", type=int, default=8884, help="of the broker, for the coordinator (8884)")
    parser.add_argument("--max-devices", type=int, default=1000, help="for how many the broker has room (1000)")
    parser.add_argument("--memory-mib", type=int, default=1024, help="memory that the broker may take (1024)")
    parser.add_argument(
        "--operator", type=Path, metavar="FILE", help="public key of an operator whose secret key is elsewhere: that "
        "of the federation, where this folder is for a site's broker",
    )  # fmt: skip


def _operator(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--operator {path}: can't be read: {error}") from None


def run(options: argparse.Namespace) -> int:
    """Make it, and say what comes next."""
    folder: Path = options.folder
    name = check_name(options.name or folder.resolve().name, "federation")
    for port in (options.port, options.coordinator_port):
        require(0 < port < 65536, f"a port lies between 1 and 65535, and one is {port}")
    require(options.port != options.coordinator_port, "--port and --coordinator-port must differ")
    require(options.max_devices > 0, "--max-devices must be at least 1")
    require(options.memory_mib >= 64, "--memory-mib must be at least 64")
    hosts = tuple(options.host) or (socket.gethostname(),)
    Home(folder).make(
        Register(name, hosts, options.port, options.coordinator_port, options.max_devices, options.memory_mib),
        _operator(options.operator),
    )
    print(
        f"{folder} is federation {name}; boards reach its broker at {hosts[0]}:{options.port}. Next:\n"
        f"  lamina bundle digits_cnn {folder}/bundle      # or your own network (docs/networks.md)\n"
        f"  lamina broker --folder {folder}               # on {hosts[0]}\n"
        f"  lamina enrol pi-1 --in {folder} --serve       # a code for each board\n"
        f"  lamina run {folder}/federation.toml\n"
        f"{folder}/authority holds the keys to all of it: back it up, and keep it off the other machines."
    )
    return ExitStatus.DONE
