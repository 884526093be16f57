"""One simulated federation from its beginning to its end: the programs' own services on virtual time.

The coordinator, the agents and the aggregator are those that ``lamina run``, ``lamina-agent`` and ``lamina aggregator``
run. Each is a process on a machine of its own, whose disk outlives it; one that ends by an error is started again after
five seconds, as an operator's service is.
"""

from __future__ import annotations

import csv
import io
import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lamina.broker.link import reconnect
from lamina.broker.wire.messages import Lease
from lamina.broker.wire.topics import Topics
from lamina.coordinator.service.aggregator import Aggregator
from lamina.coordinator.service.coordinator import Coordinator
from lamina.coordinator.service.lease import Leadership
from lamina.coordinator.settings import (
    Aggregation,
    Cohorts,
    Deadlines,
    Evaluation,
    FederationSettings,
    Training,
    Wire,
)
from lamina.edge_agent.service.agent import Agent
from lamina.edge_agent.settings import AgentSettings
from lamina.emulation.faults.broker import Limits, SimulatedBroker
from lamina.emulation.faults.machine_disk import MachineDisk
from lamina.emulation.faults.network import SimulatedNetwork
from lamina.emulation.faults.scenario import (
    AGGREGATOR,
    BROKER,
    COORDINATOR,
    LONG_QUEUE,
    LOST_S,
    ROUND_S,
    Event,
    Scenario,
)
from lamina.emulation.faults.scripted_learner import paced
from lamina.emulation.faults.small_bundle import WIDTHS
from lamina.emulation.faults.virtual_time import Process, Stalled, VirtualLoop, current_process
from lamina.models.bundle import Bundle
from lamina.models.errors import LaminaError
from lamina.models.samples import LabelledSamples
from lamina.models.storage.disk import read

NAME = "faults"
LIMIT_S = 4 * ROUND_S
_START_S = 0.3  # until an interpreter has loaded a program
_RESTART_S = 5.0
_MOST_RESTARTS = 60
_KEPT = 0.2  # of the samples, where devices judge, too: in every third scenario
_LAST_WORDS_S = 120.0  # for agents to hear of the end


@dataclass
class Ending:
    """What became of a federation.

    Attributes:
        model: the final model's bytes; empty where there is none.
        rows: of ``rounds.csv``.
        lasted_s: virtual seconds until the coordinator was done.
        problems: what should not have happened in any case.
        dropped: messages that the broker had acknowledged, and had no room for.
    """

    model: bytes = b""
    rows: list[dict[str, str]] = field(default_factory=list)
    lasted_s: float = 0.0
    problems: list[str] = field(default_factory=list)
    dropped: int = 0


class SimulatedProgram:
    """A program on its machine: started, killed, started again."""

    def __init__(self, world: World, name: str, main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.name, self.done = name, False
        self._world, self._main = world, main
        self._process: Process | None = None
        self._starts = 0
        self._stays_down_until = 0.0

    @property
    def running(self) -> bool:
        """Whether a process of it lives."""
        return self._process is not None

    def start(self) -> None:
        """Start a process, unless one runs, the program is done, or another fault keeps it down."""
        world = self._world
        if self._process is not None or self.done or world.over or world.loop.time() < self._stays_down_until:
            return
        self._starts += 1
        if self._starts > _MOST_RESTARTS:
            world.problems.append(f"{self.name} was started {self._starts} times")
            world.end()
            return
        process = self._process = Process(world.loop, self.name)
        world.processes.append(process)
        self._task = process.start(lambda: self._live(process))

    def kill(self, down_s: float) -> None:
        """SIGKILL, and a start after a while."""
        self._down(down_s)
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()

    def terminate(self, down_s: float) -> None:
        """SIGTERM, and a start after a while."""
        self._down(down_s)
        if self._process is not None:
            self._task.cancel()

    def _down(self, down_s: float) -> None:
        until = self._world.loop.time() + down_s + _START_S
        self._stays_down_until = max(self._stays_down_until, until)
        self._world.loop.at(until + 1e-6, self.start)

    async def _live(self, process: Process) -> None:
        world, again_s = self._world, 0.0
        try:
            await self._main()
            self.done = True
        except LaminaError as error:
            world.say(f"{self.name} ended: {error}")
            again_s = _RESTART_S
        except Exception as error:
            world.problems.append(f"{self.name} crashed: {type(error).__name__}: {error}")
            world.end()
        finally:
            process.ended = True
            if self._process is process:  # else it was killed
                self._process = None
                if not self.done:
                    world.loop.at(max(world.loop.time() + again_s, self._stays_down_until) + 1e-6, self.start)


class World:
    """A federation, its broker, its network and its faults.

    Args:
        scenario: what it consists of.
        events: what befalls it.
        bundle: what is trained.
        folder: below which the machines' disks lie; empty.
        say: told what happens, for a person.
    """

    def __init__(
        self,
        scenario: Scenario,
        events: tuple[Event, ...],
        bundle: Bundle,
        folder: Path,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.scenario, self.bundle, self._folder = scenario, bundle, folder
        self.loop = VirtualLoop(scenario.seed)
        limits = Limits(scenario.queued, inflight=20 if scenario.queued == LONG_QUEUE else 1)
        self.broker = SimulatedBroker(self._later, limits, keeps=scenario.broker_keeps)
        self.network = SimulatedNetwork(self.loop, self.broker, scenario.seed)
        self.processes: list[Process] = []
        self.problems: list[str] = []
        self._say = say
        self._events = events
        self._epochs = random.Random(f"{scenario.seed} epochs")
        self._slow_until: dict[str, float] = {}
        self._finished_at: float | None = None
        self.over = False
        self._ended = self.loop.create_future()
        self._leaders: dict[str, Process] = {}
        self.disks = {
            name: MachineDisk(random.Random(f"{scenario.seed} disk {name}").getrandbits(64))
            for name in (COORDINATOR, *scenario.devices)
        }
        self.programs = {COORDINATOR: SimulatedProgram(self, COORDINATOR, self._coordinate)}
        for index, device in enumerate(scenario.devices):
            self.programs[device] = SimulatedProgram(self, device, self._agent(index, device))
        if scenario.aggregator:
            self.programs[AGGREGATOR] = SimulatedProgram(self, AGGREGATOR, self._aggregate)

    def run(self) -> Ending:
        """Let it happen."""
        reconnect.jitter.seed(self.scenario.seed)
        with closing(self.loop):
            self.loop.set_exception_handler(self._note_unhandled)
            for program in self.programs.values():
                self.loop.at(0.001, program.start)
            for event in self._events:
                self.loop.at(event.at_s, self._befall, event)
            self.loop.at(LIMIT_S, self._too_late)
            self._autosave()
            try:
                self.loop.run_until_complete(self._ended)
            except Stalled as error:
                self.problems.append(str(error))
            lasted_s = self._finished_at or self.loop.time()
            ending = Ending(self._model(), self._rows(), lasted_s, list(self.problems), self.broker.dropped)
            self.over = True
            self.loop.bury(self.processes)
        return ending

    def say(self, line: str) -> None:
        """Tell what happens now."""
        self._say(f"{self.loop.time():9.3f} s  {line}")

    def end(self) -> None:
        """Stop looking."""
        if not self._ended.done():
            self._ended.set_result(None)

    # -- programs ------------------------------------------------------------------------------------------------------

    async def _coordinate(self) -> None:
        coordinator = Coordinator(
            self.settings(),
            self.bundle,
            self.network.dial_from(COORDINATOR),
            new_epoch=lambda: self._epochs.getrandbits(53),
            disk=self.disks[COORDINATOR],
            leadership=self._leadership,
        )
        await coordinator.run()
        self._finished_at = self.loop.time()
        self.say("the federation is finished")
        self.loop.at(self._finished_at + _LAST_WORDS_S, self.end)

    def _leadership(self, topics: Topics) -> Leadership:
        """A lease as a process of a machine of its own takes it: whether an earlier holder lives is plain to see."""
        holder = f"{self._epochs.getrandbits(64):016x}"
        process = current_process()
        if process is not None:
            self._leaders[holder] = process
        lease = Lease(holder=holder, process=1, host="simulated", since="virtual time", machine="m", started="0")
        return Leadership(topics, lease, lambda found: self._leaders[found.holder].ended)

    def _agent(self, index: int, device: str) -> Callable[[], Coroutine[Any, Any, None]]:
        scenario = self.scenario
        x = np.zeros((4 + index, WIDTHS[0]), np.float32)
        data = LabelledSamples(x, np.arange(4 + index) % 3)
        settings = AgentSettings(
            federation=NAME,
            device=device,
            data="in memory",
            budget_mib=scenario.budgets_mib[index],
            threads=1,
            folder=str(self._folder / device),
            once=True,
            shared_process=True,
        )

        def pace_s() -> float:
            slow = self.loop.time() < self._slow_until.get(device, -1.0)
            return scenario.paces_s[index] * (20 if slow else 1)

        async def live() -> None:
            dial, disk = self.network.dial_from(device), self.disks[device]
            await Agent(settings, data, dial, learner=paced(pace_s), disk=disk).run()

        return live

    async def _aggregate(self) -> None:
        await Aggregator(NAME, "site", self.network.dial_from(AGGREGATOR)).run()

    def settings(self) -> FederationSettings:
        """The operator's ``federation.toml``."""
        scenario = self.scenario
        return FederationSettings(
            federation=NAME,
            bundle=str(self.bundle.folder),
            folder=str(self._folder / COORDINATOR),
            training=Training(rounds=scenario.rounds, local_steps=scenario.local_steps),
            cohorts=Cohorts(min_devices=len(scenario.devices)),
            aggregation=Aggregation(phi=scenario.phi, aggregators=int(scenario.aggregator)),
            wire=Wire(
                update_codec=scenario.codec,
                delta_codec=scenario.deltas,
                chunk_kib=scenario.chunk_kib,
                batched=scenario.batched,
            ),
            deadlines=Deadlines(round_s=ROUND_S, lost_s=LOST_S),
            evaluation=Evaluation(devices=_KEPT if scenario.seed % 3 == 0 else 0.0),
        )

    # -- faults --------------------------------------------------------------------------------------------------------

    def _befall(self, event: Event) -> None:
        if self._finished_at is not None and event.target != BROKER and not self.programs[event.target].running:
            return
        self.say(f"{event.kind} {event.target} for {event.for_s:g} s")
        target, for_s = event.target, event.for_s
        if target == BROKER:
            if self.broker.running:
                (self.broker.kill if event.kind == "kill" else self.broker.stop)()
                self.loop.at(self.loop.time() + for_s + 1e-6, self.broker.start)
            return
        match event.kind:
            case "kill":
                self.programs[target].kill(for_s)
            case "power":
                self.network.freeze(target, for_s + 0.1)  # nobody is told that the machine is gone
                self.programs[target].kill(for_s)
                if target in self.disks:
                    self.disks[target] = self.disks[target].after_power_cut()
            case "term":
                self.programs[target].terminate(for_s)
            case "cut":
                self.network.cut(target, for_s)
            case "freeze":
                self.network.freeze(target, for_s)
            case "slow network":
                self.network.slow(target, for_s)
            case "slow training":
                self._slow_until[target] = self.loop.time() + for_s
            case "junk":
                self._throw_junk(target)

    def _throw_junk(self, device: str) -> None:
        """Somebody publishes nonsense: noise on every topic, and what belongs to topics of another kind."""
        rng = random.Random(f"{self.scenario.seed} junk {self.loop.time()}")
        topics = Topics(NAME)
        own = [topics.device(device, leaf) for leaf in ("status", "profile", "report", "request", "updates", "task")]
        for topic in (*own, topics.round, topics.advance(0), topics.kept, topics.lease, topics.coordinator_status):
            self.broker.inject(topic, rng.randbytes(rng.choice((1, 20, 2000))))
        kept = sorted(self.broker.retained.items())
        for topic, _ in kept:
            _, payload = rng.choice(kept)
            if all(topics.parse(topic).kind != topics.parse(other).kind for other, same in kept if same == payload):
                self.broker.inject(topic, payload)

    def _autosave(self) -> None:
        self.broker.save()
        self.loop.at(self.loop.time() + self.scenario.autosave_s, self._autosave)

    def _later(self, seconds: float, call: Callable[[], None]) -> object:
        return self.loop.at(self.loop.time() + seconds, call)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _too_late(self) -> None:
        if self._finished_at is None:
            self.problems.append(f"not finished after {LIMIT_S:g} s")
        self.end()

    def _note_unhandled(self, loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.problems.append(f"unhandled: {context.get('message')}: {type(error).__name__}: {error}")

    def _model(self) -> bytes:
        path = self._folder / COORDINATOR / "model.safetensors"
        return path.read_bytes() if path.exists() else b""

    def _rows(self) -> list[dict[str, str]]:
        path, disk = self._folder / COORDINATOR / "rounds.csv", self.disks[COORDINATOR]
        if path.name not in disk.names(path.parent):
            return []
        return list(csv.DictReader(io.StringIO(read(path, disk).decode())))


def quiet() -> None:
    """Have the programs' own logs say nothing: thousands of federations would."""
    logging.getLogger("lamina").setLevel(logging.CRITICAL)
