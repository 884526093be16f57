"""Serves predictions by MQTT: a question on one topic, its answer on another."""

from __future__ import annotations

import asyncio
import logging

from lamina.broker.link.hearing import hear_all
from lamina.broker.link.reconnect import keep_linked
from lamina.broker.link.seam import Delivery, Dial, Link
from lamina.edge_agent.serving.predictor import Predictor
from lamina.edge_agent.serving.questions import encoded, replied
from lamina.models.errors import LinkError

log = logging.getLogger("lamina.agent")


async def answer_all(predictor: Predictor, dial: Dial, client_id: str, asked: str, answered: str) -> None:
    """Answer what comes, one question after the other, over one link after the other, until cancelled.

    A question is acknowledged once its answer is out. So one that was being answered as the link dropped comes again,
    where the broker keeps it.

    Args:
        predictor: that answers.
        dial: opens a link to the broker.
        client_id: this program's name there.
        asked: the topic, or filter, of questions.
        answered: the topic of answers.
    """

    async def serve(link: Link) -> None:
        async def hear(delivery: Delivery) -> None:
            reply = await asyncio.to_thread(replied, predictor, delivery.payload)
            await link.publish(answered, encoded(reply))

        await link.subscribe(asked)
        log.info("answers questions on %s", asked)
        await hear_all(link, hear, lambda delivery, error: log.warning("passed over: %s", error))

    def note(error: LinkError, wait_s: float) -> None:
        log.warning("%s; trying again in %.1f s", error, wait_s)

    await keep_linked(dial, client_id, None, serve, patient=True, on_retry=note)
