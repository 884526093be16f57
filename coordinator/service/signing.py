"""Signs what makes a board fetch, load or run something, with the coordinator's key and the operator's mandate.

Orders are numbered. Within a mandate the numbers grow, also from one start of the coordinator to the next: a start
begins above the clock's seconds and above where the last one began, so neither a lost file nor a clock that went back
makes a number come again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from nacl.exceptions import BadSignatureError

from lamina.broker.wire.messages import Message, RoundPlan, Task
from lamina.broker.wire.orders import envelope, signed_bytes
from lamina.broker.wire.signatures import sealed, secret_key
from lamina.coordinator.enrolment.mandates import Endorsed, check_mandate, read_mandate
from lamina.coordinator.settings import FederationSettings
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.storage.replace import replace_file
from lamina.models.storage.secret_file import read_secret

log = logging.getLogger("lamina.coordinator")

ORDERS = (Task, RoundPlan)
"""What is signed."""

_BEGUN = "orders"
_A_START = 1 << 24  # orders that one start has room for
_SOON_S = 3 * 86400


class Signer:
    """The coordinator's hand.

    Args:
        settings: of the federation; they name the key and the mandate.
        manifest: digest of the bundle that is trained.
        clock: seconds since 1970.

    Raises:
        ConfigError: key or mandate can't be read, or the mandate isn't for this key, federation and bundle, or is over.
    """

    def __init__(self, settings: FederationSettings, manifest: str, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._manifest, self._clock = settings, manifest, clock
        signing = settings.signing
        self._key = secret_key(read_secret(Path(signing.key_file), "signing.key_file"), signing.key_file)
        self._mandate_file = Path(signing.mandate_file)
        self._endorsed, self._read_at = self._read()
        self._warned = False
        self._next = _begin(Path(settings.folder), int(clock()))

    def sealed(self, topic: str, order: Message) -> bytes:
        """An order in its envelope, as it is said on ``topic``."""
        self._follow_the_file()
        sequence, self._next = self._next, self._next + 1
        mandate, endorsement = self._endorsed.mandate, self._endorsed.endorsement
        return sealed(self._key, mandate, endorsement, topic=topic, sequence=sequence, order=order)

    def said_by_us(self, topic: str, payload: bytes) -> bytes:
        """The order in an envelope that this coordinator's key has sealed.

        Raises:
            DecodeError: it was sealed by another key, or altered, or it is no envelope.
        """
        signed = envelope(payload)
        try:
            self._key.verify_key.verify(signed_bytes(topic, signed.sequence, signed.order), signed.signature)
        except BadSignatureError:
            raise DecodeError(f"what the broker keeps on {topic} was not signed by this coordinator") from None
        return signed.order

    def _read(self) -> tuple[Endorsed, int]:
        read_at = _changed_at(self._mandate_file)
        endorsed = read_mandate(self._mandate_file)
        key = bytes(self._key.verify_key)
        check_mandate(endorsed.content, self._settings.federation, key, self._manifest, self._clock())
        return endorsed, read_at

    def _follow_the_file(self) -> None:
        """Take a new mandate as soon as there is one, and warn when this one is nearly over."""
        if _changed_at(self._mandate_file) != self._read_at:
            try:
                self._endorsed, self._read_at = self._read()
                self._warned = False
            except ConfigError as error:
                self._read_at = _changed_at(self._mandate_file)
                log.warning("%s; the mandate before it is used on", error)
        left_s = self._endorsed.content.until - self._clock()
        if left_s < _SOON_S and not self._warned:
            self._warned = True
            log.warning(
                "the operator's mandate ends in %.0f hours, then boards follow no more: lamina mandate", left_s / 3600
            )


def _begin(folder: Path, now_s: int) -> int:
    """The first number of a start, which no start before has given away."""
    path = folder / _BEGUN
    try:
        last = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        last = 0
    start = max(now_s, last + 1)
    replace_file(path, str(start).encode())
    return start * _A_START


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
