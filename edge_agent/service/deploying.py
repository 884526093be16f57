"""Follows deployments on a board: fetches a model, judges it between two rounds, takes it or refuses it, and says so.

What is to be done is decided in `session.deployment`. A model is fetched, judged and put on the shelf before the file
that names the active one is replaced; a board that is killed anywhere in between begins again from the order, which the
broker has kept.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from lamina.broker.link.seam import Link
from lamina.broker.wire.deployments import Deployed, Deployment, Offer
from lamina.edge_agent.service.fetch import Fetcher
from lamina.edge_agent.service.learning import Learning
from lamina.edge_agent.service.orders import Orders
from lamina.edge_agent.service.personal_file import Owner, newest_personal
from lamina.edge_agent.service.profile import threads
from lamina.edge_agent.serving.joining import joined
from lamina.edge_agent.serving.judge import Judge
from lamina.edge_agent.serving.shelf import CARD, MANIFEST, MODEL, OFFERED, Shelf
from lamina.edge_agent.session.deployment import Answer, Fetch, PutAway, ShelfState, step_of, verdict_on
from lamina.edge_agent.settings import AgentSettings
from lamina.models.bundle import decode_manifest
from lamina.models.errors import ConfigError, LinkError, ModelError, RemoteError, brief
from lamina.models.manifest import Manifest
from lamina.models.personal import at_places, with_personal
from lamina.models.storage.disk import DISK, Disk, read
from lamina.models.storage.replace import replace_file
from lamina.models.values import layer_tensors

log = logging.getLogger("lamina.agent")

MOST_MODEL_MIB = 1024.0
_MOST_CARD_BYTES = 1 << 22


class Deploying:
    """One board's side of deployments.

    Args:
        settings: the operator's of the board.
        learning: lends its thread, its samples and its budget.
        orders: says which bundles may be used here.
        disk: models lie on.
    """

    def __init__(self, settings: AgentSettings, learning: Learning, orders: Orders, disk: Disk = DISK) -> None:
        self._settings, self._learning, self._orders, self._disk = settings, learning, orders, disk
        self._folder = Path(settings.folder)
        self._shelf = Shelf(self._folder, disk)
        self._order: Deployment | None = None
        self._working: Deployment | None = None
        self._came = asyncio.Event()

    def hear(self, order: Deployment) -> None:
        """Follow an order, in the place of the one before."""
        if order != self._working:  # what is being tried is answered in any case
            self._order = order
            self._came.set()

    async def answers(self, link: Link, fetcher: Fetcher) -> AsyncIterator[Deployed]:
        """What the board makes of each order, for as long as the link lasts.

        Raises:
            LinkError: the link dropped.
        """
        while True:
            await self._came.wait()
            self._came.clear()
            if self._order is not None and (answer := await self._follow(self._order, link, fetcher)) is not None:
                yield answer

    async def _follow(self, order: Deployment, link: Link, fetcher: Fetcher) -> Deployed | None:
        """The answer to an order; ``None`` where a newer one came meanwhile."""
        state = await asyncio.to_thread(self._shelf.state)
        step = step_of(order, self._settings.device, state)
        match step:
            case Answer(answer):
                return answer
            case PutAway():
                gone = Deployed(number=0, verdict="taken")
                return await self._kept(state.taking(None, gone), gone)
            case Fetch(offer, judge):
                self._working = order
                try:
                    tried = await self._unless_superseded(self._tried(offer, judge, order.margin, state, link, fetcher))
                finally:
                    self._working = None
                if tried is None:
                    return None
                after = state.taking(offer, tried) if tried.verdict == "taken" else state.refusing(tried)
                return await self._kept(after, tried)

    async def _tried(
        self, offer: Offer, judge: bool, margin: float, state: ShelfState, link: Link, fetcher: Fetcher
    ) -> Deployed:
        device = self._settings.device
        log.info("%s: deployment %d: a model of round %d", device, offer.number, offer.round)
        try:
            self._check(offer)
            judged_by = await self._fetched(offer, link, fetcher)
            answer = await self._learning.between(partial(self._judged, offer, judged_by, judge, margin, state))
        except LinkError:
            raise
        except (ConfigError, RemoteError, OSError) as error:
            reason = brief(str(error), 900)
            answer = Deployed(number=offer.number, verdict="refused", reason=reason, active=state.number)
        log.info("%s: deployment %d is %s: %s", device, offer.number, answer.verdict, answer.reason)
        return answer

    async def _unless_superseded(self, trial: Coroutine[Any, Any, Deployed]) -> Deployed | None:
        """What a trial comes to; it is left off when a newer order comes, whose files are others."""
        work, newer = asyncio.ensure_future(trial), asyncio.ensure_future(self._came.wait())
        try:
            await asyncio.wait({work, newer}, return_when=asyncio.FIRST_COMPLETED)
            return work.result() if work.done() else None
        finally:
            for task in (work, newer):
                task.cancel()
            await asyncio.gather(work, newer, return_exceptions=True)

    async def _kept(self, state: ShelfState, answer: Deployed) -> Deployed:
        try:
            await asyncio.to_thread(self._shelf.keep, state)
        except OSError as error:
            reason = f"it can't be kept in {self._folder}: {error.strerror}"
            log.warning("%s: %s", self._settings.device, reason)
            return Deployed(number=answer.number, verdict="refused", reason=brief(reason), active=answer.active)
        return answer

    def _check(self, offer: Offer) -> None:
        """Refuse before anything is fetched what can't be used here."""
        if not self._orders.allows(offer.bundle):
            raise ModelError(f"its bundle is not allowed on this board; to allow it: lamina-agent allow {offer.bundle}")
        most_mib = min(self._learning.budget_mib or MOST_MODEL_MIB, MOST_MODEL_MIB)
        if offer.model_bytes > most_mib * 2**20:
            raise ModelError(f"its file takes {offer.model_bytes / 2**20:.0f} MiB, and {most_mib:.0f} are allowed")
        if offer.card_bytes > _MOST_CARD_BYTES:
            raise ModelError(f"its card takes {offer.card_bytes} bytes")

    async def _fetched(self, offer: Offer, link: Link, fetcher: Fetcher) -> Path | None:
        """Have all of a model on the disk; returns where the graph of its metrics lies, if it has one."""
        content = await fetcher.manifest(link, offer.bundle)
        manifest = decode_manifest(content, f"manifest {offer.bundle}")
        name = OFFERED if offer.personal else MODEL
        await fetcher.file(link, offer.model, offer.model_bytes, self._shelf.path(offer, name))
        await fetcher.file(link, offer.card, offer.card_bytes, self._shelf.path(offer, CARD))
        if manifest.metrics:
            await fetcher.files(link, [manifest.metrics.graph])
        if offer.personal:
            await asyncio.to_thread(
                self._join, offer, with_personal(manifest, at_places(manifest.spec, offer.personal))
            )
        await asyncio.to_thread(replace_file, self._shelf.path(offer, MANIFEST), content, self._disk)
        return fetcher.path(manifest.metrics.graph) if manifest.metrics else None

    def _join(self, offer: Offer, manifest: Manifest) -> None:
        """Write the model with this board's own layers in it."""
        spec = manifest.spec
        owner = Owner(offer.run, offer.bundle, offer.personal)
        values = newest_personal(self._folder, owner, spec, self._disk)
        own = {
            name: tensor
            for index, layer in enumerate(spec.layers)
            if layer.name in values
            for name, tensor in layer_tensors(spec, index, values[layer.name]).items()
        }
        model = read(self._shelf.path(offer, OFFERED), self._disk)
        replace_file(self._shelf.path(offer, MODEL), joined(model, own), self._disk)
        self._disk.remove(self._shelf.path(offer, OFFERED))

    def _judged(
        self, offer: Offer, metrics_graph: Path | None, judge: bool, margin: float, state: ShelfState
    ) -> Deployed:
        """What comes of an offer; in the learner's thread."""
        manifest = self._shelf.manifest(offer)
        judged_by = Judge(
            self._learning.judging_samples(), metrics_graph, threads(self._settings), self._learning.budget_mib
        )
        score = judged_by.score(self._shelf.path(offer), manifest)
        return verdict_on(
            offer,
            state,
            metric=manifest.judge,
            score=score,
            before=self._before(state.active, judged_by, manifest),
            samples=judged_by.count,
            margin=margin,
            lower_is_better=manifest.lower_is_better,
            judge=judge,
        )

    def _before(self, active: Offer | None, judged_by: Judge, manifest: Manifest) -> float | None:
        """The active model's score by the same metric; ``None`` where it can't be told."""
        if active is None:
            return None
        try:
            before = self._shelf.manifest(active)
            if before.judge != manifest.judge:
                return None
            score = judged_by.score(self._shelf.path(active), before)
        except ConfigError as error:
            log.warning("%s: the model before can't be judged any more: %s", self._settings.device, error)
            return None
        return score if math.isfinite(score) else None
