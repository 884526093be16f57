"""What a board follows: which orders, and which bundles.

Where ``agent.toml`` names the operator's key, a task or a plan counts only if the operator's signature stands behind
it. How far orders were followed is kept in the agent's folder, so that a restart forgets no mark. It is not synced:
after a power cut a board may follow an order that was said shortly before the last one.

Where ``agent.toml`` pins bundles, others wait until a person allows them: ``lamina-agent allow DIGEST``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lamina.broker.wire.deployments import Deployment
from lamina.broker.wire.messages import RoundPlan, Task, decode
from lamina.broker.wire.orders import Mandate, opened
from lamina.edge_agent.admission.orders import Marks, check_bundle, marked
from lamina.edge_agent.settings import AgentSettings
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError, DecodeError
from lamina.models.storage.disk import DISK, Disk, read
from lamina.models.storage.replace import replace_file

if TYPE_CHECKING:
    from lamina.broker.wire.signatures import Checker

log = logging.getLogger("lamina.agent")

ALLOWED = "allowed"
"""In the agent's folder: digests of manifests that a person has allowed, one a line."""

_MARKS = "orders"


class Orders:
    """Opens what a coordinator says, and refuses what this board must not follow.

    Args:
        settings: the operator's of the board.
        disk: the marks lie on.
        clock: seconds since 1970.

    Raises:
        ConfigError: the operator's key can't be read.
    """

    def __init__(self, settings: AgentSettings, disk: Disk = DISK, clock: Callable[[], float] = time.time) -> None:
        self._settings, self._disk, self._clock = settings, disk, clock
        self._folder = Path(settings.folder)
        self._checker = _checker(settings)
        self._marks = self._read() if self._checker else Marks()

    def task(self, topic: str, payload: bytes) -> Task:
        """The task that came on a topic.

        Raises:
            DecodeError: it is none, or the operator does not stand behind it.
        """
        order, mandate = self._opened("task", topic, payload)
        task = decode(order, Task)
        if mandate is not None and task.accepted:
            check_bundle(mandate, task.manifest)
        return task

    def plan(self, topic: str, payload: bytes) -> RoundPlan:
        """The plan that came on a topic.

        Raises:
            DecodeError: it is none, or the operator does not stand behind it.
        """
        order, mandate = self._opened("plan", topic, payload)
        plan = decode(order, RoundPlan)
        if mandate is not None and plan.state == "training" and plan.digests is msgspec.UNSET:
            raise DecodeError("a signed plan without digests of the layers' values")
        return plan

    def deployment(self, topic: str, payload: bytes) -> Deployment:
        """The deployment that came on a topic.

        Raises:
            DecodeError: it is none, or the operator does not stand behind it.
        """
        order, _ = self._opened("deployment", topic, payload)
        return decode(order, Deployment)

    @property
    def pins(self) -> bool:
        """Whether there are bundles that may not be trained here."""
        return self._settings.bundles is not None

    def allows(self, manifest: str) -> bool:
        """Whether a bundle may be trained here."""
        pinned = self._settings.bundles
        return pinned is None or manifest in pinned or manifest in allowed(self._folder)

    def _opened(self, kind: str, topic: str, payload: bytes) -> tuple[bytes, Mandate | None]:
        if self._checker is None:
            return opened(payload), None
        try:
            trusted = self._checker.check(topic, payload)
            marks = marked(self._marks, trusted.mandate, kind, trusted.sequence, self._clock())
        except DecodeError as error:
            raise DecodeError(f"a {kind} that this board does not follow: {error}") from error
        if marks != self._marks:
            self._marks = marks
            self._write()
        return trusted.order, trusted.mandate

    def _read(self) -> Marks:
        path = self._folder / _MARKS
        try:
            return from_json(read(path, self._disk), Marks)
        except FileNotFoundError:
            return Marks()
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s: %s: how far orders were followed can't be read: %s", self._settings.device, path, error)
            return Marks()

    def _write(self) -> None:
        try:
            replace_file(self._folder / _MARKS, msgspec.json.encode(self._marks), self._disk, durable=False)
        except OSError as error:
            log.warning(
                "%s: can't keep in %s how far orders were followed: %s",
                self._settings.device,
                self._folder,
                error.strerror,
            )


def allowed(folder: Path) -> frozenset[str]:
    """Digests of the manifests that a person has allowed."""
    try:
        return frozenset((folder / ALLOWED).read_text(encoding="ascii").split())
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        log.warning("%s can't be read: %s", folder / ALLOWED, error)
        return frozenset()


def _checker(settings: AgentSettings) -> Checker | None:
    if not settings.operator_key_file:
        return None
    from lamina.broker.wire.signatures import Checker, public_key  # boards that were not enrolled do without libsodium

    what = f"operator_key_file {settings.operator_key_file}"
    try:
        text = Path(settings.operator_key_file).read_text(encoding="ascii")
    except OSError as error:
        raise ConfigError(f"{what}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: holds no key") from None
    return Checker(public_key(text, what), settings.federation)
