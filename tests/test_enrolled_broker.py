"""What a device's certificate, a stranger and a site may do at the broker that `lamina init` configures, on mosquitto.

Raw clients say what no program of Lamina would.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from lamina import broker
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.coordinator.enrolment.certificates import Authority, utc_now
from lamina.coordinator.enrolment.home import Home
from lamina.emulation.rig.mosquitto import free_port
from lamina.models.errors import ConfigError, LinkError
from tests.conftest import missing
from tests.enrolled import (
    GREENHOUSE,
    Client,
    Pass,
    board_pass,
    broker_of,
    coordinator_pass,
    idle_sockets,
    is_let_in,
    made,
    opened,
    settled,
    until,
)
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.broker

OTHERS = [
    GREENHOUSE.layer_update("conv", "pi-2"),
    GREENHOUSE.device("pi-2", "status"),
    GREENHOUSE.device("pi-2", "profile"),
    GREENHOUSE.device("pi-2", "updates"),
    GREENHOUSE.device("pi-1", "task"),
    GREENHOUSE.round,
    GREENHOUSE.deployment,
    GREENHOUSE.device("pi-2", "deployed"),
    GREENHOUSE.advance(0),
    GREENHOUSE.layer_global("conv", 0),
    GREENHOUSE.bundle("ab" * 32, 0),
    GREENHOUSE.coordinator_status,
    GREENHOUSE.lease,
    GREENHOUSE.kept,
    GREENHOUSE.layer_partial("conv", "pi-1"),
    GREENHOUSE.aggregator_status("pi-1"),
    "lamina/v1/orchard/device/pi-1/status",
    "lamina/v1/orchard/layer/conv/update/pi-1",
    "lamina/v2/greenhouse/device/pi-1/status",
    "$SYS/broker/uptime",
    "anything/at/all",
]
OWN = [GREENHOUSE.device("pi-1", leaf) for leaf in ("status", "profile", "request", "report", "updates", "deployed")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, mosquitto_program: str) -> Iterator[Home]:
    home = made(tmp_path_factory.mktemp("federation") / "greenhouse", "pi-1", "pi-2", "pi-3")
    home.enrol_site("barn", ["pi-3"], days=30)
    with broker_of(home):
        yield home


def site_pass(home: Home) -> Pass:
    return Pass(home, home.folder / "boards" / "barn.crt", home.register.port)


def test_a_device_writes_its_own_topics_and_no_others(home: Home) -> None:
    with Client(coordinator_pass(home)) as coordinator, Client(board_pass(home, "pi-1"), "pi-1") as board:
        coordinator.subscribe("#")
        own = [*OWN, GREENHOUSE.layer_update("conv", "pi-1")]
        assert [topic for topic in OTHERS if board.publish(topic)] == []
        assert [topic for topic in own if not board.publish(topic)] == []
        until(lambda: len(coordinator.heard) >= len(own), "the device's own")
        assert [topic for topic, _ in coordinator.heard] == own


def test_a_device_hears_the_coordinator_and_no_other_device(home: Home) -> None:
    forbidden = [
        GREENHOUSE.device("pi-2", "task"),
        GREENHOUSE.device("pi-2", "profile"),
        GREENHOUSE.layer_update("conv", "pi-2"),
        GREENHOUSE.layer_partial("conv", "barn"),
        GREENHOUSE.lease,
        GREENHOUSE.kept,
    ]
    allowed = [
        GREENHOUSE.round,
        GREENHOUSE.deployment,
        GREENHOUSE.layer_global("conv", 0),
        GREENHOUSE.advance(0),
        GREENHOUSE.bundle("ab" * 32, 0),
        GREENHOUSE.device("pi-1", "task"),
    ]
    with Client(coordinator_pass(home)) as coordinator, Client(board_pass(home, "pi-1")) as board:
        board.subscribe("#", "$SYS/#", "lamina/v1/greenhouse/device/+/task")
        board.publish(OWN[0])  # what was subscribed to before this counts
        for topic in (*forbidden, *allowed):
            assert coordinator.publish(topic)
        until(lambda: {topic for topic, _ in board.heard} >= set(allowed), "what it may hear")
        assert {topic for topic, _ in board.heard} == set(allowed)


def test_a_device_that_takes_the_coordinators_client_id_takes_nothing(home: Home) -> None:
    name = GREENHOUSE.client("coordinator")
    with Client(coordinator_pass(home), name, clean=False) as coordinator:
        coordinator.subscribe(GREENHOUSE.updates)
        for clean in (True, False):
            with Client(board_pass(home, "pi-1"), name, clean=clean) as thief:
                assert thief.connected
                settled()
                assert thief.heard == []
        with Client(board_pass(home, "pi-1")) as board:
            assert board.publish(GREENHOUSE.layer_update("conv", "pi-1"))
        until(lambda: bool(coordinator.heard), "the coordinator's own subscription")
        assert coordinator.ended == []


def test_a_device_takes_no_other_devices_session(home: Home) -> None:
    with Client(board_pass(home, "pi-2"), "pi-2") as other, Client(board_pass(home, "pi-1"), "pi-2") as thief:
        assert thief.connected
        assert other.publish(GREENHOUSE.device("pi-2", "status"))
        assert other.ended == []


def test_no_devices_certificate_is_good_on_the_coordinators_way_in_nor_the_other_way_round(home: Home) -> None:
    register = home.register
    assert is_let_in(board_pass(home, "pi-1"))
    assert is_let_in(coordinator_pass(home))
    assert not is_let_in(board_pass(home, "pi-1", register.coordinator_port))
    assert not is_let_in(coordinator_pass(home, register.port))


def test_a_stranger_is_not_let_in(home: Home, tmp_path: Path) -> None:
    stranger = Authority.new("lamina greenhouse devices", utc_now()).issue("pi-1", utc_now(), 30)
    (tmp_path / "pi.crt").write_text(stranger.certificate)
    (tmp_path / "pi.key").write_text(stranger.key)
    for port in (home.register.port, home.register.coordinator_port):
        assert not is_let_in(Pass(home, None, port))
        assert not is_let_in(Pass(home, tmp_path / "pi.crt", port))
        assert not is_let_in(Pass(home, home.broker / "broker.crt", port))  # a server's, not a client's


def test_a_boards_certificate_does_not_pass_for_the_brokers(home: Home) -> None:
    folder = board_pass(home, "pi-1").certificate.parent
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "board.crt", folder / "board.key")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname="pi-1")
    answering = server.wrap_bio(there, back, server_side=True)

    def shake_hands() -> None:
        for _ in range(4):
            for side in (asking, answering):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()

    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands()


def test_what_one_device_can_make_the_broker_keep_is_bounded(home: Home) -> None:
    """Once the layers are known, it is their number times the largest message; other devices go on meanwhile."""
    rules = (home.broker / "acl").read_text()
    named = rules.replace("layer/+/update/", "layer/conv/update/")
    (home.broker / "acl").write_text(named)  # as it is written when there is a bundle
    try:
        with Client(board_pass(home, "pi-1")) as board, Client(board_pass(home, "pi-2")) as other:
            until(lambda: not board.publish(GREENHOUSE.layer_update("made-up", "pi-1"), retain=True), "the new rules")
            kept = [
                topic
                for n in range(60)
                if board.publish(topic := GREENHOUSE.layer_update(f"l{n}", "pi-1"), retain=True)
            ]
            assert kept == []
            for _ in range(60):  # over each other
                assert board.publish(GREENHOUSE.layer_update("conv", "pi-1"), bytes(900_000), retain=True)
            assert other.publish(GREENHOUSE.device("pi-2", "report"))
    finally:
        (home.broker / "acl").write_text(rules)


def test_a_message_that_is_too_large_ends_its_sender_alone(home: Home) -> None:
    with Client(coordinator_pass(home)) as coordinator, Client(board_pass(home, "pi-1")) as board:
        coordinator.subscribe(GREENHOUSE.updates)
        assert not board.publish(GREENHOUSE.layer_update("conv", "pi-1"), bytes((1 << 20) + 1))
        settled()
        assert [len(payload) for _, payload in coordinator.heard if len(payload) > 1 << 20] == []
        assert coordinator.ended == []


def test_a_site_speaks_for_its_own_devices(home: Home) -> None:
    may = [
        GREENHOUSE.device("pi-3", "profile"),
        GREENHOUSE.layer_partial("conv", "barn"),
        GREENHOUSE.aggregator_status("barn"),
    ]
    may_not = [
        GREENHOUSE.device("pi-1", "profile"), GREENHOUSE.device("pi-1", "status"), GREENHOUSE.round,
        GREENHOUSE.layer_partial("conv", "stable"), GREENHOUSE.aggregator_status("stable"),
        GREENHOUSE.device("pi-3", "task"), GREENHOUSE.layer_update("conv", "pi-1"),
    ]  # fmt: skip
    with Client(site_pass(home)) as site:
        assert [topic for topic in may if not site.publish(topic)] == []
        assert [topic for topic in may_not if site.publish(topic)] == []


def test_mosquittos_own_tools_find_the_same(home: Home) -> None:
    if shutil.which("mosquitto_pub") is None:
        missing("mosquitto-clients isn't installed")
    board = board_pass(home, "pi-1")
    assert board.tool("mosquitto_pub", "-q", "1", "-t", OWN[0], "-m", "x").returncode == 0
    denied = board.tool("mosquitto_pub", "-q", "1", "-t", GREENHOUSE.round, "-m", "x")
    assert "Not authorized" in denied.stdout + denied.stderr
    assert Pass(home, None, home.register.port).tool("mosquitto_pub", "-t", OWN[0], "-m", "x").returncode != 0
    with Client(coordinator_pass(home)) as coordinator:
        coordinator.publish(GREENHOUSE.device("pi-2", "task"), b"secret", retain=True)
    spied = board.tool("mosquitto_sub", "-t", "#", "-W", "1")
    assert "secret" not in spied.stdout


def test_what_is_revoked_is_shut_out_at_once_and_nobody_else(tmp_path: Path, mosquitto_program: str) -> None:
    home = made(tmp_path / "greenhouse", "pi-1", "pi-2")
    with broker_of(home) as running:
        with Client(coordinator_pass(home)) as coordinator, Client(board_pass(home, "pi-1"), clean=False) as stolen:
            stolen.subscribe(GREENHOUSE.round)
            assert stolen.publish(GREENHOUSE.device("pi-1", "status"))
            home.revoke("pi-1")
            until(lambda: "reads its files again" in running.words, "a broker that knows")
            until(lambda: not stolen.publish(GREENHOUSE.device("pi-1", "report")), "the rules")
            assert coordinator.publish(GREENHOUSE.round, b"plan", retain=True)
            settled()
            assert stolen.heard == []
            assert coordinator.ended == []
        assert not is_let_in(board_pass(home, "pi-1"))
        assert is_let_in(board_pass(home, "pi-2"))
        assert is_let_in(coordinator_pass(home))
        with pytest.raises(ConfigError, match="was revoked before"):
            home.revoke("pi-1")
        home.enrol("pi-1", days=30, budget_mib=None, data="x.npz")  # the board that takes its place
        opened(home, "pi-1")
        until(lambda: _may_write(home, "pi-1"), "the new board")


def _may_write(home: Home, board: str) -> bool:
    try:
        with Client(board_pass(home, board)) as client:
            return client.connected and client.publish(GREENHOUSE.device(board, "status"))
    except (OSError, ssl.SSLError):
        return False


def test_a_renewed_coordinator_and_a_renewed_broker_are_taken_while_it_runs(
    tmp_path: Path, mosquitto_program: str
) -> None:
    home = made(tmp_path / "greenhouse", "pi-1")
    with broker_of(home) as running:
        home.revoke("coordinator")
        home.renew_coordinator()
        home.renew_broker()
        until(lambda: "reads its files again" in running.words, "a broker that knows")
        until(lambda: is_let_in(coordinator_pass(home)), "the new coordinator")
        assert is_let_in(board_pass(home, "pi-1"))


def test_strangers_that_hold_connections_open_keep_no_coordinator_out(tmp_path: Path, mosquitto_program: str) -> None:
    home = made(tmp_path / "greenhouse", "pi-1", max_devices=5)
    with broker_of(home):
        held = idle_sockets(home.register.port, 40)
        try:
            assert is_let_in(coordinator_pass(home))
        finally:
            for one in held:
                one.close()
        until(lambda: is_let_in(board_pass(home, "pi-1")), "room for the device")


# The programs' own link.


def address(at: Pass, **changes: str) -> BrokerAddress:
    certificate = str(at.certificate) if at.certificate else ""
    key = str(at.certificate.with_suffix(".key")) if at.certificate else ""
    given = {"ca_file": str(at.home.broker / "ca.crt"), "cert_file": certificate, "key_file": key, **changes}
    return BrokerAddress(host="localhost", port=at.port, **given)


async def test_a_client_without_a_certificate_is_told_something(home: Home) -> None:
    with pytest.raises(LinkError, match="closed the connection without an answer"):
        await mqtt_dial(address(Pass(home, None, home.register.port)))("x", None).__aenter__()


async def test_a_broker_of_another_authority_is_not_trusted(home: Home, tmp_path: Path) -> None:
    (tmp_path / "other.crt").write_text(Authority.new("lamina greenhouse devices", utc_now()).pem)
    at = Pass(home, None, home.register.port)
    with pytest.raises(LinkError, match="certificate verify failed"):
        await mqtt_dial(address(at, ca_file=str(tmp_path / "other.crt")))("x", None).__aenter__()


async def test_large_messages_pass_over_tls(home: Home) -> None:
    payloads = [bytes([n]) * (256 * 1024) for n in range(8)]
    async with mqtt_dial(address(coordinator_pass(home)))("c", None) as link, asyncio.timeout(PATIENCE_S):
        await link.subscribe(GREENHOUSE.bundle("cd" * 32, 1))
        await asyncio.gather(*(link.publish(GREENHOUSE.bundle("cd" * 32, 1), payload) for payload in payloads))
        deliveries = link.deliveries()
        assert [(await anext(deliveries)).payload for _ in payloads] == payloads


def test_a_sites_broker_passes_on_what_its_own_boards_say_and_no_more(home: Home, tmp_path: Path) -> None:
    """The README's bridge: even a site's broker that lets others in speaks for its own boards alone."""
    site = Home(tmp_path / "site")
    register = msgspec.structs.replace(home.register, port=free_port(), coordinator_port=free_port(), certificates=())
    site.make(register, (home.folder / "authority" / "operator.pub").read_text())
    for board in ("pi-3", "pi-1"):
        site.enrol(board, days=30, budget_mib=None, data="x.npz")
        opened(site, board)
    bridge = (Path(broker.__file__).parent / "mosquitto" / "site.conf").read_text()
    (site.broker / "bridge.conf").write_text(bridge.replace("broker.example:8883", f"localhost:{home.register.port}"))
    shutil.copy(home.broker / "ca.crt", site.broker / "federation-ca.crt")
    for suffix in ("crt", "key"):
        shutil.copy(home.folder / "boards" / f"barn.{suffix}", site.broker)
    with broker_of(site), Client(coordinator_pass(home)) as coordinator:
        coordinator.subscribe(f"{GREENHOUSE.root}/device/#")
        assert coordinator.publish(GREENHOUSE.device("pi-3", "task"), b"go", retain=True)
        assert coordinator.publish(GREENHOUSE.round, b"plan", retain=True)
        with Client(board_pass(site, "pi-3")) as own, Client(board_pass(site, "pi-1")) as other:
            own.subscribe(GREENHOUSE.device("pi-3", "task"), GREENHOUSE.round)
            until(lambda: {payload for _, payload in own.heard} >= {b"go", b"plan"}, "what the coordinator says")
            assert other.publish(GREENHOUSE.device("pi-1", "profile"), b"not the site's to say")
            assert own.publish(GREENHOUSE.device("pi-3", "profile"), b"own")
        until(lambda: b"own" in {payload for _, payload in coordinator.heard}, "the site's board")
        settled()
        assert b"not the site's to say" not in {payload for _, payload in coordinator.heard}
