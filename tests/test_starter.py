"""Starting a broker: the right one, on the right port, ended with its context, and clear about what is missing."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamina.broker.brokers.starter import (
    Kind,
    RunningBroker,
    choose,
    find_mosquitto,
    mosquitto_configuration,
    running_broker,
)
from lamina.broker.link.mqtt import mqtt_dial
from lamina.models.errors import ConfigError
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.broker


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_broker_listens_while_its_context_lives(any_broker: RunningBroker) -> None:
    with running_broker(any_broker.kind) as broker:
        assert broker.kind == any_broker.kind
        socket.create_connection((broker.address.host, broker.address.port)).close()
        assert alive(broker.pid)
    assert not alive(broker.pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((broker.address.host, broker.address.port))


def test_broker_ends_when_its_context_fails(any_broker: RunningBroker) -> None:
    with pytest.raises(ZeroDivisionError), running_broker(any_broker.kind) as broker:
        raise ZeroDivisionError
    assert not alive(broker.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="mosquitto learns of its parent's end from Linux alone")
def test_broker_ends_with_a_starter_that_is_killed(any_broker: RunningBroker) -> None:
    starter = (
        "import sys, time; from lamina.broker.brokers.starter import running_broker\n"
        "with running_broker(sys.argv[1]) as broker: print(broker.address.port, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", starter, any_broker.kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        port = int(process.stdout.readline())
        process.kill()
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return
        time.sleep(0.01)
    pytest.fail("the broker goes on without its starter")


def test_auto_is_mosquitto_where_it_is_installed(mosquitto: RunningBroker) -> None:
    with running_broker() as broker:
        assert broker.kind == mosquitto.kind
        assert broker.address.protocol == "5"


@pytest.mark.parametrize(
    ("kind", "mosquitto", "amqtt", "chosen"),
    [
        ("auto", "/usr/sbin/mosquitto", True, "/usr/sbin/mosquitto"),
        ("auto", None, True, None),
        ("mosquitto", "/usr/sbin/mosquitto", False, "/usr/sbin/mosquitto"),
        ("amqtt", "/usr/sbin/mosquitto", True, None),
    ],
)
def test_choice_of_broker(kind: Kind, mosquitto: str | None, amqtt: bool, chosen: str | None) -> None:
    assert choose(kind, mosquitto, amqtt) == chosen


@pytest.mark.parametrize(
    ("kind", "mosquitto", "amqtt", "message"),
    [
        ("mosquitto", None, True, r"isn't on PATH or in /usr/sbin.*apt install mosquitto"),
        ("auto", None, False, r"apt install mosquitto.*pip install 'lamina-fl\[emulation\]'"),
        ("amqtt", "/usr/sbin/mosquitto", False, r"pip install 'lamina-fl\[emulation\]'"),
    ],
)
def test_missing_broker_says_how_to_get_one(kind: Kind, mosquitto: str | None, amqtt: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose(kind, mosquitto, amqtt)


def test_embedded_broker_states_its_protocol(amqtt: RunningBroker) -> None:
    assert amqtt.address.protocol == "3.1.1"


def test_taken_port_is_said(any_broker: RunningBroker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
            running_broker(any_broker.kind, port=port).__enter__()


def test_broker_that_does_not_start_says_why(mosquitto_program: str, tmp_path: Path) -> None:
    assert mosquitto_program
    folder = tmp_path / "the name breaks\nthe configuration"
    with pytest.raises(ConfigError, match=r"ended with status 3; it said: .*Unknown configuration variable"):
        running_broker("mosquitto", folder=folder).__enter__()


async def test_folder_keeps_retained_messages_from_run_to_run(mosquitto_program: str, tmp_path: Path) -> None:
    assert mosquitto_program
    folder = tmp_path / "made" / "on demand"
    with running_broker("mosquitto", folder=folder) as broker:
        async with mqtt_dial(broker.address)("a", None) as link:
            await link.publish("kept", b"x", retain=True)
    with running_broker("mosquitto", folder=folder) as broker:
        async with mqtt_dial(broker.address)("a", None) as link, asyncio.timeout(PATIENCE_S):
            await link.subscribe("kept")
            assert (await anext(link.deliveries())).payload == b"x"


def test_configuration_states_every_limit(tmp_path: Path) -> None:
    lines = mosquitto_configuration("127.0.0.1", 1999, tmp_path, keep=True).splitlines()
    assert "listener 1999 127.0.0.1" in lines
    assert f"persistence_location {tmp_path}/" in lines
    limits = {line.split()[0]: int(line.split()[1]) for line in lines if line.startswith("max_")}
    assert limits == {
        "max_packet_size": 4 << 20,
        "max_queued_messages": 100_000,
        "max_queued_bytes": 512 << 20,
        "max_inflight_messages": 20,
    }


def test_a_file_that_is_no_program_is_no_mosquitto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mosquitto").write_text("no program\n")
    (tmp_path / "mosquitto").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_mosquitto() != str(tmp_path / "mosquitto")
