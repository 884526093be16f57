"""Tells what Home Assistant is to know of a federation: sensors that it discovers by MQTT, and their states, as JSON.

Each sensor has a retained description at ``homeassistant/sensor/ID/config``, which Home Assistant reads at its
start, and finds its value in the one retained state of its device (https://www.home-assistant.io/integrations/mqtt/).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from lamina.coordinator.dashboard.overview import Overview

PREFIX = "homeassistant"


class _Sensor(NamedTuple):
    """One sensor: its key in the state, its name for people, its unit."""

    key: str
    name: str
    unit: str = ""


_OF_FEDERATION = (
    _Sensor("state", "State"),
    _Sensor("round", "Round"),
    _Sensor("score", "Score"),
    _Sensor("online", "Boards online"),
)
_OF_DEVICE = (
    _Sensor("state", "State"),
    _Sensor("loss", "Loss"),
    _Sensor("accuracy", "Accuracy"),
    _Sensor("step_s", "Step", "s"),
    _Sensor("rounds", "Rounds"),
)


def retained(overview: Overview) -> dict[str, bytes]:
    """The payload of every topic, all to be retained."""
    name = overview.federation
    found = _machine(
        f"lamina_{name}",
        f"Lamina {name}",
        _OF_FEDERATION,
        {
            "state": overview.state,
            "round": overview.round,
            "score": overview.judge.last,
            "online": sum(device.state == "online" for device in overview.devices),
        },
    )
    for device in overview.devices:
        values = {
            "state": device.state,
            "loss": device.loss,
            "accuracy": device.accuracy,
            "step_s": device.step_s,
            "rounds": device.rounds_done,
        }
        found |= _machine(f"lamina_{name}_{device.id}", device.id, _OF_DEVICE, values)
    return found


def _machine(
    identity: str, name: str, sensors: tuple[_Sensor, ...], values: Mapping[str, str | float | None]
) -> dict[str, bytes]:
    """What is said of one federation or board."""
    safe = identity.replace(".", "_")  # Home Assistant knows letters, digits, _ and - there
    state_topic = f"lamina-sensors/{safe}/state"
    found = {state_topic: json.dumps(values).encode()}
    for sensor in sensors:
        described: dict[str, object] = {
            "name": sensor.name,
            "unique_id": f"{safe}_{sensor.key}",
            "state_topic": state_topic,
            "value_template": f"{{{{ value_json.{sensor.key} }}}}",
            "device": {"identifiers": [safe], "name": name, "manufacturer": "Lamina"},
        }
        if sensor.unit:
            described["unit_of_measurement"] = sensor.unit
        found[f"{PREFIX}/sensor/{safe}_{sensor.key}/config"] = json.dumps(described).encode()
    return found
