"""What Home Assistant is told of a federation."""

import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from lamina.broker.link.memory import MemoryBroker
from lamina.coordinator.commands.sensors import publish
from lamina.coordinator.dashboard.overview import DeviceView, JudgeView, Overview
from lamina.coordinator.tracking.home_assistant import retained

BOARD = DeviceView(
    id="pi.3",
    state="online",
    reason="",
    cut=0,
    layer="conv1",
    tier="strong",
    budget_mib=64.0,
    rounds_done=4,
    refused=0,
    step_s=0.01,
    peak_mib=None,
    loss=0.25,
)


def overview(**more: object) -> Overview:
    given = {
        "federation": "greenhouse",
        "state": "training",
        "round": 5,
        "judge": JudgeView(name="accuracy", last=0.75),
        "devices": (BOARD,),
    }
    names = {field.name: field for field in msgspec.structs.fields(Overview)}
    filler = {str: "", int: 0, float: 0.0, bool: True}
    for name, field in names.items():
        if name not in given and field.required:
            given[name] = filler.get(field.type, () if "tuple" in str(field.type) else None)
    return Overview(**given | more)


def test_each_sensor_is_described_and_finds_its_value() -> None:
    said = retained(overview())
    described = {topic: json.loads(payload) for topic, payload in said.items() if topic.startswith("homeassistant/")}
    assert len(described) == 4 + 5
    for topic, sensor in described.items():
        assert topic == f"homeassistant/sensor/{sensor['unique_id']}/config"
        key = sensor["value_template"].removeprefix("{{ value_json.").removesuffix(" }}")
        assert key in json.loads(said[sensor["state_topic"]])
    assert len({sensor["unique_id"] for sensor in described.values()}) == len(described)
    assert described["homeassistant/sensor/lamina_greenhouse_pi_3_step_s/config"]["unit_of_measurement"] == "s"


def test_states_are_what_the_overview_says() -> None:
    said = retained(overview())
    federation, board = (json.loads(said[f"lamina-sensors/lamina_greenhouse{end}/state"]) for end in ("", "_pi_3"))
    assert federation == {"state": "training", "round": 5, "score": 0.75, "online": 1}
    assert board == {"state": "online", "loss": 0.25, "accuracy": None, "step_s": 0.01, "rounds": 4}


async def test_what_has_not_changed_is_not_said_again() -> None:
    broker = MemoryBroker()
    heard: list[str] = []

    async def overviews() -> AsyncIterator[Overview]:
        yield overview()
        yield overview(round=6)

    async with broker.dial("home", None) as home:
        await home.subscribe("homeassistant/#", "lamina-sensors/#")
        await publish(overviews(), broker.dial)
        deliveries = home.deliveries()
        while len(heard) < 9 + 2 + 1:
            heard.append((await anext(deliveries)).topic)
    assert heard[-1] == "lamina-sensors/lamina_greenhouse/state"
    assert heard.count(heard[-1]) == 2


@pytest.mark.parametrize("name", ["lamina_greenhouse", "lamina_greenhouse_pi_3"])
def test_ids_are_such_as_home_assistant_takes(name: str) -> None:
    assert any(topic.startswith(f"homeassistant/sensor/{name}_") for topic in retained(overview()))
    topics = [topic for topic in retained(overview()) if topic.startswith("homeassistant/")]
    assert all(len(topic.split("/")) == 4 and "." not in topic for topic in topics)
