"""Every error of Lamina in one tree, split by whose fault it is.

    LaminaError
    ├── ConfigError         the operator: a file, a key, a flag. Says what, where, and what to do.
    │   ├── ModelError      the model: an operator without a rule, a cut that isn't there
    │   ├── DataError       the data: a missing file, labels out of range
    │   └── BundleError     a bundle that is damaged, or isn't one
    ├── RemoteError         a peer: log it, count it, carry on
    │   ├── DecodeError     bytes that aren't what they claim to be
    │   └── RejectedUpdate  a well-formed update that the round machine refuses
    └── LinkError           the network: retry
        ├── BrokerUnreachable   retried, and given up
        ├── AccessDenied        refused credentials, a certificate that is not trusted: a `ConfigError`, too
        └── TakenOver           another program has this one's name: a `ConfigError`, too

A `ConfigError` ends a command with its one line and exit status 2. A `RemoteError` never stops a round.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LaminaError(Exception):
    """The root; its message is one line that a person can act upon."""


class ConfigError(LaminaError):
    """The operator's input is wrong."""


class ModelError(ConfigError):
    """The model can't be trained as asked."""


class DataError(ConfigError):
    """The device's data can't be used."""


class BundleError(ConfigError):
    """A bundle is damaged, or was built for something else."""


class RemoteError(LaminaError):
    """A remote peer sent something that can't be used. What it sent is never quoted at length."""

    def __init__(self, message: str) -> None:
        super().__init__(brief(message))


class DecodeError(RemoteError):
    """Bytes from the network do not decode."""


class RejectedUpdate(RemoteError):
    """A well-formed update that must not be folded.

    Attributes:
        reason: one word for the counters, such as ``stale`` or ``duplicate``.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class LinkError(LaminaError):
    """The connection to the broker failed or dropped: try again."""


class BrokerUnreachable(LinkError):
    """The broker did not answer for so long that the program gives up."""


class AccessDenied(LinkError, ConfigError):
    """The broker refuses the credentials, or its certificate is not trusted: the operator must change something."""


class TakenOver(LinkError, ConfigError):
    """Another program has connected under this one's name and taken its place: coming back would take its place."""


def brief(text: str, most: int = 240) -> str:
    """Return text that a remote may have had a part in, fit for one line of a log: cut, and without control characters.

    Args:
        text: what is to be shown.
        most: characters of it that are shown.
    """
    shown = "".join(character if character.isprintable() else "?" for character in text[:most])
    return shown if len(text) <= most else f"{shown}... ({len(text)} characters)"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def require(condition: bool, message: str) -> None:
    """Refuse the operator's input with ``message`` unless the condition holds.

    Raises:
        ConfigError: it does not.
    """
    if not condition:
        raise ConfigError(message)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
