"""A model goes to the devices and back: the real coordinator, agents and deployer over a broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from torch import nn

from lamina.broker.link.memory import MemoryBroker
from lamina.broker.wire.deployments import Deployed
from lamina.broker.wire.messages import decode, encode
from lamina.broker.wire.topics import Topics
from lamina.coordinator.deployment.rollout import Rollout, RolloutRules
from lamina.coordinator.records.deployments import DeploymentFiles
from lamina.coordinator.records.offering import Wish
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.service.deploying import Deployer
from lamina.coordinator.settings import Aggregation, Cohorts, FederationSettings, Training
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.serving.predictor import Predictor
from lamina.edge_agent.serving.shelf import Shelf
from lamina.edge_agent.settings import AgentSettings
from lamina.models.build import build_bundle
from lamina.models.bundle import Bundle, read_bundle
from lamina.models.definition import Definition, load_definition
from lamina.models.errors import ConfigError
from lamina.models.held_out import divided
from lamina.models.samples import LabelledSamples
from tests import task_nets
from tests.patience import PATIENCE_S
from tests.whole_federation import CLASSES, FEATURES, STRONG, Setup, samples, small_bundle

WHOLE = Topics("whole")

HELD_OUT = 0.25


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("bundle") / "small")


@dataclass
class Farm:
    """A broker, agents that stay, and an operator."""

    setup: Setup
    broker: MemoryBroker
    agents: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def settings(self, run: str = "run", **changes: object) -> FederationSettings:
        return self.setup.settings(folder=str(self.setup.folder / run), **changes)

    async def train(self, run: str = "run", *, lr: float = 0.1, rounds: int = 6, **changes: object) -> None:
        training = Training(rounds=rounds, local_steps=4, lr=lr, hyperparameters={"momentum": 0.9})
        settings = self.settings(run, training=training, **changes)
        async with asyncio.timeout(PATIENCE_S):
            await Coordinator(settings, self.setup.bundle, self.broker.dial).run()

    def deployer(self, run: str = "run", **changes: object) -> Deployer:
        return Deployer(self.settings(run, **changes), self.broker.dial, self.told.append, grace_s=PATIENCE_S)

    async def deploy(
        self,
        run: str = "run",
        wish: Wish | None = None,
        canary: int | None = None,
        margin: float = 0.02,
        **changes: object,
    ) -> Rollout:
        async with asyncio.timeout(PATIENCE_S):
            rules = RolloutRules(margin=margin, wait_s=PATIENCE_S)
            return await self.deployer(run, **changes).deploy(wish or Wish(), canary, rules)

    def agent(self, index: int, data: LabelledSamples | None = None, **changes: object) -> str:
        settings = AgentSettings(
            federation="whole", device=f"d{index}", data="in memory", budget_mib=STRONG, threads=1,
            folder=str(self.setup.folder / f"d{index}"), shared_process=True, held_out=HELD_OUT,
        )  # fmt: skip
        settings = msgspec.structs.replace(settings, **changes)
        agent = Agent(settings, data or owned(index), self.broker.dial)
        self.agents[settings.device] = asyncio.create_task(agent.run())
        return settings.device

    async def stop(self, name: str) -> None:
        task = self.agents.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def online(self, *names: str) -> None:
        await until(
            lambda: all(b"online" in self.broker.retained.get(WHOLE.device(name, "status"), b"") for name in names)
        )

    def shelf(self, name: str) -> Shelf:
        return Shelf(self.setup.folder / name)

    def active(self) -> dict[str, int]:
        return {name: self.shelf(name).state().number for name in sorted(self.agents)}

    def said(self, name: str) -> Deployed:
        return decode(self.broker.retained[WHOLE.device(name, "deployed")], Deployed)

    @property
    def chunks(self) -> set[str]:
        """SHA-256 of the files that the broker keeps, the bundle's left out."""
        manifest = self.setup.bundle
        own = {path.stem for path in manifest.folder.iterdir()} | {manifest.digest}
        kept = (topic for topic in self.broker.retained if "/bundle/" in topic)
        return {topic.split("/")[-2] for topic in kept} - own


def owned(index: int) -> LabelledSamples:
    """A device's samples; the first has the most, and judges best."""
    return samples(index, 48 if index else 96)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def farm_in(folder: Path, bundle: Bundle, count: int = 3, **changes: object) -> AsyncIterator[Farm]:
    broker = MemoryBroker()
    setup = Setup(folder, bundle, broker.dial, budgets=(STRONG,) * count)
    farm = Farm(setup, broker)
    for index in range(count):
        farm.agent(index, **changes)
    try:
        yield farm
    finally:
        for name in list(farm.agents):
            await farm.stop(name)


async def test_a_model_reaches_all_canaries_first_and_is_judged_on_each(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train()
        rollout = await farm.deploy(canary=1)
        assert (rollout.stage, rollout.canaries) == ("done", ("d0",))
        assert farm.active() == {"d0": 1, "d1": 1, "d2": 1}
        said = farm.said("d1")
        aside = len(divided(owned(1), HELD_OUT).kept)
        assert (said.verdict, said.metric, said.samples, said.before) == ("taken", "accuracy", aside, None)
        order = [line for line in farm.told if ": taken" in line]
        assert order[0].startswith("d0: ")
        place = farm.shelf("d2").place(rollout.offer)
        assert {path.name for path in place.iterdir()} == {"model.onnx", "card.md", "manifest.json"}
        assert "| round |" not in (place / "card.md").read_text()
        assert farm.chunks == {rollout.offer.model, rollout.offer.card}


async def test_a_worse_model_goes_no_further_than_its_canaries(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train()
        first = await farm.deploy()
        await farm.train("untrained", lr=1e-6, rounds=1)  # another folder: numbers go on
        rollout = await farm.deploy("untrained", canary=1)
        assert (rollout.stage, rollout.offer.number) == ("back", 2)
        assert rollout.answers["d0"].verdict == "refused"
        assert "worse by more than 0.02" in rollout.reason
        assert set(rollout.answers) == {"d0"}
        assert set(farm.active().values()) <= {0, 1}
        assert farm.shelf("d0").state().active == first.offer


async def test_undo_goes_back_and_a_late_device_gets_what_is_in_force(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train()
        first = await farm.deploy(wish=Wish(round=4), margin=1.0)
        second = await farm.deploy(margin=1.0)
        assert set(farm.active().values()) == {2}
        assert farm.chunks == {second.offer.model, second.offer.card}  # what nobody needs any more is forgotten
        async with asyncio.timeout(PATIENCE_S):
            await farm.deployer().undo()
        assert set(farm.active().values()) == {1}
        assert farm.chunks == {first.offer.model, first.offer.card}
        late = farm.agent(3)
        await until(lambda: farm.active()[late] == 1)  # nobody but the broker is there
        async with asyncio.timeout(PATIENCE_S):
            await farm.deployer().undo()
        assert set(farm.active().values()) == {0}
        assert farm.chunks == set()
        with pytest.raises(ConfigError, match="nothing can be undone"):
            await farm.deployer().undo()


async def test_a_deployer_that_was_killed_goes_on_from_its_disk(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train()
        await farm.online("d0", "d1", "d2")
        await farm.stop("d0")  # the canary says nothing
        farm.broker.retained[WHOLE.device("d0", "status")] = farm.broker.retained[WHOLE.device("d1", "status")]
        running = asyncio.create_task(farm.deploy(canary=1))
        await until(lambda: DeploymentFiles(tmp_path / "run").state().under_way is not None)
        await until(lambda: WHOLE.deployment in farm.broker.retained)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(ConfigError, match="deployment 1 is not over"):
            await farm.deploy()
        farm.broker.retained = {  # and the broker has lost its memory
            topic: payload for topic, payload in farm.broker.retained.items() if topic.endswith(("status", "profile"))
        }
        farm.agent(0)
        async with asyncio.timeout(PATIENCE_S):
            rollout = await farm.deployer().resume()
        assert rollout is not None
        assert rollout.stage == "done"
        await until(lambda: set(farm.active().values()) == {1})


async def test_training_goes_on_while_a_model_is_deployed(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train("first")
        training = asyncio.create_task(farm.train("second", rounds=40))
        rollout = await farm.deploy("first")
        assert rollout.stage == "done"
        await training


async def test_personal_layers_are_joined_in(tmp_path: Path, bundle: Bundle) -> None:
    own = Aggregation(phi=2, personal=("4",))
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train(aggregation=own)
        rollout = await farm.deploy(aggregation=own)
        assert rollout.stage == "done"
        models = [onnx.load(farm.shelf(name).path(rollout.offer)) for name in sorted(farm.agents)]
        tensors = [{one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer} for model in models]
        np.testing.assert_array_equal(tensors[0]["0.weight"], tensors[1]["0.weight"])
        assert not np.array_equal(tensors[0]["4.weight"], tensors[1]["4.weight"])
        sent = onnx.load(tmp_path / "run" / "deployment" / "1" / "model.onnx")
        sent_out = {one.name: onnx.numpy_helper.to_array(one) for one in sent.graph.initializer}
        assert not np.array_equal(sent_out["4.weight"], tensors[0]["4.weight"])


async def test_a_board_that_pins_bundles_refuses_what_nobody_allowed(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train()
        picky = farm.agent(5, bundles=())
        await farm.online(picky)
        await farm.deploy(canary=1, wish=Wish())
        assert farm.said(picky).verdict == "refused"
        assert "lamina-agent allow" in farm.said(picky).reason


async def test_nobody_there_and_nothing_kept_are_told(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle, count=1) as farm:
        await farm.online("d0")
        with pytest.raises(ConfigError, match="no round is committed yet"):
            await farm.deploy()
        await farm.train()
        await farm.stop("d0")
        with pytest.raises(ConfigError, match="no device is there"):
            await farm.deploy()
        assert DeploymentFiles(tmp_path / "run").state().under_way is None


async def test_agents_stay_for_a_federation_of_another_network_and_its_model(tmp_path: Path, bundle: Bundle) -> None:
    other = tmp_path / "other"
    module = nn.Sequential(nn.Linear(FEATURES, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    build_bundle(Definition("other", module, (FEATURES,), CLASSES), other, batch_size=8, measure=lambda *_: 5.0)
    async with farm_in(tmp_path, bundle) as farm:
        await farm.train("first")
        await farm.deploy("first")
        farm.setup.bundle = read_bundle(other)
        await farm.train("second")
        rollout = await farm.deploy("second", margin=1.0)
        assert (rollout.stage, rollout.offer.number) == ("done", 2)
        assert set(farm.active().values()) == {2}
        assert farm.said("d0").before is not None  # two networks of one metric are compared
        async with asyncio.timeout(PATIENCE_S):
            await farm.deployer("second").undo()
        assert set(farm.active().values()) == {1}


async def test_names_that_are_made_up_take_no_memory_without_end(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle, count=1) as farm:
        await farm.train()
        await farm.online("d0")
        deployer = farm.deployer(cohorts=Cohorts(min_devices=1, max_devices=3))
        running = asyncio.create_task(deployer.deploy(Wish(), 1, RolloutRules(wait_s=PATIENCE_S)))
        async with farm.broker.dial("stranger") as link:
            for number in range(50):
                answer = encode(Deployed(number=1, verdict="refused", reason="x"))
                await link.publish(WHOLE.device(f"made-up-{number}", "deployed"), answer, retain=True)
        async with asyncio.timeout(PATIENCE_S):
            await running
        assert deployer.state.rollout is not None
        assert len(deployer.state.rollout.answers) <= 3


@pytest.mark.parametrize(
    "name",
    [
        "image_and_kind",
        *(pytest.param(one, marks=pytest.mark.exhaustive) for one in ("forecast", "dense", "reconstruction")),
    ],
)
async def test_every_task_is_judged_by_its_own_metric_and_answers(tmp_path: Path, name: str) -> None:
    build_bundle(
        load_definition(f"{task_nets.__file__}:{name}", seed=3), tmp_path / "bundle", batch_size=6,
        measure=lambda *_: 5.0, check=False,
    )  # fmt: skip
    bundle = read_bundle(tmp_path / "bundle")
    broker = MemoryBroker()
    farm = Farm(Setup(tmp_path, bundle, broker.dial, budgets=(STRONG,), evaluate=False), broker)
    x, y = task_nets.data(name, 1, 40)
    farm.agent(0, LabelledSamples(x, y))
    try:
        await farm.train(rounds=2)
        first = await farm.deploy()
        assert first.stage == "done"
        said = farm.said("d0")
        assert (said.metric, said.score is not None) == (bundle.manifest.judge, True)
        await farm.train("again", rounds=3)
        assert (await farm.deploy("again", margin=1.0)).stage in ("done", "back")
        assert farm.said("d0").before is not None
        settings = AgentSettings(
            "whole", "d0", "in memory", threads=1, folder=str(tmp_path / "d0"), shared_process=True
        )  # fmt: skip
        sample = {key: part[:2] for key, part in x.items()} if isinstance(x, dict) else x[:2]
        assert len(Predictor(settings).predict(sample)) == 2
    finally:
        await farm.stop("d0")


async def test_int8_is_admitted_and_judged_by_boards(tmp_path: Path, bundle: Bundle) -> None:
    async with farm_in(tmp_path, bundle, count=1) as farm:
        await farm.train()
        rollout = await farm.deploy(wish=Wish(quantise="int8", most_loss=1.0), margin=1.0)
        assert (rollout.stage, rollout.offer.quantised) == ("done", "int8")
        assert farm.active() == {"d0": 1}
