"""Sends a round's updates: small layers share messages, the report comes last, and nothing waits for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from lamina.broker.link.reconnect import jitter
from lamina.broker.link.seam import Link
from lamina.broker.wire import batches
from lamina.broker.wire.messages import Report, RoundPlan, encode
from lamina.broker.wire.packing import least_chunk_bytes
from lamina.edge_agent.service.agent_context import Acknowledged, AgentContext
from lamina.edge_agent.session.events import REPORT, Deliver, Outcome, Published

MESSAGES_AT_ONCE = 20  # of an update, besides those of the layer that was encoded last


async def deliver(context: AgentContext, link: Link, command: Deliver) -> None:
    """Publish the updates of the layers, then the report, without waiting for one before the next is sent.

    Each is told of, as `Published`, when the broker has it. What is asked for again goes out message by message, and a
    layer's chunks in an order that begins elsewhere each time: a short queue on the way drops none, or not the same.
    What the broker acknowledged on an earlier link goes out last, so that links which die soon bring the rest across.

    Raises:
        LinkError: the link dropped. It comes in an exception group.
    """
    plan, sending = _cut_for(link, command.plan, context), _Sending(link, 1 if command.again else MESSAGES_AT_ONCE)
    known = context.acknowledged
    known.begin(plan.epoch, plan.round)
    repeated: list[int] = []  # layers of which the broker acknowledged something on an earlier link
    async with asyncio.TaskGroup() as group:
        async for layers, topic, messages in _updates(context, plan, command.layers):
            new = messages if command.again else [message for message in messages if message not in known]
            if len(new) < len(messages):
                repeated += layers
            if command.again:
                new = _turned(new, jitter.randrange(max(len(new), 1)))
            context.tally.uplink_bytes += sum(map(len, new))
            sent = [await sending.start(group, topic, message, known) for message in new]
            group.create_task(_confirm(context, Published(plan.epoch, plan.round, layers), sent))
        if (progress := context.session.progress) is not None:
            await context.learning.save(progress)  # before the round can be over: see `Session.progress`
        if command.outcome is not None:
            topic = context.topics.device(context.profile.device, "report")
            sent = [await sending.start(group, topic, encode(_report(context, plan, command.outcome)), known)]
            group.create_task(_confirm(context, Published(plan.epoch, plan.round, (REPORT,)), sent))
        async for _, topic, messages in _updates(context, plan, repeated):  # the broker may have died with it
            context.tally.uplink_bytes += sum(map(len, messages))
            for message in messages:
                await sending.start(group, topic, message, known)


def _cut_for(link: Link, plan: RoundPlan, context: AgentContext) -> RoundPlan:
    """The plan with messages that pass on this link."""
    if not link.most_bytes:
        return plan
    most = max(link.most_bytes, least_chunk_bytes(context.learning.spec))
    return msgspec.structs.replace(plan, chunk_bytes=min(plan.chunk_bytes, most))


async def _updates(
    context: AgentContext, plan: RoundPlan, layers: Sequence[int]
) -> AsyncIterator[tuple[tuple[int, ...], str, list[bytes]]]:
    """All messages of the layers' updates: layers, and where what is to be published for them."""
    topics, specs, device = context.topics, context.learning.layers, context.profile.device
    batch: dict[int, bytes] = {}  # messages that wait for others to share theirs with, by layer

    def packed() -> tuple[tuple[int, ...], str, list[bytes]]:
        if len(batch) == 1:
            ((layer, message),) = batch.items()
            return (layer,), topics.layer_update(specs[layer].name, device), [message]
        return tuple(batch), topics.batch(device), [batches.pack(list(batch.values()))]

    async for layer, messages in context.learning.encoded_updates(plan, layers):
        if not plan.batched or len(messages) != 1 or batches.size(messages) > plan.chunk_bytes:
            yield (layer,), topics.layer_update(specs[layer].name, device), messages
            continue
        if batches.size([*batch.values(), *messages]) > plan.chunk_bytes:
            yield packed()
            batch = {}
        batch[layer] = messages[0]
    if batch:
        yield packed()


def _turned(messages: list[bytes], start: int) -> list[bytes]:
    return messages[start:] + messages[:start]


async def _confirm(context: AgentContext, published: Published, sent: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*sent)
    context.feed(published)


def _report(context: AgentContext, plan: RoundPlan, outcome: Outcome) -> Report:
    return Report(
        epoch=plan.epoch,
        round=plan.round,
        steps=outcome.steps,
        loss=outcome.loss,
        accuracy=outcome.accuracy,
        step_s=outcome.step_s,
        forward_s=outcome.forward_s,
        peak_mib=context.learning.peak_mib(),
        way=context.learning.memory_plan,
        uplink_bytes=context.tally.uplink_bytes,
        downlink_bytes=context.tally.downlink_bytes,
        sums=outcome.sums or msgspec.UNSET,
        counts=outcome.counts or msgspec.UNSET,
    )


class _Sending:
    """Publishes messages concurrently, so many at once, in order of their start."""

    def __init__(self, link: Link, at_once: int) -> None:
        self._link = link
        self._window = asyncio.Semaphore(at_once)

    async def start(
        self, group: asyncio.TaskGroup, topic: str, message: bytes, known: Acknowledged
    ) -> asyncio.Task[None]:
        await self._window.acquire()
        return group.create_task(self._publish(topic, message, known))

    async def _publish(self, topic: str, message: bytes, known: Acknowledged) -> None:
        try:
            await self._link.publish(topic, message)
            known.add(message)
        finally:
            self._window.release()
