"""How commands on the same machine ask a running coordinator, through the socket in its folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from lamina.coordinator.dashboard.hosting import socket_path
from lamina.coordinator.dashboard.overview import Overview
from lamina.models.errors import ConfigError

_TIMEOUT = aiohttp.ClientTimeout(total=20.0)
_STREAM = aiohttp.ClientTimeout(total=None, sock_read=60.0)
_overview = msgspec.json.Decoder(Overview)


class NobodyRuns(ConfigError):
    """No coordinator runs in the folder."""


def ask(folder: Path, path: str) -> bytes:
    """What a running coordinator answers to a GET.

    Raises:
        NobodyRuns: none runs there.
        ConfigError: it refuses.
    """
    return asyncio.run(_request(folder, "GET", path, None))


def order(folder: Path, name: str, **given: Any) -> Overview:
    """Give a running coordinator an order, and return how it stands then; raises as `ask`."""
    return _overview.decode(asyncio.run(_request(folder, "POST", f"/api/orders/{name}", given)))


def overview(folder: Path) -> Overview:
    """How a running federation stands; raises as `ask`."""
    return _overview.decode(ask(folder, "/api/overview"))


async def overviews(folder: Path) -> AsyncIterator[Overview]:
    """The same whenever it changes, until the coordinator ends; raises as `ask`."""
    async with _session(folder) as session:
        try:
            async with session.get("http://lamina/api/events", timeout=_STREAM) as response:
                async for line in response.content:
                    if line.startswith(b"data: "):
                        yield _overview.decode(line[6:])
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise _nobody(folder) from error
        except aiohttp.ClientError:
            return


async def _request(folder: Path, method: str, path: str, content: object) -> bytes:
    async with _session(folder) as session:
        try:
            body = None if content is None else msgspec.json.encode(content)
            async with session.request(
                method, f"http://lamina{path}", data=body, headers={"X-Lamina": "1"}, timeout=_TIMEOUT
            ) as response:
                answer = await response.read()
                if response.status != 200:
                    raise ConfigError(answer.decode("utf-8", "replace")[:1000])
                return answer
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise _nobody(folder) from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise ConfigError(f"the coordinator of {folder} does not answer: {error}") from error


def _session(folder: Path) -> aiohttp.ClientSession:
    connector = aiohttp.UnixConnector(str(socket_path(folder)))
    return aiohttp.ClientSession(connector=connector, read_bufsize=1 << 24)


def _nobody(folder: Path) -> NobodyRuns:
    return NobodyRuns(f"no coordinator runs in {folder} on this machine: `lamina run` starts one")
