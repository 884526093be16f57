"""A broker that alters, forges and replays what a coordinator says, against enrolled agents: real processes."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from nacl.signing import SigningKey
from paho.mqtt.enums import CallbackAPIVersion

from lamina.broker.wire.chunks import pack, split
from lamina.broker.wire.messages import RoundPlan, Task, decode, encode
from lamina.broker.wire.orders import Mandate, envelope, opened
from lamina.broker.wire.signatures import endorsed, public_pem, sealed, secret_pem
from lamina.broker.wire.topics import Topics
from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import wait_until
from lamina.models.bundle import read_bundle
from lamina.models.storage.secret_file import write_secret
from tests.faults.conftest import MakeRig

SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": 8, "local_steps": 2000, "lr": 0.05, "hyperparameters": {"momentum": 0.9}},
    "aggregation": {"phi": 2},
    "deadlines": {"round_s": 3600, "lost_s": 300, "broker_s": 0},
}
RIG = Topics("rig")
STRANGER = SigningKey(b"s" * 32)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    operator, coordinator = SigningKey.generate(), SigningKey.generate()
    write_secret(tmp_path / "operator.key", secret_pem(operator))
    (tmp_path / "operator.pub").write_text(public_pem(operator.verify_key))
    write_secret(tmp_path / "signing.key", secret_pem(coordinator))
    return tmp_path


def signed(rig: MakeRig, keys: Path, **agent: object) -> Rig:
    signing = {
        "key_file": keys / "signing.key", "mandate_file": keys / "mandate.json",
        "operator_key_file": keys / "operator.key",
    }  # fmt: skip
    return rig(
        settings={**SETTINGS, "signing": signing},
        agent_settings={"operator_key_file": str(keys / "operator.pub"), **agent},
    )


class Evil:
    """What stands where the broker is: it has heard everything, and says what it likes wherever it likes."""

    def __init__(self, subject: Rig) -> None:
        self.said: list[bytes] = []
        self.plans: list[bytes] = []
        self.tasks: list[bytes] = []
        self.attacks = 0
        bundle = read_bundle(subject.bundle)
        self._layer = bundle.manifest.spec.layers[0]
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = self._hear
        self._client.connect("127.0.0.1", subject.broker.port)
        self._client.subscribe([(RIG.round, 1), (RIG.device("device-1", "task"), 1)])

    def _hear(self, client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        if message.payload in self.said or not message.payload:
            return
        if message.topic == RIG.round:
            self.plans.append(message.payload)
            self._attack(message.payload)
        else:
            self.tasks.append(message.payload)

    def _attack(self, payload: bytes) -> None:
        """Everything at once, whenever the coordinator has said a plan."""
        plan = decode(opened(payload), RoundPlan)
        worse = msgspec.structs.replace(
            plan, hyperparameters={**plan.hyperparameters, "lr": 9.0}, round=plan.round + 50
        )
        flipped = bytearray(payload)
        flipped[payload.index(b"local_steps") + 13] ^= 1
        whole = envelope(payload)
        for forged in (
            encode(worse),
            bytes(flipped),
            encode(msgspec.structs.replace(whole, order=encode(worse))),
            encode(msgspec.structs.replace(whole, sequence=whole.sequence + 1000)),
            stolen(worse, RIG.round),
            self.plans[0] if len(self.plans) > 1 else b"",
        ):
            self._say(RIG.round, forged)
        refusal = Task(epoch=plan.epoch, accepted=False, reason="go away")
        self._say(RIG.device("device-1", "task"), encode(refusal))
        self._say(RIG.device("device-1", "task"), stolen(refusal, RIG.device("device-1", "task")))
        if self.tasks:  # the neighbour's: it was signed for device-1 alone
            self._say(RIG.device("device-2", "task"), self.tasks[-1])
        if plan.state == "training":
            value = pack(
                "global", epoch=plan.epoch, round=plan.round, layer=0, version=plan.versions[0],
                layer_spec=self._layer, vector=np.full(self._layer.vector_size, 7, np.float32), codec="float32",
            )  # fmt: skip
            self._say(RIG.layer_global(self._layer.name, 0), split(value, 100_000)[0])
        self.attacks += 1

    def _say(self, topic: str, payload: bytes) -> None:
        if payload:
            self.said.append(payload)
            self._client.publish(topic, payload, 1)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._client.loop_start()
        try:
            yield
        finally:
            self._client.disconnect()
            self._client.loop_stop()


def stolen(order: RoundPlan | Task, topic: str) -> bytes:
    """An order by an operator of one's own."""
    mandate = Mandate(federation="rig", key=bytes(STRANGER.verify_key), manifests=(), issued=2**52, until=2**40)
    return sealed(STRANGER, *endorsed(STRANGER, mandate), topic=topic, sequence=2**40, order=order)


def test_a_broker_that_forges_and_replays_changes_no_bit(rig: MakeRig, keys: Path) -> None:
    plain, disturbed = rig(settings=SETTINGS), signed(rig, keys)
    plain.start()
    assert plain.wait_for_end() == 0
    evil = Evil(disturbed)
    with evil.at_work():
        disturbed.start()
        assert disturbed.wait_for_end() == 0
    assert evil.attacks >= 8
    assert disturbed.model == plain.model  # nor does signing change any
    words = disturbed.agent(1).words
    for line in (
        "not signed by the federation's operator",
        "not that of the coordinator for whom the operator spoke",
        "its mandate is not signed by the federation's operator",
        "it was said before the one that is followed",
    ):
        assert line in words
    assert "not that of the coordinator" in disturbed.agent(2).words
    assert "Traceback" not in words
    assert max(map(len, words.splitlines())) < 500
    for secret in ("operator.key", "signing.key"):
        body = (keys / secret).read_text().splitlines()[1]
        assert all(body not in program.words for program in (disturbed.coordinator, *disturbed.agents.values()))


def test_what_was_recorded_is_not_followed_by_an_agent_that_was_restarted(rig: MakeRig, keys: Path) -> None:
    """The coordinator is away; the broker says its plans of before again, to an agent that was started anew."""
    subject = signed(rig, keys)
    evil = Evil(subject)
    evil._attack = lambda payload: None
    with evil.at_work():
        subject.start()
        subject.wait_for_round(3)
        subject.coordinator.terminate()
        agent = subject.agent(1)
        agent.kill()
        said = len(agent.words)
        agent.start()
        wait_until(lambda: "linked to federation" in agent.words[said:], what="the agent's link")
        wait_until(lambda: "trains from layer" in agent.words[said:], what="the agent's task")
        evil._say(RIG.round, evil.plans[0])
        wait_until(lambda: "it was said before the one that is followed" in agent.words[said:], what="its refusal")
        subject.start_coordinator()
        assert subject.wait_for_end() == 0


def test_a_pinned_agent_waits_for_its_owner(rig: MakeRig, keys: Path) -> None:
    subject = signed(rig, keys, bundles=[])
    subject.start()
    agents = [subject.agent(1), subject.agent(2)]
    digest = read_bundle(subject.bundle).digest
    for agent in agents:
        wait_until(lambda agent=agent: f"lamina-agent allow {digest}" in agent.words, what="the agent's question")
    assert subject.committed == 0
    for index in (1, 2):
        allow = (
            *subject.agent(index).command[:-2],
            "allow",
            digest,
            "--config",
            str(subject.folder / f"agent-{index}.toml"),
        )
        assert subprocess.run(allow, check=False).returncode == 0
    assert subject.wait_for_end() == 0


def test_a_coordinator_whose_mandate_is_not_for_its_bundle_ends_with_one_line(rig: MakeRig, keys: Path) -> None:
    subject = signed(rig, keys)
    subject.start_coordinator()
    wait_until(lambda: (keys / "mandate.json").exists(), what="a mandate")
    subject.coordinator.signal(signal.SIGKILL)
    subject.coordinator.wait()
    (keys / "operator.key").unlink()  # it is kept elsewhere
    write_secret(keys / "signing.key", secret_pem(STRANGER))  # and the coordinator's was replaced
    subject.start_coordinator()
    assert subject.wait_for_end() == 2
    assert "lamina: the mandate is for another coordinator's key" in subject.coordinator.words.splitlines()[-1]
