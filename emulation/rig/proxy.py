"""A TCP proxy that freezes, slows and cuts the connections that go through it.

with Proxy(to=broker.port) as proxy:
    ... programs dial proxy.port ...
    proxy.freeze()            # connections stay open, and nothing passes: a half-open link
    proxy.thaw()
    proxy.cut()               # every connection ends now
    proxy.cut_after(0.3, 4.0) # every new connection ends after a time drawn between these
    proxy.slow(bytes_a_s=50e3, delay_s=0.2)
    proxy.heal()
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_READ_BYTES = 1 << 14


class Proxy:
    """One proxy, in a thread of its own; its methods may be called from any other.

    Args:
        to: port of the broker on the loopback interface.
        seed: of the times after which connections are cut.
    """

    def __init__(self, to: int, seed: int = 0) -> None:
        self.port = 0
        self.cuts = 0
        self.carried_bytes = 0
        self._to = to
        self._rng = random.Random(seed)
        self._lives_s: tuple[float, float] | None = None
        self._delay_s = 0.0
        self._bytes_a_s = 0.0
        self._open = asyncio.Event()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # What is done to the connections.

    def freeze(self) -> None:
        """Let nothing pass, in either direction; what is sent meanwhile passes later."""
        self._do(self._open.clear)

    def thaw(self) -> None:
        """Let everything pass again."""
        self._do(self._open.set)

    def slow(self, *, bytes_a_s: float = 0.0, delay_s: float = 0.0) -> None:
        """Pass at most so much in each direction of a connection, each piece so late; 0 is no limit."""
        self._bytes_a_s, self._delay_s = bytes_a_s, delay_s

    def cut(self) -> None:
        """End every connection, without a word."""
        self._do(self._cut_all)

    def cut_after(self, least_s: float, most_s: float) -> None:
        """End every connection, and each new one after a time drawn between these."""
        self._lives_s = (least_s, most_s)
        self.cut()

    def heal(self) -> None:
        """Be an honest proxy from now on."""
        self._lives_s = None
        self.slow()
        self.thaw()

    # Inside the thread.

    def _do(self, action: Callable[[], None]) -> None:
        asyncio.run_coroutine_threadsafe(_called(action), self._loop).result()

    async def _listen(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        self._server.close()
        self._cut_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut_all(self) -> None:
        self.cuts += len(self._pairs)
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, far_writer)
        self._pairs.add(pair)
        tasks = [
            asyncio.ensure_future(self._pump(reader, far_writer)),
            asyncio.ensure_future(self._pump(far_reader, writer)),
        ]
        if self._lives_s is not None:
            tasks.append(asyncio.ensure_future(self._die(self._rng.uniform(*self._lives_s))))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._pairs.discard(pair)
            for end in pair:
                end.transport.abort()

    async def _die(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        self.cuts += 1

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(_READ_BYTES):
            await asyncio.sleep(self._delay_s + (len(content) / self._bytes_a_s if self._bytes_a_s else 0.0))
            await self._open.wait()
            self.carried_bytes += len(content)
            writer.write(content)
            await writer.drain()


async def _called(action: Callable[[], None]) -> None:
    action()
