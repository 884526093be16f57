"""How a service takes what arrives on a link: one message after the other, so that no message ends the service.

What a decoder or a machine refuses (`RemoteError`) is noted. So is an error that nobody foresaw: it is a fault of this
program, met with a remote's bytes, and is logged with its traceback; but a retained message that ended the program
would end each of its restarts, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from lamina.broker.link.seam import Delivery, Link
from lamina.models.errors import LaminaError, RemoteError

log = logging.getLogger("lamina.link")


async def hear_all(
    link: Link, hear: Callable[[Delivery], Awaitable[None]], note: Callable[[Delivery, RemoteError], None]
) -> None:
    """Hear every delivery, and acknowledge it once it is dealt with, until the link drops.

    Args:
        link: to be listened on.
        hear: deals with one delivery.
        note: is told of a delivery that was refused, and why.

    Raises:
        LinkError: the link dropped.
    """
    async for delivery in link.deliveries():
        try:
            await hear(delivery)
        except RemoteError as error:
            note(delivery, error)
        except LaminaError:
            raise
        except Exception as error:
            log.exception("a message on %.200r met a fault of this program; it is passed over", delivery.topic)
            note(delivery, RemoteError(f"{type(error).__name__} in dealing with it"))
        finally:
            delivery.acknowledge()
