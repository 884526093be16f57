"""Hostile bytes, retained on a real broker: the coordinator and the agents go on, and so does each restart."""

from __future__ import annotations

import asyncio

import pytest

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire.messages import DeviceProfile, encode
from tests.faults.conftest import MakeRig

NESTED = b"\x81\xa4kind" + 5000 * b"\x91" + b"\xc0"
LONG = encode(
    DeviceProfile(
        device="evil", budget_mib=500.0, cores=1, architecture="x", engine="e", codecs=("float32",), num_examples=1,
        classes=1, sample_shape=(1,) * 1_500_000, agent_version="0",
    )
)  # fmt: skip
SETTINGS = {"training": {"rounds": 6, "local_steps": 200}, "aggregation": {"phi": 1}}


@pytest.mark.parametrize("restarted", [False, True])
def test_hostile_messages_that_stay_on_the_broker_end_nobody(rig: MakeRig, restarted: bool) -> None:
    subject = rig(settings=SETTINGS)
    root = f"lamina/v1/{subject.name}"

    async def poison() -> None:
        async with mqtt_dial(BrokerAddress(host="127.0.0.1", port=subject.broker.port))("evil", None) as link:
            for leaf in ("profile", "status", "report", "request", "updates"):
                await link.publish(f"{root}/device/evil/{leaf}", NESTED, retain=True)
            await link.publish(f"{root}/device/worse/profile", LONG, retain=True)
            await link.publish(f"{root}/layer/{'9' * 5000}/update/evil", b"x", retain=True)
            await link.publish(f"{root}/advance/{'9' * 5000}", b"x", retain=True)

    asyncio.run(poison())
    subject.start()
    if restarted:
        subject.wait_for_round(2)
        subject.coordinator.kill()
        subject.start_coordinator()
    assert subject.wait_for_end() == 0
    assert [row["updates"] for row in subject.rows] == [row["expected"] for row in subject.rows]
