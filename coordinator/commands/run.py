"""``lamina run federation.toml``: train one federation to its end."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from lamina.broker.link.clock import now
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.programs.ending import STATUS_OF, run_until_signalled
from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.programs.flags import add_broker_flags
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.commands.mandate import keep_mandate
from lamina.coordinator.dashboard.app import Dashboard
from lamina.coordinator.dashboard.asked import Asked
from lamina.coordinator.dashboard.beside import with_what_lies_beside
from lamina.coordinator.dashboard.hosting import served
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.dashboard.source import tail_of
from lamina.coordinator.enrolment.expiry import ending_soon
from lamina.coordinator.records.kept_model import as_trained
from lamina.coordinator.records.records import RoundRecord, RunResult
from lamina.coordinator.records.rolling_back import check_kept, roll_back
from lamina.coordinator.records.store import Store
from lamina.coordinator.service.actions import NAMES as ACTIONS
from lamina.coordinator.service.actions import Actions
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.service.leading import Leading
from lamina.coordinator.service.signing import Signer
from lamina.coordinator.settings import DashboardSettings
from lamina.models.bundle import read_bundle
from lamina.models.metrics import ACCURACY
from lamina.models.spec import ModelSpec
from lamina.models.storage.folder_lock import held
from lamina.models.storage.replace import remove_drafts, replace_file

HELP = "train one federation to its end"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina run federation.toml"
    parser.add_argument("config", type=Path, help="federation.toml")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier, unfinished run in the same folder")
    add_broker_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Train; the result goes to ``summary.json`` in the federation's folder."""
    settings = load_federation(options.config, options)
    keep_mandate(settings, options.config.parent)
    for ending in ending_soon(options.config.parent, time.time()):
        print(ending, file=sys.stderr)
    bundle, folder = as_trained(read_bundle(Path(settings.bundle)), settings), Path(settings.folder)
    with held(folder, "lamina run"):
        remove_drafts(folder)
        if options.fresh:
            Store(folder).clear()
        line = ProgressLine(bundle.manifest.spec)
        signer = Signer(settings, bundle.digest) if settings.signing.key_file else None
        dial = mqtt_dial(settings.broker)

        def make() -> Coordinator:
            return Coordinator(settings, bundle, dial, observe=line.show, signer=signer)

        leading = Leading(make, partial(check_kept, settings), partial(roll_back, settings, bundle))
        actions = Actions(settings, dial, leading.roll_back)
        result = run_until_signalled(seen(leading, folder, settings.dashboard, actions, options.config.parent))
        if isinstance(result, signal.Signals):
            print(
                f"ended by {result.name}; `lamina run {options.config}` goes on where this left off, and "
                f"`lamina export {options.config}` writes the model as it stands",
                file=sys.stderr,
            )
            return STATUS_OF[result]
        replace_file(folder / "summary.json", msgspec.json.format(msgspec.json.encode(result)))
    print(_closing_line(result, settings.folder))
    return ExitStatus.DONE


async def seen(
    coordinator: Coordinator | Leading,
    folder: Path,
    settings: DashboardSettings,
    actions: Actions | None = None,
    home: Path | None = None,
) -> RunResult:
    """Run a coordinator, with its dashboard beside it.

    Args:
        coordinator: it, or one after the other.
        folder: of the run.
        settings: of the dashboard.
        actions: what may be ordered besides; ``None``: nothing.
        home: that ``lamina init`` made; ``None``: certificates' ends are not known.
    """
    with tail_of("lamina.coordinator") as tail:

        async def overview() -> Overview:
            notice = actions.notice if actions else ""
            here = coordinator.operator.overview(now())
            return await asyncio.to_thread(with_what_lies_beside, here, folder, home, notice)

        async def order(name: str, asked: Asked) -> None:
            if actions is not None and name in ACTIONS:
                await actions.obey(name, asked)
            else:
                coordinator.operator.obey(name, asked.device)

        async with served(Dashboard(folder, overview, order, tail), settings) as address:
            if address:
                print(f"dashboard: {address}", flush=True)
            if actions is None:
                return await coordinator.run()
            try:
                actions.resume()
                result = await coordinator.run()
                await actions.settled()
                return result
            finally:
                await actions.close()


@dataclass(frozen=True)
class ProgressLine:
    """Prints one line a round."""

    spec: ModelSpec

    def show(self, record: RoundRecord) -> None:
        """The round's line."""
        accuracy = "" if record.accuracy is None else f"  accuracy {record.accuracy:.4f}"
        accuracy += _others(record.metrics)
        loss = "" if record.loss is None else f"  loss {record.loss:.4f}"
        print(
            f"round {record.round + 1}{accuracy}{loss}  layers {len(record.due)}/{len(self.spec.layers)}"
            f"  C {record.c_ratio:.3f}  up {record.uplink_bytes / 2**20:.2f} MiB  {record.round_s:.2f} s",
            flush=True,
        )


def _others(metrics: dict[str, float] | msgspec.UnsetType) -> str:
    """The figures besides accuracy, for a line; the loss on held-out data is not to be taken for that of training."""
    named = {"held-out loss" if name == "loss" else name: value for name, value in (metrics or {}).items()}
    return "".join(f"  {name} {value:.4g}" for name, value in named.items() if name != ACCURACY)


def _closing_line(result: RunResult, folder: str) -> str:
    accuracy = "" if result.accuracy is None else f"accuracy {result.accuracy:.4f}"
    accuracy = (accuracy + _others(result.metrics)).strip() or "not evaluated"
    own = f", {result.on_devices.text}" if result.on_devices else ""
    return f"{result.rounds} rounds in {result.wall_s:.1f} s, {accuracy}{own}, C {result.c_ratio:.3f}; see {folder}"
