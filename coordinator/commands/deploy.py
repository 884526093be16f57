"""``lamina deploy federation.toml``: have devices predict with a model, canaries first, and with a way back."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.flags import add_broker_flags
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.looking import show
from lamina.coordinator.commands.mandate import keep_mandate
from lamina.coordinator.dashboard import client
from lamina.coordinator.dashboard.client import NobodyRuns
from lamina.coordinator.deployment.asking import canaries_of
from lamina.coordinator.deployment.rollout import DeploymentState, Rollout, RolloutRules
from lamina.coordinator.deployment.telling import told
from lamina.coordinator.records.deployments import DeploymentFiles
from lamina.coordinator.records.offering import Wish
from lamina.coordinator.service.deploying import Deployer
from lamina.models.errors import ConfigError, require

HELP = "have devices predict with a model: canaries first, then the rest, and back where too many refuse"


_RULES = RolloutRules()
_TRIES, _TRY_S = 40, 0.25


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina deploy greenhouse/federation.toml --best --canary 2 --quantise int8"
    parser.add_argument("config", type=Path, help="federation.toml")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--round", type=int, metavar="N", help="the model after so many rounds; without it, the last one")
    what.add_argument("--best", action="store_true", help="the best one by evaluation, of those that are kept")
    what.add_argument(
        "--undo", action="store_true", help="take the last deployment back: devices have the model before"
    )
    what.add_argument("--resume", action="store_true", help="go on with a rollout that was broken off")
    what.add_argument("--status", action="store_true", help="say what is deployed, and what devices made of it")
    parser.add_argument(
        "--canary", metavar="N|NAMES", help="devices that get it first: how many, or pi-1,pi-2 (2); 0: all at once"
    )
    parser.add_argument(
        "--quantise", choices=("int8",), default="", help="smaller and faster; judged before it goes out"
    )
    parser.add_argument(
        "--margin", type=float, default=_RULES.margin, help=f"by which a device's score may be worse ({_RULES.margin})"
    )
    parser.add_argument(
        "--most-refusals", type=float, default=_RULES.most_refusals, metavar="SHARE",
        help=f"of the devices, before all go back ({_RULES.most_refusals})",
    )  # fmt: skip
    parser.add_argument(
        "--wait", type=float, default=_RULES.wait_s, metavar="SECONDS", help=f"for answers ({_RULES.wait_s:g})"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_broker_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Deploy, and say what became of it; the exit status is 3 where devices went back."""
    settings = load_federation(options.config, options)
    if options.status:
        state = DeploymentFiles(Path(settings.folder)).state()
        return show(options, state, told(state))
    if options.undo and _undone_by_coordinator(Path(settings.folder)):
        print("the coordinator that runs has taken it back")
        return ExitStatus.DONE
    keep_mandate(settings, options.config.parent)
    deployer = Deployer(settings, mqtt_dial(settings.broker), _quiet if options.json else _print)
    try:
        state = asyncio.run(_done(deployer, options))
    except KeyboardInterrupt:
        print(f"broken off; `lamina deploy {options.config} --resume` goes on, and --undo takes it back")
        raise
    show(options, state, told(state) if not options.json else [])
    back = not options.undo and _went_back(state.rollout)
    return ExitStatus.WENT_BACK if back else ExitStatus.DONE


async def _done(deployer: Deployer, options: argparse.Namespace) -> DeploymentState:
    if options.undo:
        return await deployer.undo()
    if options.resume:
        await deployer.resume()
    else:
        await deployer.deploy(*wanted(options))
    return deployer.state


def wanted(options: argparse.Namespace) -> tuple[Wish, int | tuple[str, ...] | None, RolloutRules]:
    """What the flags ask for.

    Raises:
        ConfigError: one makes no sense.
    """
    require(0 <= options.margin <= 1, f"--margin must lie between 0 and 1, and is {options.margin:g}")
    require(0 <= options.most_refusals <= 1, f"--most-refusals must be a share, and is {options.most_refusals:g}")
    require(options.wait > 0, f"--wait must be positive, and is {options.wait:g}")
    rules = RolloutRules(options.margin, options.most_refusals, options.wait)
    return Wish(options.round, options.best, options.quantise, options.margin), canaries_of(options.canary), rules


def _undone_by_coordinator(folder: Path) -> bool:
    """Have a coordinator that deploys itself, as the page had it do, take that back; whether there is one.

    Raises:
        ConfigError: another program deploys.
    """
    try:
        now = client.overview(folder)
        if now.deployment is None or not now.deployment.under_way:
            return False
        now = client.order(folder, "undo-deployment")
        for _ in range(_TRIES):
            if now.deployment is None or not now.deployment.under_way:
                return True
            time.sleep(_TRY_S)
            now = client.overview(folder)
    except NobodyRuns:
        return False
    raise ConfigError(now.notice or "the coordinator that runs does not take it back")


def _went_back(rollout: Rollout | None) -> bool:
    return rollout is not None and rollout.stage == "back"


def _print(line: str) -> None:
    print(line, flush=True)


def _quiet(line: str) -> None:
    """The result alone is printed."""
