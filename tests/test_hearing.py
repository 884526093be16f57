"""One message that can't be dealt with costs the others nothing, whatever it met."""

import asyncio
import logging
from contextlib import suppress

import pytest

from lamina.broker.link.hearing import hear_all
from lamina.broker.link.memory import MemoryBroker
from lamina.broker.link.seam import Delivery
from lamina.models.errors import ConfigError, DecodeError, LinkError, RemoteError


def heard_until_the_link_drops(fault: Exception) -> tuple[list[bytes], list[str]]:
    """What was heard of three messages, the second of which meets a fault, and what was noted."""

    async def main() -> tuple[list[bytes], list[str]]:
        broker, heard, noted = MemoryBroker(window=1), list[bytes](), list[str]()

        async def hear(delivery: Delivery) -> None:
            if delivery.payload == b"two":
                raise fault
            heard.append(delivery.payload)
            if delivery.payload == b"three":
                broker.stop()

        def note(delivery: Delivery, error: RemoteError) -> None:
            noted.append(f"{delivery.topic} {error}")

        with suppress(LinkError):
            async with broker.dial("listener") as link:
                await link.subscribe("a/#")
                for payload in (b"one", b"two", b"three"):
                    await link.publish("a/b", payload)
                await hear_all(link, hear, note)
        return heard, noted

    return asyncio.run(main())


def test_a_refused_message_is_noted() -> None:
    assert heard_until_the_link_drops(DecodeError("damaged")) == ([b"one", b"three"], ["a/b damaged"])


@pytest.mark.parametrize("fault", [KeyError("layer"), RecursionError(), ValueError(1), MemoryError(), AssertionError()])
def test_an_error_that_nobody_foresaw_is_logged_and_passed_over(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        heard, noted = heard_until_the_link_drops(fault)
    assert heard == [b"one", b"three"]
    assert noted == [f"a/b {type(fault).__name__} in dealing with it"]
    assert "a fault of this program" in caplog.text
    assert "Traceback" in caplog.text


def test_the_operators_errors_and_the_links_still_end_the_service() -> None:
    async def main() -> None:
        broker = MemoryBroker()

        async def hear(delivery: Delivery) -> None:
            raise ConfigError("the disk is full")

        async with broker.dial("listener") as link:
            await link.subscribe("a")
            await link.publish("a", b"x")
            await hear_all(link, hear, lambda delivery, error: None)

    with pytest.raises(ConfigError):
        asyncio.run(main())
