"""Do the files of broker/mosquitto do what their README says? Its own commands make the certificates here."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina import broker
from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire.topics import Topics
from lamina.models.errors import LinkError
from tests.conftest import missing
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.broker

TEMPLATE = Path(broker.__file__).parent / "mosquitto"
LAB = Topics("lab")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        missing("openssl isn't installed")
    folder = tmp_path_factory.mktemp("mosquitto")
    shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True)
    commands = re.search(r"```sh\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert commands
    subprocess.run(
        ["sh", "-eu", "-c", commands[1]],
        cwd=folder,
        env=os.environ | {"BROKER": "broker.example"},
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope="module")
def port(folder: Path, mosquitto_program: str) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    text = (folder / "mosquitto.conf").read_text().replace("listener 8883", f"listener {free} 127.0.0.1")
    as_root = "user root\n" if os.geteuid() == 0 else ""  # pytest's folder is closed to the user mosquitto
    (folder / "here.conf").write_text(text + as_root)
    with subprocess.Popen([mosquitto_program, "-c", "here.conf"], cwd=folder, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(free)
            yield free
        finally:
            process.terminate()


def _wait_for(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.01)
    raise AssertionError("mosquitto does not answer")


def address(folder: Path, port: int, name: str) -> BrokerAddress:
    return BrokerAddress(
        host="localhost",
        port=port,
        ca_file=str(folder / "ca.crt"),
        cert_file=str(folder / f"{name}.crt") if name else "",
        key_file=str(folder / f"{name}.key") if name else "",
    )


async def test_device_writes_its_own_update_and_no_other_devices(folder: Path, port: int) -> None:
    coordinator, board = (mqtt_dial(address(folder, port, name)) for name in ("coordinator", "board-1"))
    async with coordinator("c", None) as listening, board("board-2", None) as link:  # the id that it claims is no help
        await listening.subscribe(LAB.updates)
        with pytest.raises(LinkError, match="Not authorized"):
            await link.publish(LAB.layer_update("conv", "board-2"), b"forged")
        await link.publish(LAB.layer_update("conv", "board-1"), b"own")
        delivery = await anext(listening.deliveries())
    assert (delivery.topic, delivery.payload) == (LAB.layer_update("conv", "board-1"), b"own")


async def test_device_reads_what_it_needs_and_no_more(folder: Path, port: int) -> None:
    coordinator, board = (mqtt_dial(address(folder, port, name)) for name in ("coordinator", "board-1"))
    forbidden = [
        LAB.device("board-2", "task"),
        LAB.device("board-2", "profile"),
        LAB.layer_update("conv", "board-2"),
    ]
    allowed = [
        LAB.coordinator_status,
        LAB.round,
        LAB.layer_global("conv", 0),
        LAB.advance(0),
        LAB.bundle("ab", 0),
        LAB.device("board-1", "task"),
    ]
    async with coordinator("c", None) as writing, board("board-1", None) as link, asyncio.timeout(PATIENCE_S):
        await link.subscribe(f"{LAB.root}/#")
        for topic in forbidden + allowed:
            await writing.publish(topic, b"x")
        deliveries = link.deliveries()
        received = [(await anext(deliveries)).topic for _ in allowed]
    assert received == allowed


@pytest.mark.parametrize("leaf", ["status", "profile", "report"])
async def test_device_writes_its_own_leaves(folder: Path, port: int, leaf: str) -> None:
    async with mqtt_dial(address(folder, port, "board-1"))("board-1", None) as link:
        await link.publish(LAB.device("board-1", leaf), b"x")


async def test_device_does_not_write_plans_globals_or_tasks(folder: Path, port: int) -> None:
    for topic in (LAB.round, LAB.layer_global("conv", 0), LAB.device("board-1", "task")):
        async with mqtt_dial(address(folder, port, "board-1"))("board-1", None) as link:
            with pytest.raises(LinkError, match="Not authorized"):
                await link.publish(topic, b"x")


async def test_client_without_a_certificate_is_not_let_in(folder: Path, port: int) -> None:
    with pytest.raises(LinkError, match="closed the connection without an answer"):
        await mqtt_dial(address(folder, port, ""))("x", None).__aenter__()


async def test_client_of_another_authority_does_not_trust_the_broker(folder: Path, port: int, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=x",
            "-keyout",
            os.devnull,
            "-out",
            other,
        ],
        check=True,
        capture_output=True,
    )
    with pytest.raises(LinkError, match="certificate verify failed"):
        await mqtt_dial(BrokerAddress(host="localhost", port=port, ca_file=str(other)))("x", None).__aenter__()


async def test_large_messages_pass_over_tls(folder: Path, port: int) -> None:
    payloads = [bytes([n]) * (256 * 1024) for n in range(8)]
    async with mqtt_dial(address(folder, port, "coordinator"))("c", None) as link, asyncio.timeout(PATIENCE_S):
        await link.subscribe(LAB.round)
        await asyncio.gather(*(link.publish(LAB.round, payload) for payload in payloads))
        deliveries = link.deliveries()
        assert [(await anext(deliveries)).payload for _ in payloads] == payloads
