"""An enrolled agent over a broker in memory: it follows what is signed, and says one line of what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from nacl.signing import SigningKey

from lamina.broker.wire.deltas import digest_of
from lamina.broker.wire.messages import Message, RoundPlan, Task, encode
from lamina.broker.wire.orders import Mandate
from lamina.broker.wire.signatures import endorsed, public_pem, sealed
from lamina.broker.wire.topics import Topics
from lamina.edge_agent.service import agent as agent_module
from lamina.edge_agent.service.orders import ALLOWED
from lamina.edge_agent.service.rivals import Instances
from lamina.edge_agent.settings import AgentSettings
from lamina.models.errors import TakenOver
from tests.agent_lab import PARAMETERS, STATISTICS, Lab, lab_in, layers_of, trained, until
from tests.tiny_training import Twin

OPERATOR, KEY = SigningKey(b"o" * 32), SigningKey(b"c" * 32)
DIGESTS = b"".join(map(digest_of, layers_of(Twin.start())))


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    (tmp_path / "operator.pub").write_text(public_pem(OPERATOR.verify_key))
    async with lab_in(tmp_path) as lab:
        yield lab


def sign(lab: Lab, key: SigningKey = KEY, sequence: int = 1) -> None:
    """Have the coordinator sign its orders from now on."""
    mandate = Mandate(
        federation="lab", key=bytes(KEY.verify_key), manifests=(lab.coordinator.bundle.digest,), issued=1, until=2**40
    )
    endorsement = endorsed(OPERATOR, mandate)

    async def say(topic: str, message: Message | bytes) -> None:
        if isinstance(message, Task | RoundPlan):
            message = sealed(key, *endorsement, topic=topic, sequence=sequence, order=message)
        elif isinstance(message, Message):
            message = encode(message)
        await lab.coordinator.link.publish(topic, message, retain=True)

    lab.coordinator.say = say


async def enrolled(lab: Lab, **settings: object):
    agent = lab.agent(operator_key_file=str(lab.folder / "operator.pub"), **settings)
    await lab.coordinator.until_profile()
    await lab.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
    return agent


async def test_an_enrolled_agent_trains_to_the_same_values_as_any_other(lab: Lab) -> None:
    sign(lab)
    await enrolled(lab)
    await lab.coordinator.accept()
    await lab.coordinator.plan(0, (0, 0), digests=DIGESTS)
    report = await lab.coordinator.until_report()
    _, loss, _ = trained(Twin.start(), 0)
    assert report.loss == pytest.approx(loss, rel=1e-5)


async def test_unsigned_and_otherwise_signed_orders_cost_a_line_and_the_agent_goes_on(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    agent = await enrolled(lab)
    await lab.coordinator.accept()
    await until(lambda: agent.tally.refused["task"] == 1)
    await lab.coordinator.refuse("go away")  # nor does a forged refusal end it
    await until(lambda: agent.tally.refused["task"] == 2)
    sign(lab, SigningKey(b"s" * 32))
    await lab.coordinator.accept()
    await until(lambda: agent.tally.refused["task"] == 3)
    sign(lab)
    await lab.coordinator.accept()
    await lab.coordinator.plan(0, (0, 0), digests=DIGESTS)
    assert (await lab.coordinator.until_report()).round == 0
    assert caplog.text.count("not signed by the federation's operator") == 2


async def test_an_older_plan_is_not_followed_again(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    sign(lab, sequence=5)
    agent = await enrolled(lab)
    await lab.coordinator.accept()
    await lab.coordinator.plan(0, (0, 0), digests=DIGESTS)
    await lab.coordinator.until_report()
    sign(lab, sequence=4)
    await lab.coordinator.plan(1, (0, 0), digests=DIGESTS)
    await until(lambda: agent.tally.refused["round"] == 1)
    sign(lab, sequence=6)
    await lab.coordinator.plan(2, (0, 0), digests=DIGESTS)
    assert (await lab.coordinator.until_report(2)).round == 2


async def test_a_value_that_only_has_the_right_checksum_is_not_trained_from(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    sign(lab)
    await enrolled(lab)
    await lab.coordinator.accept()
    await lab.coordinator.publish_values(PARAMETERS + 1, STATISTICS, (0, 0))
    await lab.coordinator.plan(0, (0, 0), digests=DIGESTS)  # its checks are those of the forged values
    await until(lambda: "leads to another layer" in caplog.text)
    assert lab.coordinator.reports == []
    await lab.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
    await lab.coordinator.plan(0, (0, 0), digests=DIGESTS)
    await lab.coordinator.publish_values(PARAMETERS, STATISTICS, (0, 0))
    assert (await lab.coordinator.until_report()).round == 0


@pytest.mark.parametrize("signs", [True, False])
async def test_a_pinned_bundle_waits_until_a_person_allows_it(
    lab: Lab, caplog: pytest.LogCaptureFixture, signs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamina.edge_agent.service.connection.CONSENT_S", 0.01)
    if signs:
        sign(lab)
        agent = await enrolled(lab, bundles=())
    else:
        agent = await lab.ready(bundles=())
    await lab.coordinator.accept()
    await until(lambda: agent.tally.refused["task"] >= 1)
    assert f"lamina-agent allow {lab.coordinator.bundle.digest}" in caplog.text
    await lab.coordinator.plan(0, (0, 0), digests=DIGESTS)
    (lab.folder / "agent" / ALLOWED).parent.mkdir(exist_ok=True)
    (lab.folder / "agent" / ALLOWED).write_text(lab.coordinator.bundle.digest)
    assert (await lab.coordinator.until_report()).round == 0


async def test_neither_a_forged_profile_nor_the_brokers_word_ends_an_enrolled_agent(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "CONTESTED_S", 0.01)
    sign(lab)
    agent = await enrolled(lab)
    topics = Topics("lab")
    for instance in ("f" * 40, agent.profile.instance[:-1] + "0", "f" + agent.profile.instance[1:]):
        forged = msgspec.structs.replace(agent.profile, instance=instance)
        await lab.coordinator.link.publish(topics.device("pi", "profile"), encode(forged), retain=True)
    async with lab.broker.dial(topics.client("device", "pi")):
        pass  # who has its client id takes its place, and the broker says so
    await lab.coordinator.accept()
    await lab.coordinator.plan(0, (0, 0), digests=DIGESTS)
    assert (await lab.coordinator.until_report()).round == 0
    assert not lab.running[-1].done()


async def test_a_clone_that_was_started_later_still_ends_it(lab: Lab) -> None:
    sign(lab)
    agent = await enrolled(lab)
    clone = Instances(
        AgentSettings(
            "lab", "pi", "x", folder=str(lab.folder / "agent"), operator_key_file=str(lab.folder / "operator.pub")
        )
    )
    later = msgspec.structs.replace(agent.profile, instance=clone.next(0, "ffffffff"))
    await lab.coordinator.link.publish(Topics("lab").device("pi", "profile"), encode(later), retain=True)
    with pytest.raises(TakenOver, match="another program takes part as device 'pi'"):
        await lab.end()
