"""What a broker keeps of a federation: `lamina status` shows it, `lamina clear` has it forgotten."""

import subprocess
import sys

import pytest

from lamina.broker.brokers.starter import RunningBroker
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire.messages import CoordinatorStatus, DeviceProfile, DeviceStatus, encode
from lamina.broker.wire.topics import Topics
from lamina.coordinator.commands.clear import clear
from lamina.coordinator.commands.status import look
from lamina.models.errors import ConfigError

LAB = Topics("lab")
PROFILE = DeviceProfile(
    device="pi",
    budget_mib=100.0,
    cores=4,
    architecture="aarch64",
    engine="onnxruntime 1.30",
    codecs=("int8",),
    num_examples=2000,
    classes=10,
    sample_shape=(1, 8, 8),
    agent_version="0.1",
)


def kept(state: str) -> dict[str, bytes]:
    status = CoordinatorStatus(state=state, epoch=1, round=40, rounds=40, devices=1, accuracy=0.9554, c_ratio=0.563)  # type: ignore[arg-type]
    return {
        LAB.coordinator_status: encode(status),
        LAB.layer_global("conv", 0): b"a value",
        LAB.device("pi", "profile"): encode(PROFILE),
        LAB.device("pi", "status"): encode(DeviceStatus(state="sleeping")),
        Topics("other").round: b"another federation's",
    }


async def test_status_shows_the_coordinator_and_each_device() -> None:
    broker = MemoryBroker()
    broker.retained |= kept("finished") | {LAB.device("x", "profile"): b"nonsense"}
    broker.retained[LAB.aggregator_status("barn")] = encode(DeviceStatus(state="lost"))
    coordinator, aggregator, device = (await look(broker.dial, "lab")).text("lab").splitlines()
    assert coordinator == "lab: finished, round 40 of 40, 1 devices, accuracy 0.9554, C 0.563"
    assert aggregator.split() == ["aggregator", "barn", "lost"]
    assert device.split() == [
        *("pi", "sleeping", "100.0", "MiB", "4", "cores", "aarch64", "2,000", "examples", "onnxruntime", "1.30"),
    ]


async def test_clear_forgets_a_finished_federation_and_no_other() -> None:
    broker = MemoryBroker()
    broker.retained |= kept("finished")
    assert await clear(broker.dial, "lab") == 4
    assert list(broker.retained) == ["lamina/v1/other/round"]
    assert await clear(broker.dial, "lab") == 0


@pytest.mark.parametrize("state", ["waiting", "training", "lost"])
async def test_a_federation_that_goes_on_is_cleared_by_force_only(state: str) -> None:
    broker = MemoryBroker()
    broker.retained |= kept(state)
    with pytest.raises(ConfigError, match=f"the coordinator of 'lab' is {state}"):
        await clear(broker.dial, "lab")
    assert len(broker.retained) == 5
    assert await clear(broker.dial, "lab", force=True) == 4


@pytest.mark.broker
async def test_both_commands_on_a_real_broker(mosquitto: RunningBroker) -> None:
    dial = mqtt_dial(mosquitto.address)
    async with dial("somebody", None) as link:
        for topic, payload in kept("finished").items():
            await link.publish(topic, payload, retain=True)

    def lamina(command: str) -> subprocess.CompletedProcess[str]:
        where = ["--host", mosquitto.address.host, "--port", str(mosquitto.address.port)]
        return subprocess.run(
            [sys.executable, "-m", "lamina.coordinator.cli", command, "lab", *where],
            capture_output=True,
            text=True,
            check=False,
        )

    assert lamina("status").stdout.startswith("lab: finished, round 40 of 40")
    assert lamina("clear").stdout.startswith("lab: 4 retained messages cleared at")
    gone = lamina("status")
    assert (gone.returncode, gone.stderr.startswith("lamina: no federation 'lab' is known")) == (2, True)
