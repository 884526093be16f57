"""A federation's folder, as ``lamina init`` makes it, and what is done in it.

federation.toml     what the coordinator runs
authority/          secret, and kept off the other machines: the authorities' keys, the operator's, the register
broker/             all that mosquitto needs, for the broker's machine
coordinator/        its certificate and keys, and the operator's mandate, for the coordinator's machine
boards/             one file for each board that has not fetched its own, secret
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from nacl.signing import SigningKey

from lamina.broker.settings import load_toml
from lamina.broker.wire.join_code import BoardFile, JoinCode, fingerprint, read_board_file
from lamina.broker.wire.signatures import public_key, public_pem, secret_pem
from lamina.broker.wire.topics import check_name
from lamina.coordinator.enrolment import broker_files, texts
from lamina.coordinator.enrolment.certificates import Authority, Issued, utc_now
from lamina.coordinator.enrolment.register import Certificate, Register, Role, read_register, write_register
from lamina.coordinator.enrolment.tickets import Tickets
from lamina.coordinator.records.kept_model import as_trained
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import read_bundle
from lamina.models.errors import ConfigError
from lamina.models.storage.folder_lock import held
from lamina.models.storage.replace import replace_file
from lamina.models.storage.secret_file import read_secret, write_secret

COORDINATOR, BROKER = "coordinator", "broker"
BROKER_DAYS = 825
_TRIES, _TRY_S = 50, 0.1
_RESERVED = (COORDINATOR, BROKER)


class Home:
    """A federation's folder.

    Args:
        folder: where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = folder / "authority"
        self.broker, self._coordinator, self._boards = folder / "broker", folder / "coordinator", folder / "boards"

    @property
    def exists(self) -> bool:
        """Whether the folder is one."""
        return (self._authority / "register.json").is_file()

    @property
    def register(self) -> Register:
        """What was issued.

        Raises:
            ConfigError: the folder is none of ``lamina init``'s.
        """
        return read_register(self._authority / "register.json")

    # -- beginning ---------------------------------------------------------------------------------------------------

    def make(self, register: Register, operator: str = "") -> None:
        """Make the folder.

        Args:
            register: says how the federation is called, and where its broker is.
            operator: public key (PEM) of an operator whose secret key is elsewhere; empty: a new one.

        Raises:
            ConfigError: there is something already, or the key is none.
        """
        if operator:
            public_key(operator, "the operator's public key")
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"{self.folder} isn't empty: `lamina init` makes a new folder")
        for folder in (self._authority, self.broker, self._coordinator, self._boards):
            folder.mkdir(parents=True, mode=0o700)
        now = utc_now()
        name = register.federation
        for kind, title in (("ca", "devices"), ("coordinator-ca", "coordinators")):
            authority = Authority.new(f"lamina {name} {title}", now)
            write_secret(self._authority / f"{kind}.key", authority.key_pem)
            replace_file(self._authority / f"{kind}.crt", authority.pem.encode())
        coordinator = SigningKey.generate()
        if not operator:
            key = SigningKey.generate()
            write_secret(self._authority / "operator.key", secret_pem(key))
            operator = public_pem(key.verify_key)
        replace_file(self._authority / "operator.pub", operator.encode())
        write_secret(self._coordinator / "signing.key", secret_pem(coordinator))
        replace_file(self._coordinator / "signing.pub", public_pem(coordinator.verify_key).encode())
        write_register(self._authority / "register.json", register)
        replace_file(self.folder / "federation.toml", texts.federation_toml(register).encode())
        self.renew_broker()
        self.renew_coordinator()

    # -- certificates ------------------------------------------------------------------------------------------------

    def authority(self, kind: str = "ca") -> Authority:
        """Who signs devices' certificates, and the broker's (``ca``), or the coordinator's (``coordinator-ca``).

        Raises:
            ConfigError: its files are missing or damaged.
        """
        key = read_secret(self._authority / f"{kind}.key", "the authority's key")
        try:
            return Authority.read((self._authority / f"{kind}.crt").read_text(encoding="ascii"), key)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._authority / kind}.crt or .key: {error}") from None

    def renew_broker(self) -> None:
        """A new certificate for the broker."""
        register = self.register
        hosts = list(dict.fromkeys((*register.hosts, "localhost", "127.0.0.1")))
        issued = self.authority().issue(BROKER, utc_now(), BROKER_DAYS, hosts)
        self._save(issued, self.broker / "broker", BROKER, "broker")

    def renew_coordinator(self) -> None:
        """A new certificate for the coordinator."""
        issued = self.authority("coordinator-ca").issue(COORDINATOR, utc_now(), BROKER_DAYS)
        self._save(issued, self._coordinator / "coordinator", COORDINATOR, "coordinator")
        replace_file(self._coordinator / "ca.crt", self.authority().pem.encode())

    def enrol(self, device: str, *, days: int, budget_mib: float | None, data: str, at: str = "") -> None:
        """Give a board a certificate, and make its file.

        Args:
            device: its name.
            days: for how long the certificate is good.
            budget_mib: memory that training may take there; ``None``: the board measures it.
            data: where its samples are, as agent.toml says it.
            at: where the board meets the broker; empty: at the broker's first host.

        Raises:
            ConfigError: a board of this name was enrolled, or the name won't do.
        """
        check_device(device)
        register = self.register
        if register.find(device):
            raise ConfigError(
                f"{device} was enrolled: `lamina renew {device}` makes a new certificate, "
                f"`lamina revoke {device}` takes the old one back"
            )
        if len(register.present("device", "site")) >= register.max_devices:
            raise ConfigError(
                f"the broker has room for {register.max_devices} devices: see max_devices in register.json"
            )
        self._make_board(device, days, texts.agent_toml(register, device, budget_mib=budget_mib, data=data, at=at))

    def renew(self, device: str, *, days: int) -> None:
        """Give an enrolled board a new certificate, and make its file; the one before is good until it ends.

        Raises:
            ConfigError: it was not enrolled, or its certificate was taken back.
        """
        known = self.register.find(device)
        if known is None or known.role != "device":
            raise ConfigError(f"{device} isn't enrolled: `lamina enrol {device}`")
        settings = self.folder / "boards" / f"{device}.toml"
        try:
            text = settings.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{settings}: can't be read: {error.strerror}") from None
        self._make_board(device, days, text)

    def replace(self, device: str, *, days: int) -> None:
        """Give another board the name and the settings of one, whose certificate is taken back.

        Raises:
            ConfigError: it was not enrolled, or its certificate was taken back.
        """
        known, settings = self.register.find(device), self._boards / f"{device}.toml"
        if known is None or known.role != "device":
            raise ConfigError(
                f"{device} isn't enrolled, or was revoked before: `lamina enrol {device}` lets another board in"
            )
        try:
            text = settings.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{settings}: can't be read: {error.strerror}") from None
        self.revoke(device)
        self._make_board(device, days, text)

    def enrol_site(self, site: str, devices: Sequence[str], *, days: int) -> Path:
        """Give a site's broker and aggregator a certificate, by which they speak for these devices and no others."""
        check_device(site)
        issued = self.authority().issue(site, utc_now(), days)
        self._save(issued, self._boards / site, site, "site", tuple(sorted(devices)))
        return self._boards / f"{site}.crt"

    def revoke(self, name: str) -> None:
        """Take everything of a name back.

        Raises:
            ConfigError: nothing of this name is good.
        """
        register = self.register
        if register.find(name) is None:
            raise ConfigError(f"{name} isn't enrolled, or was revoked before")
        if name == BROKER:
            raise ConfigError(
                "boards know the broker by its authority, and look at no list: make a new federation folder"
            )
        write_register(self._authority / "register.json", register.without(name, int(time.time())))
        self.tickets().forget(name)
        for path in self._boards.glob(f"{name}.*"):
            path.unlink()
        self.write_broker_files()

    def _make_board(self, device: str, days: int, agent_toml: str) -> None:
        issued = self.authority().issue(device, utc_now(), days)
        file = BoardFile(
            federation=self.register.federation,
            device=device,
            files={
                "agent.toml": agent_toml,
                "ca.crt": self.authority().pem,
                "board.crt": issued.certificate,
                "board.key": issued.key,
                "operator.pub": (self._authority / "operator.pub").read_text(encoding="ascii"),
            },
        )
        write_secret(self._boards / f"{device}.board", msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n")
        replace_file(self._boards / f"{device}.toml", agent_toml.encode())
        self._note(issued, device, "device")

    def _save(self, issued: Issued, path: Path, name: str, role: Role, devices: tuple[str, ...] = ()) -> None:
        write_secret(path.with_suffix(".key"), issued.key)
        replace_file(path.with_suffix(".crt"), issued.certificate.encode())
        self._note(issued, name, role, devices)

    def _note(self, issued: Issued, name: str, role: Role, devices: tuple[str, ...] = ()) -> None:
        certificate = Certificate(name, role, f"{issued.serial:x}", issued.until, devices=devices)
        write_register(self._authority / "register.json", self.register.with_certificate(certificate))
        self.write_broker_files()

    # -- the broker --------------------------------------------------------------------------------------------------

    def layers(self) -> tuple[str, ...]:
        """Names of the layers of the bundle that federation.toml names; empty while there is none."""
        try:
            settings = load_toml(self.folder / "federation.toml", FederationSettings)
            bundle = as_trained(read_bundle(self.folder / settings.bundle), settings)
            return tuple(layer.name for layer in bundle.manifest.spec.layers)
        except ConfigError:
            return ()

    def write_broker_files(self) -> bool:
        """Write what follows from the register and the bundle; returns whether the rules changed."""
        register = self.register
        before = self._rules()
        texts_of = {
            broker_files.CONFIGURATION: broker_files.configuration(register, extra=self.bridge),
            broker_files.RULES: broker_files.rules(register, self.layers()),
            broker_files.COORDINATOR_RULES: broker_files.coordinator_rules(register),
            "ca.crt": self.authority().pem,
            "coordinator-ca.crt": self.authority("coordinator-ca").pem,
            "crl.pem": self.authority().revocations(register.revoked("device", "site"), utc_now()),
            "coordinator-crl.pem": self.authority("coordinator-ca").revocations(
                register.revoked("coordinator"), utc_now()
            ),
        }
        for name, text in texts_of.items():
            replace_file(self.broker / name, text.encode())
        return self._rules() != before

    @property
    def bridge(self) -> str:
        """What a site's broker says of its bridge to the federation's (``bridge.conf``); empty where there is none."""
        path = self.broker / "bridge.conf"
        return f"\n{path.read_text(encoding='utf-8')}" if path.exists() else ""

    def _rules(self) -> str:
        try:
            return (self.broker / broker_files.RULES).read_text(encoding="utf-8")
        except OSError:
            return ""

    # -- onto the boards ---------------------------------------------------------------------------------------------

    def tickets(self, clock: Callable[[], float] = time.time) -> Tickets:
        """The open codes."""
        return Tickets(self._authority / "tickets.json", clock)

    def code(self, device: str, minutes: float, host: str, port: int) -> JoinCode:
        """A new code for a board's file."""
        token = self.tickets().issue(device, minutes)
        return JoinCode(token, fingerprint(token, self.authority().der), host, port)

    def take_ticket(self, token: str, clock: Callable[[], float]) -> str | None:
        """The device of a code, which is good no more."""
        with self.held():
            return self.tickets(clock).take(token)

    def board_path(self, device: str) -> Path:
        """The path of a board's file."""
        return self._boards / f"{device}.board"

    def board_file(self, device: str) -> BoardFile:
        """A board's file, which is not kept: its key is on the board from now on."""
        path = self.board_path(device)
        file = read_board_file(read_secret(path, "a board's file").encode())
        path.unlink()
        return file

    # -- the operator's word -----------------------------------------------------------------------------------------

    @property
    def operator_key(self) -> Path:
        """The path of the operator's key, unless it is kept elsewhere."""
        return self._authority / "operator.key"

    @contextmanager
    def held(self) -> Iterator[None]:
        """One program at a time changes the folder; another waits a moment for its turn.

        Raises:
            ConfigError: it waited in vain.
        """
        for left in range(_TRIES, -1, -1):
            with ExitStack() as stack:
                try:
                    stack.enter_context(held(self._authority, "another lamina command"))
                except ConfigError:
                    if not left:
                        raise
                    time.sleep(_TRY_S)
                    continue
                yield
                return


def check_device(name: str) -> None:
    """Refuse a name that a board must not have.

    Raises:
        ConfigError: it can't stand in a topic or in a file's name, or it is another's.
    """
    check_name(name, "device")
    if name in _RESERVED or name.startswith("."):
        raise ConfigError(f"a device can't be called {name!r}: choose another name")
