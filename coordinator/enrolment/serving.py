"""Serves boards' files to whoever has a code: TLS, one line of JSON each way, and no more than it must.

It runs on the operator's machine for as long as codes are open (``lamina enrol --serve``), not in the coordinator,
which runs unattended: so neither the authority's key nor a board's is ever where the coordinator is.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from lamina.broker.wire.join_code import MOST_REQUEST_BYTES, SERVER, JoinAnswer, JoinRequest
from lamina.coordinator.enrolment.certificates import Authority, utc_now
from lamina.coordinator.enrolment.home import Home
from lamina.coordinator.enrolment.tickets import WrongGuesses
from lamina.models.decoding import from_json
from lamina.models.errors import ConfigError, LaminaError, brief

log = logging.getLogger("lamina.enrol")

_PATIENCE_S = 10.0
_FLUSH_S = 3.0
_AT_ONCE = 32  # connections; more are closed at once


class JoinServer:
    """The server.

    Args:
        home: the federation's folder.
        clock: seconds since 1970.
    """

    def __init__(self, home: Home, clock: Callable[[], float]) -> None:
        self._home, self._clock = home, clock
        self._authority = home.authority()
        self._wrong = WrongGuesses()
        self._connections = 0

    async def serve(self, host: str, port: int, began: Callable[[int], None]) -> None:
        """JoinAnswer until no code is open any more.

        Args:
            host: address to listen on.
            port: to listen on; 0 picks a free one.
            began: is told the port once it is open.

        Raises:
            ConfigError: the port is taken.
        """
        try:
            server = await asyncio.start_server(
                self._answer_one, host, port, ssl=_context(self._authority), limit=MOST_REQUEST_BYTES,
                ssl_handshake_timeout=_PATIENCE_S, ssl_shutdown_timeout=1.0,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"can't listen on {host}:{port}: {error.strerror}; choose another --port") from None
        async with server:
            began(server.sockets[0].getsockname()[1])
            while self._home.tickets(self._clock).open() or self._connections:  # the last answer may be on its way
                await asyncio.sleep(0.5)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= _AT_ONCE:
            writer.close()
            return
        self._connections += 1
        try:
            async with asyncio.timeout(_PATIENCE_S):
                line = await reader.readline()
                answer = await asyncio.to_thread(self._answer, line, writer.get_extra_info("peername")[0])
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
        except (OSError, ValueError, TimeoutError, LaminaError) as error:  # a line without end is a ValueError
            log.debug("a connection ended: %s", error)
        finally:
            writer.close()
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_FLUSH_S):
                    await writer.wait_closed()
            self._connections -= 1

    def _answer(self, line: bytes, address: str) -> JoinAnswer:
        try:
            request = from_json(line, JoinRequest)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return JoinAnswer(error="this is no request that lamina knows")
        if request.ask == "authority":
            return JoinAnswer(authority=self._authority.pem)
        if request.ask != "board":
            return JoinAnswer(error="this is no request that lamina knows")
        if not self._wrong.may_try(address, self._clock()):
            return JoinAnswer(
                error="too many wrong codes came: try again in an hour, or have `lamina enrol --serve` started anew"
            )
        device = self._home.take_ticket(request.token, self._clock)
        if device is None:
            self._wrong.note(address, self._clock())
            log.warning("a wrong or used code came from %s", brief(address, 60))
            return JoinAnswer(
                error="this code is wrong, was used, or is over: the operator makes another by `lamina enrol`"
            )
        try:
            file = self._home.board_file(device)
        except LaminaError as error:
            log.warning("%s: its file can't be sent: %s", device, error)
            return JoinAnswer(error="the board has no file here any more: the operator makes another by `lamina renew`")
        log.info("%s was fetched from %s", device, brief(address, 60))
        return JoinAnswer(board=file)


def _context(authority: Authority) -> ssl.SSLContext:
    """A certificate for this start of the server."""
    issued = authority.issue(SERVER, utc_now(), 2, [SERVER])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.TemporaryDirectory(prefix="lamina-enrol-") as folder:  # its own alone; ssl reads keys from files only
        pair = Path(folder) / "pair.pem"
        pair.touch(0o600)
        pair.write_text(issued.key + issued.certificate, encoding="ascii")
        context.load_cert_chain(pair)
    return context
