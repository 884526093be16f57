"""The web application: the page, what it shows as JSON and as a stream of events, Prometheus' figures, and orders.

GET  /                     the page
GET  /api/overview         how the federation stands
GET  /api/events           the same as server-sent events, whenever it changes
GET  /api/rounds?after=N   the records of the rounds from N on; /api/cycles?after=N those of the cycles
GET  /api/log?device=NAME  the last lines of the coordinator's log
GET  /metrics              for Prometheus
POST /api/orders/{order}   pause, resume, put-aside, readmit, export, deploy, undo-deployment, roll-back; a JSON object
                           says of what (`dashboard.asked`)
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from lamina.coordinator.dashboard.asked import Asked
from lamina.coordinator.dashboard.metrics import exposition
from lamina.coordinator.dashboard.overview import Overview
from lamina.coordinator.dashboard.source import LogTail, cycles_after, rounds_after
from lamina.models.errors import ConfigError

_STATIC = Path(__file__).parent / "static"
_POLL_S = 1.0
_SILENCE_S = 15.0
"""A stream says something at least this often, so that proxies keep it open, and the page knows that it is alive."""

_MOST_STREAMS = 50
_MOST_BODY = 4096
COOKIE = "lamina-token"


@dataclass(frozen=True)
class Dashboard:
    """What the application is about.

    Attributes:
        folder: of the run, with its records.
        overview: tells how the federation stands now.
        order: gives an order by its name, with what it is about; `ConfigError` where it makes no sense.
        log: the last lines of the coordinator's log; ``None`` where another program keeps them.
    """

    folder: Path
    overview: Callable[[], Awaitable[Overview]]
    order: Callable[[str, Asked], Awaitable[None]]
    log: LogTail | None = None


def application(dashboard: Dashboard, token: str = "", hosts: frozenset[str] = frozenset()) -> web.Application:
    """The application.

    Args:
        dashboard: what it shows.
        token: who wants anything must know it; empty: anybody who can connect may.
        hosts: names under which it may be addressed besides addresses and ``localhost``, without a port.
    """
    views = _Views(dashboard)
    app = web.Application(middlewares=[_refusals, _guard(token, hosts)], client_max_size=_MOST_BODY)
    app.router.add_get("/", views.page)
    app.router.add_get("/api/overview", views.overview)
    app.router.add_get("/api/events", views.events)
    app.router.add_get("/api/rounds", views.rounds)
    app.router.add_get("/api/cycles", views.cycles)
    app.router.add_get("/api/log", views.log)
    app.router.add_get("/metrics", views.metrics)
    app.router.add_post("/api/orders/{order}", views.order)
    app.router.add_static("/static", _STATIC)
    app.on_shutdown.append(views.close)
    return app


class _Views:
    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._streams: set[asyncio.Task[object]] = set()

    async def page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(_STATIC / "index.html")

    async def overview(self, request: web.Request) -> web.Response:
        return _json(await self._dashboard.overview())

    async def rounds(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(rounds_after, self._dashboard.folder, _after(request)))

    async def cycles(self, request: web.Request) -> web.Response:
        return _json(await asyncio.to_thread(cycles_after, self._dashboard.folder, _after(request)))

    async def log(self, request: web.Request) -> web.Response:
        tail = self._dashboard.log
        return _json([] if tail is None else tail.lines(request.query.get("device", "")))

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=exposition(await self._dashboard.overview()), headers={"Content-Type": "text/plain"})

    async def events(self, request: web.Request) -> web.StreamResponse:
        if len(self._streams) >= _MOST_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_STREAMS} pages are open already: close one")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await self._stream(response)
        except ConnectionResetError:
            pass
        finally:
            self._streams.discard(task)
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        said, silent_s = b"", 0.0
        while True:
            content = msgspec.json.encode(await self._dashboard.overview())
            silent_s += _POLL_S
            if content != said or silent_s >= _SILENCE_S:
                await response.write(b"data: " + content + b"\n\n")
                said, silent_s = content, 0.0
            await asyncio.sleep(_POLL_S)

    async def order(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read() or b"{}", type=Asked)
        except msgspec.DecodeError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        await self._dashboard.order(request.match_info["order"], asked)
        return _json(await self._dashboard.overview())

    async def close(self, app: web.Application) -> None:
        for task in list(self._streams):
            task.cancel()


def _after(request: web.Request) -> int:
    text = request.query.get("after", "0")
    if not text.isdecimal() or len(text) > 12:
        raise web.HTTPBadRequest(text="after is the number of a round or cycle")
    return int(text)


def _json(value: object) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), content_type="application/json", headers={"Cache-Control": "no-store"}
    )


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except ConfigError as error:
        raise web.HTTPConflict(text=str(error)) from error
    if not response.prepared:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Content-Security-Policy"] = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
    return response


def _guard(token: str, hosts: frozenset[str]) -> Middleware:
    """Refuse pages of other sites, also where a foreign name leads here (DNS rebinding), and who lacks the token."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_named(request.host, hosts):
            raise web.HTTPMisdirectedRequest(text=f"this is not {request.host[:80]}")
        if request.method != "GET" and request.headers.get("X-Lamina") != "1":
            raise web.HTTPForbidden(text="an order needs the header X-Lamina: 1: no page of another site can send it")
        if token and not _knows(request, token):
            given = request.query.get("token", "")
            if not hmac.compare_digest(given.encode(), token.encode()):
                raise web.HTTPUnauthorized(text="open the address with ?token=..., as `lamina run` said it")
            answer = web.HTTPFound("/")  # so that it stands neither in the address bar nor in the history
            answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", secure=request.secure)
            raise answer
        return await handler(request)

    return guard


def _knows(request: web.Request, token: str) -> bool:
    given = request.cookies.get(COOKIE, "")
    bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return any(hmac.compare_digest(each.encode(), token.encode()) for each in (given, bearer))


def _is_named(host: str, hosts: frozenset[str]) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    name = name.strip("[]")
    if name in hosts or name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
