"""Sends a round's updates: small layers share messages, the report comes last, and nothing waits for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from lamina.broker.link.reconnect import jitter
from lamina.broker.link.seam import Link
from lamina.broker.wire import batches
from lamina.broker.wire.messages import Report, RoundPlan, encode
from lamina.edge_agent.service.agent_context import AgentContext
from lamina.edge_agent.session.events import REPORT, Deliver, Outcome, Published

MESSAGES_AT_ONCE = 20  # of an update, besides those of the layer that was encoded last


async def deliver(context: AgentContext, link: Link, command: Deliver) -> None:
    """Publish the updates of the layers, then the report, without waiting for one before the next is sent.

    Each is told of, as `Published`, when the broker has it. What is asked for again goes out message by message, and a
    layer's chunks in an order that begins elsewhere each time: a short queue on the way drops none, or not the same.

    Raises:
        LinkError: the link dropped. It comes in an exception group.
    """
    plan, sending = command.plan, _Sending(link, 1 if command.again else MESSAGES_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        async for layers, topic, messages in _updates(context, plan, command.layers):
            context.tally.uplink_bytes += sum(map(len, messages))
            if command.again:
                messages = _turned(messages, jitter.randrange(max(len(messages), 1)))
            sent = [await sending.start(group, topic, message) for message in messages]
            group.create_task(_confirm(context, Published(plan.epoch, plan.round, layers), sent))
        if (progress := context.session.progress) is not None:
            await context.learning.save(progress)  # before the round can be over: see `Session.progress`
        if command.outcome is not None:
            topic = context.topics.device(context.profile.device, "report")
            sent = [await sending.start(group, topic, encode(_report(context, plan, command.outcome)))]
            group.create_task(_confirm(context, Published(plan.epoch, plan.round, (REPORT,)), sent))


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

    async def start(self, group: asyncio.TaskGroup, topic: str, message: bytes) -> asyncio.Task[None]:
        await self._window.acquire()
        return group.create_task(self._publish(topic, message))

    async def _publish(self, topic: str, message: bytes) -> None:
        try:
            await self._link.publish(topic, message)
        finally:
            self._window.release()
