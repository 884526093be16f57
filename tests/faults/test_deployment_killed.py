"""A deployment comes to its end whoever is killed in its middle: real processes, real signals, signed orders."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from nacl.signing import SigningKey
from paho.mqtt.enums import CallbackAPIVersion

from lamina.broker.wire.deployments import Deployment, Offer
from lamina.broker.wire.messages import decode, encode
from lamina.broker.wire.orders import opened
from lamina.broker.wire.signatures import public_pem, secret_pem
from lamina.broker.wire.topics import Topics
from lamina.coordinator.dashboard import client
from lamina.coordinator.deployment.rollout import DeploymentState
from lamina.coordinator.records.deployments import DeploymentFiles
from lamina.edge_agent.serving.shelf import Shelf
from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import Program, wait_until
from lamina.models.machine import module_command
from lamina.models.storage.secret_file import write_secret
from tests.faults.conftest import MakeRig

RIG = Topics("rig")
SETTINGS: dict[str, dict[str, Any]] = {
    "training": {"rounds": 4, "local_steps": 20, "lr": 0.05, "hyperparameters": {"momentum": 0.9}},
    "deadlines": {"round_s": 3600, "lost_s": 300, "broker_s": 0},
}


@pytest.fixture
def trained(rig: MakeRig, tmp_path: Path) -> Rig:
    """A federation with signed orders whose training is over, and whose agents wait."""
    operator, coordinator = SigningKey.generate(), SigningKey.generate()
    write_secret(tmp_path / "operator.key", secret_pem(operator))
    (tmp_path / "operator.pub").write_text(public_pem(operator.verify_key))
    write_secret(tmp_path / "signing.key", secret_pem(coordinator))
    signing = {
        "key_file": tmp_path / "signing.key", "mandate_file": tmp_path / "mandate.json",
        "operator_key_file": tmp_path / "operator.key",
    }  # fmt: skip
    made = rig(
        devices=3,
        settings={**SETTINGS, "signing": signing},
        agent_settings={"operator_key_file": str(tmp_path / "operator.pub"), "held_out": 0.25},
        keeps=True,
    )
    made.start()
    assert made.wait_for_end() == 0
    return made


def command(rig: Rig, *flags: str) -> Program:
    line = [*module_command("lamina.coordinator.cli"), "deploy", str(rig.folder / "federation.toml"), *flags]
    program = Program(line, rig.folder / f"deploy-{len(rig.others)}.log")
    rig.others.append(program)
    program.start()
    return program


def state(rig: Rig) -> DeploymentState:
    return DeploymentFiles(rig.run_folder).state()


def active(rig: Rig) -> list[int]:
    return [Shelf(rig.folder / f"agent-{index}").state().number for index in sorted(rig.agents)]


def stage(rig: Rig) -> str:
    rollout = state(rig).rollout
    return rollout.stage if rollout else ""


def test_the_deployer_is_killed_with_its_canary_silent_and_goes_on(trained: Rig) -> None:
    canary = trained.agent(2)
    canary.freeze()
    deploying = command(trained, "--canary", "device-2")
    wait_until(lambda: stage(trained) == "canary", what="the rollout's begin")
    deploying.kill()
    assert active(trained) == [0, 0, 0]
    refused = command(trained)
    assert refused.wait() == 2
    assert "deployment 1 is not over" in refused.words
    canary.kill()  # and so is the canary
    canary.start()
    resumed = command(trained, "--resume")
    assert resumed.wait() == 0, resumed.words
    assert (stage(trained), active(trained)) == ("done", [1, 1, 1])


def test_an_agent_that_is_killed_as_it_takes_a_model_has_it_or_the_one_before_and_then_the_new_one(
    trained: Rig,
) -> None:
    assert command(trained, "--round", "2", "--canary", "0", "--margin", "1").wait() == 0
    assert active(trained) == [1, 1, 1]
    for agent in (trained.agent(1), trained.agent(3)):
        agent.freeze()
    deploying = command(trained, "--canary", "device-1", "--margin", "1")
    wait_until(lambda: stage(trained) == "canary", what="the rollout's begin")
    for index in (1, 3):
        agent = trained.agent(index)
        for _ in range(3):  # whatever it does by then
            agent.thaw() if agent.running else agent.start()
            wait_until(lambda agent=agent: "linked to federation" in agent.words, what="the link")
            agent.kill()
            assert active(trained)[index - 1] in (1, 2)
        agent.start()
    assert deploying.wait() == 0, deploying.words
    wait_until(lambda: active(trained) == [2, 2, 2], what="all boards")
    undone = command(trained, "--undo")
    assert undone.wait() == 0
    wait_until(lambda: active(trained) == [1, 1, 1], what="the way back")


def test_a_killed_broker_and_a_late_board_and_a_coordinator_that_starts_anew(trained: Rig) -> None:
    deploying = command(trained, "--canary", "1")
    wait_until(lambda: stage(trained) != "", what="the rollout's begin")
    trained.broker.kill()
    trained.broker.start()
    assert deploying.wait() == 0, deploying.words
    wait_until(lambda: active(trained) == [1, 1, 1], what="all boards")
    trained.broker.terminate()  # it saves what it keeps
    trained.broker.start()
    late = trained.agent(4)
    late.start()
    wait_until(lambda: active(trained) == [1, 1, 1, 1], what="the late board, which nobody but the broker tells")


def test_an_order_that_nobody_signed_changes_nothing(trained: Rig) -> None:
    assert command(trained, "--canary", "0").wait() == 0
    evil = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    heard: list[bytes] = []
    evil.on_message = lambda client, data, message: heard.append(message.payload)
    evil.connect("127.0.0.1", trained.broker.port)
    evil.loop_start()
    evil.subscribe(RIG.deployment, 1)
    wait_until(lambda: bool(heard), what="the order")
    good = decode(opened(heard[0]), Deployment)
    assert good.offer is not None
    digest = "ab" * 32
    forged = Offer(number=9, model=digest, model_bytes=5, card=digest, card_bytes=5, bundle=good.offer.bundle, round=9)
    flipped = bytearray(heard[0])
    flipped[len(flipped) // 2] ^= 1
    for payload in (encode(Deployment(offer=forged, everyone=True)), encode(Deployment(everyone=True)), bytes(flipped)):
        evil.publish(RIG.deployment, payload, 1, retain=True).wait_for_publish(60)
    wait_until(lambda: trained.agent(1).words.count("that this board does not follow") >= 3, what="the refusals")
    evil.loop_stop()
    assert active(trained) == [1, 1, 1]


def waiting_for_its_canary(rig: MakeRig) -> Rig:
    """A federation in training whose coordinator deploys, and whose canary, device 2, is frozen."""
    long = {**SETTINGS, "training": {**SETTINGS["training"], "rounds": 400, "local_steps": 400}}
    subject = rig(devices=2, settings=long)
    subject.start()
    subject.wait_for_round(2)
    subject.agent(2).freeze()
    client.order(subject.run_folder, "deploy", canary="device-2")
    wait_until(lambda: stage(subject) == "canary", what="the rollout's begin")
    return subject


def test_a_coordinator_that_is_killed_while_it_deploys_goes_on_when_it_is_started_again(rig: MakeRig) -> None:
    subject = waiting_for_its_canary(rig)
    subject.coordinator.kill()
    subject.agent(2).thaw()
    subject.coordinator.start()
    wait_until(lambda: stage(subject) == "done", what="the rollout's end")
    wait_until(lambda: active(subject) == [1, 1], what="both boards")
    assert subject.coordinator.running


def test_undo_takes_back_what_the_coordinator_itself_deploys(rig: MakeRig) -> None:
    subject = waiting_for_its_canary(rig)
    undoing = command(subject, "--undo")
    assert undoing.wait() == 0, undoing.words
    wait_until(lambda: stage(subject) == "back", what="the way back")
    subject.agent(2).thaw()
    assert active(subject) == [0, 0]


def test_status_says_what_is_deployed_as_json_too(trained: Rig) -> None:
    assert command(trained, "--canary", "1").wait() == 0
    line = [*module_command("lamina.coordinator.cli"), "deploy", str(trained.folder / "federation.toml"), "--status"]
    said = subprocess.run([*line, "--json"], check=True, capture_output=True, text=True).stdout
    assert '"in_force"' in said
