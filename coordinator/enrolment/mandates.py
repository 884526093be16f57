"""The operator's mandates: a file by which boards believe a coordinator that the operator's key is not needed for."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from nacl.signing import SigningKey

from lamina.broker.wire.messages import decode
from lamina.broker.wire.orders import Mandate
from lamina.broker.wire.signatures import endorsed
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.storage.replace import replace_file

DAY_S = 86400


class Endorsed(msgspec.Struct, frozen=True):
    """A mandate with the operator's signature.

    Attributes:
        mandate: its bytes.
        endorsement: the operator's signature of them.
        content: what the bytes say.
    """

    mandate: bytes
    endorsement: bytes
    content: Mandate


class _MandateFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both in base64; the rest stands there for people."""

    mandate: str
    endorsement: str
    says: str = ""


def issue(
    operator: SigningKey, federation: str, key: bytes, manifests: tuple[str, ...], *, days: int, now_s: float
) -> Endorsed:
    """A mandate from now on.

    Args:
        operator: the operator's secret key.
        federation: its name.
        key: the coordinator's public key.
        manifests: digests of the bundles that boards may be given.
        days: for how long.
        now_s: seconds since 1970.
    """
    content = Mandate(
        federation=federation,
        key=key,
        manifests=manifests,
        issued=int(now_s * 10**6),
        until=int(now_s) + days * DAY_S,
    )
    mandate, endorsement = endorsed(operator, content)
    return Endorsed(mandate, endorsement, content)


def write_mandate(path: Path, mandate: Endorsed) -> None:
    """Write the file in the place of the one before."""
    file = _MandateFile(
        mandate=base64.b64encode(mandate.mandate).decode(),
        endorsement=base64.b64encode(mandate.endorsement).decode(),
        says=told(mandate.content),
    )
    replace_file(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")


def read_mandate(path: Path) -> Endorsed:
    """The mandate of a file; whether the operator has signed it, boards find out.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        file = from_json(path.read_bytes(), _MandateFile)
        mandate = base64.b64decode(file.mandate, validate=True)
        return Endorsed(mandate, base64.b64decode(file.endorsement, validate=True), decode(mandate, Mandate))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; lamina mandate federation.toml writes it") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, DecodeError):
        raise ConfigError(f"{path}: it is no mandate; lamina mandate federation.toml writes one") from None


def check_mandate(mandate: Mandate, federation: str, key: bytes, manifest: str, now_s: float) -> None:
    """Refuse a mandate that would not serve a coordinator.

    Raises:
        ConfigError: it is for another federation, key or bundle, or it is over.
    """
    remedy = "run lamina mandate federation.toml where the operator's key is"
    if mandate.federation != federation:
        raise ConfigError(f"the mandate is for federation {mandate.federation!r}, not {federation!r}: {remedy}")
    if mandate.key != key:
        raise ConfigError(f"the mandate is for another coordinator's key than signing.key_file: {remedy}")
    if manifest not in mandate.manifests:
        raise ConfigError(f"the operator has not signed bundle {manifest[:12]}: {remedy}")
    if mandate.until <= now_s:
        raise ConfigError(f"the mandate ended on {_day(mandate.until)}: {remedy}")


def told(mandate: Mandate) -> str:
    """What a mandate says, for a person."""
    bundles = ", ".join(manifest[:12] for manifest in mandate.manifests)
    return f"federation {mandate.federation}, bundles {bundles}, until {_day(mandate.until)}"


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
