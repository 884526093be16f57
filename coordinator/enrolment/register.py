"""What an authority remembers: every certificate that it has issued, and which ones it took back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError
from lamina.models.storage.secret_file import write_secret

Role = Literal["device", "site", "coordinator", "broker"]


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One certificate.

    Attributes:
        name: of whose it is.
        role: what it lets in.
        serial: its number, hexadecimal.
        until: seconds since 1970 at which it ends.
        revoked: seconds since 1970 at which it was taken back; 0: it was not.
        devices: of a site, those that it may speak for.
    """

    name: str
    role: Role
    serial: str
    until: int
    revoked: int = 0
    devices: tuple[str, ...] = ()


class Register(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that an authority has issued for a federation.

    Attributes:
        federation: its name.
        hosts: names and addresses of the broker; the first one is what boards are told.
        port: where devices connect.
        coordinator_port: where the coordinator and the operator's commands do.
        max_devices: for how many the broker has room.
        memory_mib: that the broker may take.
        certificates: in the order of their issue.
    """

    federation: str
    hosts: tuple[str, ...]
    port: int
    coordinator_port: int
    max_devices: int
    memory_mib: int
    certificates: tuple[Certificate, ...] = ()

    def with_certificate(self, certificate: Certificate) -> Register:
        """The register with one more."""
        return msgspec.structs.replace(self, certificates=(*self.certificates, certificate))

    def without(self, name: str, now_s: int) -> Register:
        """The register with everything of a name taken back."""
        return msgspec.structs.replace(
            self,
            certificates=tuple(
                msgspec.structs.replace(one, revoked=now_s) if one.name == name and not one.revoked else one
                for one in self.certificates
            ),
        )

    def present(self, *roles: Role) -> list[Certificate]:
        """The last good certificate of each name, names ascending."""
        last = {one.name: one for one in self.certificates if one.role in roles and not one.revoked}
        return [last[name] for name in sorted(last)]

    def find(self, name: str) -> Certificate | None:
        """The last good certificate of a name."""
        return next((one for one in reversed(self.certificates) if one.name == name and not one.revoked), None)

    def revoked(self, *roles: Role) -> list[int]:
        """Numbers of what was taken back."""
        return [int(one.serial, 16) for one in self.certificates if one.role in roles and one.revoked]


def read_register(path: Path) -> Register:
    """The register of a file.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    try:
        return from_json(path.read_bytes(), Register)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file: `lamina init FOLDER` makes a federation's folder") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: it is damaged: {error}") from None


def write_register(path: Path, register: Register) -> None:
    """Write the file in the place of the one before."""
    write_secret(path, msgspec.json.format(msgspec.json.encode(register), indent=1) + b"\n")
