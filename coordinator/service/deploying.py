"""Carries out a rollout: says what devices are told, hears what they answer, and keeps both on the disk.

It has a link of its own, so it goes on whether or not a coordinator trains meanwhile. What is to happen is decided in
`coordinator.deployment.rollout`. The state is written before it is said: after a kill the same is said again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lamina.broker.link.hearing import hear_all
from lamina.broker.link.reconnect import keep_linked
from lamina.broker.link.seam import Delivery, Dial, Link
from lamina.broker.wire.deployments import Deployed, Deployment
from lamina.broker.wire.files import split_file
from lamina.broker.wire.messages import DeviceProfile, DeviceStatus, Request, decode, encode
from lamina.broker.wire.orders import opened
from lamina.broker.wire.topics import Topics
from lamina.coordinator.deployment.rollout import (
    DeploymentState,
    Rollout,
    RolloutRules,
    adopted,
    advanced,
    begun,
    chosen_canaries,
    heard,
    order,
    undone,
)
from lamina.coordinator.records.deployments import DeploymentFiles
from lamina.coordinator.records.offering import Wish, prepare
from lamina.coordinator.service.retained import retained
from lamina.coordinator.service.signing import Signer
from lamina.coordinator.settings import FederationSettings
from lamina.models.bundle import entries, read_bundle
from lamina.models.errors import ConfigError, DecodeError, RemoteError

log = logging.getLogger("lamina.coordinator")

_TICK_S = 1.0
_LARGEST_NUMBER = 1 << 30  # that is believed of what others say
_GRACE_S = 15.0
"""So long a way back is watched: devices that are there have answered by then."""

Tell = Callable[[str], None]
"""Tells the operator something, in one line."""


class Deployer:
    """One program's way to deploy models in a federation.

    Args:
        settings: of the federation.
        dial: opens a link to the broker.
        tell: is told what happens, for a person.
        clock: seconds since 1970.
        grace_s: so long a way back is watched.
    """

    def __init__(
        self,
        settings: FederationSettings,
        dial: Dial,
        tell: Tell,
        clock: Callable[[], float] = time.time,
        grace_s: float = _GRACE_S,
    ) -> None:
        self._settings, self._dial, self._tell, self._clock, self._grace_s = settings, dial, tell, clock, grace_s
        self._topics = Topics(settings.federation)
        self._files = DeploymentFiles(Path(settings.folder))
        self._state = DeploymentState()
        self._signer: Signer | None = None
        self._active: dict[str, int] = {}  # number of the model that each device predicts with
        self._online: dict[str, bool] = {}
        self._contents: dict[str, bytes] = {}  # what devices may ask for, by SHA-256
        self._news = asyncio.Event()

    @property
    def state(self) -> DeploymentState:
        """What is deployed, as this program left it."""
        return self._state

    async def deploy(self, wish: Wish, canaries: int | Sequence[str] | None, rules: RolloutRules) -> Rollout:
        """Deploy a model, to its end.

        Args:
            wish: which one.
            canaries: devices that get it first: how many, or which ones; ``None``: two, or as many as are there.
            rules: of the rollout.

        Raises:
            ConfigError: a rollout goes on, nobody is there, no such round is kept, or it may not be signed.
            BrokerUnreachable: the broker stayed away.
        """
        with self._files.held():
            self._begin()
            if self._state.under_way is not None:
                begun(self._state, self._state.under_way.offer, rules, (), (), 0.0)  # it says what goes on
            async with self._dial(self._client_id(), None) as link:
                here = await self._looked_around(link)
            chosen, number = _canaries(canaries, here), self._state.last_number + 1
            prepared = await asyncio.to_thread(prepare, self._settings, self._files, number, wish)
            for line in prepared.said:
                self._tell(line)
            first = f"first to {', '.join(chosen)}" if chosen else "to everyone"
            self._tell(f"deployment {prepared.offer.number} goes {first}")
            self._keep(begun(self._state, prepared.offer, rules, chosen, here, self._clock()))
            return await self._run()

    async def resume(self) -> Rollout | None:
        """Go on with a rollout that was broken off, and say again what is in force; ``None``: nothing ever was.

        Raises:
            ConfigError: another program deploys.
        """
        with self._files.held():
            self._begin()
            return await self._run() if self._state.last_number else None

    async def undo(self) -> DeploymentState:
        """Take the last deployment back.

        Raises:
            ConfigError: nothing is deployed, or another program deploys.
        """
        with self._files.held():
            self._begin()
            self._keep(undone(self._state, self._clock()))
            before = self._state.in_force
            self._tell(f"deployment {before.number} is in force again" if before else "no model is deployed any more")
            await self._run(watched=True)
            return self._state

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._state = self._files.state()
        if self._settings.signing.key_file:  # a new one, whose numbers are above all that were given before
            self._signer = Signer(self._settings, read_bundle(Path(self._settings.bundle)).digest)

    def _client_id(self) -> str:
        return self._topics.client("deploy", secrets.token_hex(4))

    def _keep(self, state: DeploymentState) -> None:
        self._files.keep(state)
        self._state = state

    async def _run(self, *, watched: bool = False) -> Rollout:
        """Serve over links until the rollout is over; the last one, as it ended."""

        async def serve(link: Link) -> None:
            await self._serve(link, watched=watched)

        await keep_linked(
            self._dial,
            self._client_id(),
            None,
            serve,
            give_up_s=self._settings.deadlines.broker_s,
            on_retry=lambda error, wait_s: self._tell(f"{error}; trying again in {wait_s:.1f} s"),
        )
        assert self._state.rollout is not None, "what was deployed had a rollout"
        return self._state.rollout

    async def _serve(self, link: Link, *, watched: bool) -> None:
        topics = self._topics
        self._online.clear()
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(link), name="listen")
            await link.subscribe(*map(topics.devices, ("status", "deployed", "request")))
            await self._say(link)
            if self._state.under_way is None and watched:
                await self._watch_way_back()
            while self._state.under_way is not None:
                await self._advance(link)
            listening.cancel()
        await self._clean_up(link)

    async def _advance(self, link: Link) -> None:
        """Wait for news, or for time to pass, and say what follows from it."""
        try:
            async with asyncio.timeout(_TICK_S):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()
        here = [name for name, online in self._online.items() if online]
        state = advanced(self._state, here, self._clock())
        if state != self._state:
            told = order(state) != order(self._state)
            self._keep(state)
            rollout = state.rollout
            assert rollout is not None
            self._tell(f"deployment {rollout.offer.number}: {_WORDS[rollout.stage]}: {rollout.reason}")
            if told:
                await self._say(link)

    async def _say(self, link: Link) -> None:
        """Have the broker keep the files that devices may need now, and then the order."""
        said = order(self._state)
        offers = [offer for offer in (said.offer, said.base) if offer is not None]
        contents: dict[str, bytes] = {}
        for offer in offers:
            if self._files.has(offer):  # else it was deployed from elsewhere, and the broker keeps it
                contents |= await asyncio.to_thread(self._files.contents, offer)
        parts = {sha256: split_file(content, self._settings.wire.chunk_bytes) for sha256, content in contents.items()}
        published = self._state.published | {sha256: len(chunks) for sha256, chunks in parts.items()}
        self._keep(msgspec.structs.replace(self._state, published=published))
        self._contents = contents
        for sha256, chunks in parts.items():
            await self._publish(link, sha256, chunks)
        payload = encode(said)
        if self._signer is not None:
            payload = self._signer.sealed(self._topics.deployment, said)
        await link.publish(self._topics.deployment, payload, retain=True)

    async def _publish(self, link: Link, sha256: str, chunks: Sequence[bytes]) -> None:
        await asyncio.gather(
            *(
                link.publish(self._topics.bundle(sha256, index), chunk, retain=True)
                for index, chunk in enumerate(chunks)
            )
        )

    async def _clean_up(self, link: Link) -> None:
        """Have the broker forget models that nobody is told to take any more."""
        bundle = await asyncio.to_thread(read_bundle, Path(self._settings.bundle))
        trained = {bundle.digest, *(entry.sha256 for entry in entries(bundle.manifest))}  # a coordinator may need it
        needed = self._contents.keys() | trained
        old = {sha: count for sha, count in self._state.published.items() if sha not in needed}
        for sha, count in old.items():
            await self._publish(link, sha, [b""] * count)
        if old:
            kept = {sha: count for sha, count in self._state.published.items() if sha in needed}
            self._keep(msgspec.structs.replace(self._state, published=kept))

    async def _watch_way_back(self) -> None:
        """Wait until whoever is there has gone back, for a while at most."""
        try:
            async with asyncio.timeout(self._grace_s):
                await self._all_back()
        except TimeoutError:
            waiting = ", ".join(self._not_back())
            self._tell(f"not heard of yet: {waiting or 'any device'}; whoever comes later is told")

    async def _all_back(self) -> None:
        await asyncio.sleep(_TICK_S)  # what the broker keeps of devices has come by then
        while self._not_back():
            self._news.clear()
            await self._news.wait()

    def _not_back(self) -> list[str]:
        number = self._state.in_force.number if self._state.in_force else 0
        return [name for name, online in self._online.items() if online and self._active.get(name, -1) != number]

    # -- what devices say --------------------------------------------------------------------------------------------

    async def _looked_around(self, link: Link) -> dict[str, int]:
        """The devices that are there, with how many samples each has; what is deployed already is noted."""
        online: set[str] = set()
        samples: dict[str, int] = {}
        said, last = Deployment(), 0
        leaves = map(self._topics.devices, ("status", "profile", "deployed"))
        async for delivery in retained(link, *leaves, self._topics.deployment):
            try:
                address = self._topics.parse(delivery.topic)
                match address.kind:
                    case "status" if decode(delivery.payload, DeviceStatus).state == "online":
                        online.add(address.device)
                    case "profile":
                        samples[address.device] = decode(delivery.payload, DeviceProfile).num_examples
                    case "deployed":
                        last = max(last, decode(delivery.payload, Deployed).active)
                    case "deployment":
                        said = decode(self._opened(delivery), Deployment)
            except DecodeError as error:
                log.warning("passed over: %s", error)
        last = max(last, *(offer.number for offer in (said.offer, said.base) if offer), 0)
        self._state = adopted(self._state, said, min(last, _LARGEST_NUMBER))
        return {name: samples.get(name, 0) for name in sorted(online)}

    def _opened(self, delivery: Delivery) -> bytes:
        """An order that the broker keeps. What it made up itself must not be signed by being said again."""
        if self._signer is not None:
            return self._signer.said_by_us(delivery.topic, delivery.payload)
        return opened(delivery.payload)

    async def _listen(self, link: Link) -> None:
        await hear_all(link, lambda delivery: self._hear(link, delivery), _note_refused)

    async def _hear(self, link: Link, delivery: Delivery) -> None:
        if not delivery.payload:
            return
        address = self._topics.parse(delivery.topic)
        if not self._is_known(address.device):
            return
        match address.kind:
            case "status":
                self._online[address.device] = decode(delivery.payload, DeviceStatus).state == "online"
            case "deployed":
                self._hear_answer(address.device, decode(delivery.payload, Deployed))
            case "request":
                for sha256 in decode(delivery.payload, Request).files:
                    if sha256 in self._contents:
                        chunks = split_file(self._contents[sha256], self._settings.wire.chunk_bytes)
                        await self._publish(link, sha256, chunks)
        self._news.set()

    def _is_known(self, device: str) -> bool:
        """Whether a device was heard of before, or there is room for one more: anybody may make up names."""
        known = self._online.keys() | self._active.keys()
        return device in known or len(known) < self._settings.cohorts.max_devices

    def _hear_answer(self, device: str, answer: Deployed) -> None:
        self._active[device] = answer.active
        state = heard(self._state, device, answer)
        if state != self._state:
            self._keep(state)
            self._tell(f"{device}: {answer.verdict}: {answer.reason or 'it had it already'}")


_WORDS = {"canary": "canaries", "everyone": "to everyone", "done": "done", "back": "back to the model before"}


def _canaries(wanted: int | Sequence[str] | None, here: dict[str, int]) -> tuple[str, ...]:
    if wanted is None:
        return chosen_canaries(min(2, len(here)) or 1, here)
    if isinstance(wanted, int):
        return chosen_canaries(wanted, here)
    if away := sorted(set(wanted) - here.keys()):
        raise ConfigError(f"--canary: {away[0]!r} is not there; these are: {', '.join(here) or 'nobody'}")
    return tuple(wanted)


def _note_refused(delivery: Delivery, error: RemoteError) -> None:
    log.warning("refused a message: %s", error)
