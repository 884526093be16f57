"""A hostile coordinator against one agent, over a real broker: one clear line, no traceback, and SIGTERM ends it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from lamina.broker.link.address import BrokerAddress
from lamina.broker.link.mqtt import mqtt_dial
from lamina.broker.wire.deltas import check_of
from lamina.emulation.rig.federation import Rig
from lamina.emulation.rig.program import wait_until
from lamina.models.bundle import MANIFEST_NAME, read_bundle
from lamina.models.values import flatten, layer_vector
from tests.faults.conftest import MakeRig
from tests.scripted_coordinator import Coordinator

Spoil = Callable[[onnx.GraphProto], None]
ROUND = "lamina/v1/lab/round"
BEGINS = {
    "epoch": 1, "round": 0, "cohort": ["pi"], "local_steps": 3, "batch_size": 2, "due": [0, 1, 2],
    "hyperparameters": {"lr": 0.05, "momentum": 0.0}, "versions": [0, 0, 0], "codec": "float32",
}  # fmt: skip


def of_loss(graph: onnx.GraphProto, *nodes: onnx.NodeProto) -> None:
    """Let the nodes make the loss of what was the loss, ``loss_``."""
    for node in graph.node:
        node.output[:] = ["loss_" if name == "loss" else name for name in node.output]
    graph.node.extend(nodes)


def loops(graph: onnx.GraphProto) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("a", TensorProto.FLOAT, [])],
        [value("on", TensorProto.BOOL, []), value("b", TensorProto.FLOAT, [])],
    )
    graph.initializer.extend([helper.make_tensor("trips", 7, [], [2**62]), helper.make_tensor("yes", 9, [], [True])])
    of_loss(graph, helper.make_node("Loop", ["trips", "yes", "loss_"], ["loss"], body=body))


def is_huge(graph: onnx.GraphProto) -> None:
    graph.initializer.append(helper.make_tensor("extents", 7, [1], [400_000_000]))
    of_loss(
        graph,
        helper.make_node("ConstantOfShape", ["extents"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["loss_", "sum"], ["loss"]),
    )


def reads(location: str) -> Spoil:
    def spoil(graph: onnx.GraphProto) -> None:
        stolen = graph.initializer.add(name="stolen", data_type=2, dims=[16], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", location), ("offset", "0"), ("length", "16")):
            stolen.external_data.add(key=key, value=value)
        of_loss(
            graph,
            helper.make_node("Cast", ["stolen"], ["numbers"], to=1),
            helper.make_node("ReduceSum", ["numbers"], ["sum"], keepdims=0),
            helper.make_node("Add", ["loss_", "sum"], ["loss"]),
        )

    return spoil


def bundle_with(folder: Path, made: Path, spoil: Spoil) -> Path:
    """A copy of a bundle whose first training graph is spoilt, and whose manifest knows nothing of it."""
    shutil.copytree(folder, made)
    entry = read_bundle(folder).manifest.sub_models[0].graph
    model = onnx.load(made / entry.file_name)
    spoil(model.graph)
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()
    (made / f"{digest}.onnx").write_bytes(content)

    def renamed(part: dict[str, Any]) -> dict[str, Any]:
        return part | {"sha256": digest, "size_bytes": len(content)} if part.get("sha256") == entry.sha256 else part

    manifest = json.loads((made / MANIFEST_NAME).read_bytes(), object_hook=renamed)
    (made / MANIFEST_NAME).write_text(json.dumps(manifest))
    return made


async def said(port: int, bundle: Path, task: bytes | None, *messages: tuple[str, bytes]) -> None:
    """All of it retained, before the agent comes."""
    async with mqtt_dial(BrokerAddress(host="127.0.0.1", port=port))("coordinator", None) as link:
        coordinator = Coordinator(link, read_bundle(bundle))
        await coordinator.publish_bundle(100_000)
        spec, values = coordinator.spec, coordinator.bundle.initial_values()
        await coordinator.publish_values(*flatten(spec, values), (0,) * len(spec.layers))
        for topic, payload in messages:
            await coordinator.say(topic, payload)
        if task is None:
            await coordinator.accept()
        else:
            await coordinator.say(coordinator.topics.device("pi", "task"), task)


def plan(folder: Path, **changes: object) -> bytes:
    """A plan as it comes in, whatever its fields hold."""
    bundle = read_bundle(folder)
    spec = bundle.manifest.spec
    vectors = flatten(spec, bundle.initial_values())
    checks = [check_of(layer_vector(spec, layer, *vectors)) for layer in range(len(spec.layers))]
    return msgspec.msgpack.encode({"kind": "plan", **BEGINS, "checks": checks, **changes})


def test_the_same_plan_is_trained_where_nothing_is_hostile(rig: MakeRig, fault_bundle: Path) -> None:
    subject = rig(devices=1, name="lab")
    asyncio.run(said(subject.broker.port, fault_bundle, None, (ROUND, plan(fault_bundle))))
    agent = subject.agent(1, device="pi")
    agent.start()
    wait_until(lambda: "round 0: loss" in agent.words, what="a round of training")
    agent.terminate()
    assert agent.wait() == 0


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (loops, "Loop is not among the operators that a board runs"),
        (is_huge, "and the budget is 64 MiB"),
        (reads("/etc/passwd"), "which a graph must not read"),
        (reads("../../secret"), "which a graph must not read"),
    ],
    ids=["loop", "huge", "absolute", "relative"],
)
def test_a_hostile_graph_ends_the_agent_with_one_line_before_it_is_loaded(
    spoil: Spoil, says: str, rig: MakeRig, fault_bundle: Path, tmp_path: Path
) -> None:
    evil = bundle_with(fault_bundle, tmp_path / "evil", spoil)
    subject = rig(devices=1, name="lab")
    asyncio.run(said(subject.broker.port, evil, None, (ROUND, plan(evil))))
    agent = subject.agent(1, device="pi")
    agent.start()
    assert agent.wait() == 2
    assert agent.words.splitlines()[-1].startswith("lamina-agent: graph ")
    assert says in agent.words
    assert "Traceback" not in agent.words


TASK = {"kind": "task", "epoch": 1, "accepted": True, "reason": "go", "cut": 0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cut": -1}, "not a Task"),
        ({"cut": 2**63}, "not a Task"),
        ({"manifest": "a\0b"}, "not a Task"),
        ({"manifest": "a" * 70_000}, "not a Task"),
        ({"manifest": "../../etc/passwd"}, "not a Task"),
        ({"manifest": ""}, "a task that names no bundle"),
        ({"reason": "x" * 100_000}, "not a Task"),
    ],
)
def test_a_hostile_task_costs_one_line(changes: dict[str, Any], says: str, rig: MakeRig, fault_bundle: Path) -> None:
    task = msgspec.msgpack.encode({**TASK, "manifest": read_bundle(fault_bundle).digest, **changes})
    goes_on(rig(devices=1, name="lab"), fault_bundle, says, task)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"chunk_bytes": 0}, "it asks for messages of 0 bytes"),
        ({"chunk_bytes": -5}, "not a RoundPlan"),
        ({"round": 2**62}, "not a RoundPlan"),
        ({"epoch": -(2**63)}, "not a RoundPlan"),
        ({"local_steps": 10**15}, "not a RoundPlan"),
        ({"local_steps": -1}, "not a RoundPlan"),
        ({"batch_size": 10**9}, "steps of 1000000000 samples"),
        ({"batch_size": 0}, "steps of 0 samples"),
        ({"hyperparameters": {"lr": float("nan")}}, "not a RoundPlan"),
        ({"versions": [0] * 1_000_000}, "not a RoundPlan"),
        ({"cohort": 5000 * [["pi"]]}, "not a RoundPlan"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_a_hostile_plan_costs_one_line(changes: dict[str, Any], says: str, rig: MakeRig, fault_bundle: Path) -> None:
    goes_on(rig(devices=1, name="lab"), fault_bundle, says, None, (ROUND, plan(fault_bundle, **changes)))


def goes_on(subject: Rig, bundle: Path, says: str, task: bytes | None, *messages: tuple[str, bytes]) -> None:
    """The agent says one short line and stays; SIGTERM is its orderly end."""
    asyncio.run(said(subject.broker.port, bundle, task, *messages))
    agent = subject.agent(1, device="pi")
    agent.start()
    wait_until(lambda: says in agent.words, what=f"the line that says {says!r}")
    assert agent.running
    agent.terminate()
    assert agent.wait() == 0
    assert "Traceback" not in agent.words
    assert max(map(len, agent.words.splitlines())) < 500
    assert len([line for line in agent.words.splitlines() if says in line]) == 1


def test_an_absurd_number_of_steps_ends_within_a_step_of_sigterm(rig: MakeRig, fault_bundle: Path) -> None:
    subject = rig(devices=1, name="lab")
    asyncio.run(said(subject.broker.port, fault_bundle, None, (ROUND, plan(fault_bundle, local_steps=100_000_000))))
    agent = subject.agent(1, device="pi")
    agent.start()
    wait_until(lambda: "trains the whole network" in agent.words, what="an agent that is ready")
    agent.terminate()
    assert agent.wait() == 0
    assert "Traceback" not in agent.words
