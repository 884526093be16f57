"""``lamina enrol pi-3``: a certificate for a board, and a code by which the board fetches it."""

from __future__ import annotations

import argparse
import asyncio
import io
import socket
import sys
import time
from pathlib import Path

import segno

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.wire.join_code import PORT, JoinCode
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.enrolment.expiry import listed
from lamina.coordinator.enrolment.home import Home
from lamina.coordinator.enrolment.serving import JoinServer
from lamina.models.bundle import read_bundle
from lamina.models.errors import ConfigError, require
from lamina.models.manifest import Manifest

HELP = "let a board into a federation; --serve waits until it has joined"


def add_home_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that names a federation's folder."""
    parser.add_argument(
        "--in", dest="folder", type=Path, default=Path(), metavar="FOLDER", help="of `lamina init`; left out, this one"
    )


def add_serving_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of whatever makes codes."""
    parser.add_argument("--serve", action="store_true", help="serve the codes until all are used or over")
    parser.add_argument("--minutes", type=float, default=60.0, help="for which a code is good (60)")
    parser.add_argument("--at", metavar="HOST", help="name or address of this machine, as boards reach it")
    parser.add_argument("--listen", default="", metavar="ADDRESS", help="to serve on; left out, all of this machine's")
    parser.add_argument("--port", type=int, default=PORT, help=f"to serve on ({PORT})")
    parser.add_argument("--qr", action="store_true", help="show each code as a QR code, too")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina enrol pi-1 pi-2 --in greenhouse --tier weak --serve"
    parser.add_argument("devices", nargs="*", metavar="DEVICE", help="name of a board; none: serve the open codes")
    add_home_flag(parser)
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument(
        "--tier",
        choices=("strong", "moderate", "weak"),
        help="how much the boards train; left out, what fits their memory",
    )
    memory.add_argument("--budget-mib", type=float, metavar="MIB", help="memory that training may take there")
    parser.add_argument("--days", type=int, default=365, help="for which the certificate is good (365)")
    parser.add_argument("--data", default="samples.npz", metavar="SOURCE", help="the boards' samples (samples.npz)")
    parser.add_argument("--broker", default="", metavar="HOST", help="where these boards reach it, if not at its host")
    parser.add_argument("--site-of", metavar="DEVICES", help="DEVICE is a site that speaks for these, comma-separated")
    parser.add_argument("--list", action="store_true", help="show who is enrolled, and until when")
    add_serving_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Enrol the boards, print a code for each, and serve them if that is asked for."""
    home = Home(options.folder)
    if options.list:
        print("\n".join(listed(home.register.present("device", "site", "coordinator", "broker"), time.time())))
        return ExitStatus.DONE
    require(options.days > 0, "--days must be at least 1")
    require(options.minutes > 0, "--minutes must be positive")
    if options.site_of is not None:
        return _enrol_site(home, options)
    require(bool(options.devices) or options.serve, "name the boards to enrol, or say --serve or --list")
    budget = options.budget_mib if options.tier is None else tier_budget_mib(_manifest(home), options.tier)
    for device in options.devices:
        with home.held():
            home.enrol(device, days=options.days, budget_mib=budget, data=options.data, at=options.broker)
    return offer(home, options.devices, options)


def offer(home: Home, devices: list[str], options: argparse.Namespace) -> int:
    """Print a code for each board, and serve them until none is open, if that is asked for."""
    host = options.at or _this_machine(home.register.hosts[0])
    for device in devices:
        with home.held():
            code = home.code(device, options.minutes, host, options.port)
        print(_told(home, device, code, options.minutes), flush=True)
        if options.qr:
            drawing = io.StringIO()
            segno.make(str(code), error="l").terminal(out=drawing, compact=True)
            print(drawing.getvalue(), flush=True)
    if not options.serve:
        if devices:
            print("`lamina enrol --serve` serves the codes; or carry the files there yourself")
        return ExitStatus.DONE
    server = JoinServer(home, time.time)
    listen = options.listen or "0.0.0.0"
    asyncio.run(server.serve(listen, options.port, lambda port: print(f"serving on port {port}", flush=True)))
    print("no code is open any more")
    return ExitStatus.DONE


def _told(home: Home, device: str, code: JoinCode, minutes: float) -> str:
    return (
        f"{device}: good once, for {minutes:g} minutes; on the board:\n"
        f"    lamina-agent join {code}\n"
        f"  or carry {home.board_path(device)} there, and: lamina-agent join {device}.board"
    )


def _enrol_site(home: Home, options: argparse.Namespace) -> int:
    require(len(options.devices) == 1, "--site-of: name one site")
    devices = [name for name in options.site_of.split(",") if name]
    register = home.register
    for name in devices:
        known = register.find(name)
        if known is None or known.role != "device":
            raise ConfigError(f"--site-of: {name} isn't enrolled: `lamina enrol {name}` first")
    with home.held():
        path = home.enrol_site(options.devices[0], devices, days=options.days)
    print(f"{path} and .key are for site {options.devices[0]}'s broker (broker/mosquitto/README.md)")
    return ExitStatus.DONE


def tier_budget_mib(manifest: Manifest, tier: str) -> float:
    """A budget by which a board trains the largest sub-model of a tier, in MiB.

    Raises:
        ConfigError: the bundle has none.
    """
    peaks = [sub.peak_mib for sub in manifest.sub_models if manifest.spec.tier(sub.cut) == tier]
    if not peaks:
        raise ConfigError(f"the bundle has no sub-model for tier {tier}: `lamina bundle` shows what it has")
    return round(1.05 * max(peaks), 1)


def _manifest(home: Home) -> Manifest:
    try:
        return read_bundle(Path(load_federation(home.folder / "federation.toml").bundle)).manifest
    except ConfigError as error:
        raise ConfigError(f"--tier needs the bundle, which says what it takes: {error}") from None


def _this_machine(broker: str) -> str:
    """The address by which this machine is reached from where the broker is, or its name."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((broker, 9))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        print("how boards reach this machine isn't known: --at says it", file=sys.stderr)
        return socket.gethostname()
