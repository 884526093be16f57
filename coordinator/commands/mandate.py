"""``lamina mandate federation.toml``: the operator lets the coordinator speak, of the present bundle, for a while."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from lamina.broker.programs.exit_status import ExitStatus
from lamina.broker.wire.signatures import public_key, secret_key
from lamina.coordinator.commands.federation_file import load_federation
from lamina.coordinator.enrolment.home import Home
from lamina.coordinator.enrolment.mandates import Endorsed, check_mandate, issue, read_mandate, told, write_mandate
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import read_bundle
from lamina.models.errors import ConfigError, require
from lamina.models.storage.secret_file import read_secret

HELP = "sign the bundle and the coordinator's key with the operator's key"

_RENEWED_BEFORE_S = 7 * 86400


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "example: lamina mandate greenhouse/federation.toml --days 30"
    parser.add_argument("config", type=Path, help="federation.toml")
    parser.add_argument("--operator-key", type=Path, metavar="FILE", help="if it isn't where federation.toml says")
    parser.add_argument("--days", type=int, help="for which boards follow; left out, as federation.toml says")


def run(options: argparse.Namespace) -> int:
    """Write the mandate, and say what it says."""
    settings = load_federation(options.config)
    require(bool(settings.signing.mandate_file), f"{options.config}: it has no [signing]: `lamina init` writes it")
    operator = options.operator_key or Path(settings.signing.operator_key_file)
    mandate = renewed(settings, operator, options.days or settings.signing.mandate_days)
    print(f"{settings.signing.mandate_file}: {told(mandate.content)}")
    follow_bundle(options.config.parent)
    return ExitStatus.DONE


def keep_mandate(settings: FederationSettings, folder: Path) -> None:
    """Renew the mandate where it does not cover the bundle or is nearly over, if the operator's key is at hand."""
    operator = settings.signing.operator_key_file
    if not settings.signing.key_file or not operator or not Path(operator).is_file():
        return
    try:
        present = read_mandate(Path(settings.signing.mandate_file)).content
        manifest = read_bundle(Path(settings.bundle)).digest
        check_mandate(present, settings.federation, _key(settings), manifest, time.time() + _RENEWED_BEFORE_S)
    except ConfigError:
        mandate = renewed(settings, Path(operator), settings.signing.mandate_days)
        print(f"signed with {operator}: {told(mandate.content)}", flush=True)
    follow_bundle(folder)


def renewed(settings: FederationSettings, operator: Path, days: int) -> Endorsed:
    """Write a new mandate for the bundle of the settings."""
    require(days > 0, "a mandate is good for one day at least")
    key = secret_key(read_secret(operator, "the operator's key"), str(operator))
    manifest = read_bundle(Path(settings.bundle)).digest
    mandate = issue(key, settings.federation, _key(settings), (manifest,), days=days, now_s=time.time())
    write_mandate(Path(settings.signing.mandate_file), mandate)
    return mandate


def follow_bundle(folder: Path) -> None:
    """Have the broker's rules name the bundle's layers, where they are made here."""
    home = Home(folder)
    if not home.exists:
        return
    with home.held():
        if home.write_broker_files():
            print(
                f"{home.broker}: the rules name the bundle's layers now; a broker elsewhere needs the files", flush=True
            )


def _key(settings: FederationSettings) -> bytes:
    """The coordinator's public key; its secret one, where there is no other file of it."""
    secret = Path(settings.signing.key_file)
    public = secret.with_suffix(".pub")
    if public.is_file():
        return bytes(public_key(public.read_text(encoding="ascii"), str(public)))
    return bytes(secret_key(read_secret(secret, "signing.key_file"), str(secret)).verify_key)
