"""Serves the dashboard: on a socket in the run's folder, for commands on this machine, and on a port where one is set.

On loopback the port is open. Elsewhere it needs a token and TLS, since who knows the page gives orders.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import os
import secrets
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from lamina.coordinator.dashboard.app import Dashboard, application
from lamina.coordinator.settings import DashboardSettings
from lamina.models.errors import ConfigError
from lamina.models.storage.secret_file import write_secret

log = logging.getLogger("lamina.coordinator")

SOCKET = "control.sock"
TOKEN = Path("state", "dashboard-token")
_END_S = 2.0
_MOST_PATH = 100
"""Bytes of a socket's path; Linux takes 107, others fewer."""


@contextlib.asynccontextmanager
async def served(dashboard: Dashboard, settings: DashboardSettings) -> AsyncIterator[str]:
    """Serve while the context lasts.

    Args:
        dashboard: what is shown.
        settings: where.

    Yields:
        The address of the page, with its token if it needs one; empty where no port is set.

    Raises:
        ConfigError: the port is taken, TLS or the token can't be read, or it would be open to a network.
    """
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(served_on_port(dashboard, settings)) if settings.port else ""
        await stack.enter_async_context(_on_socket(dashboard))
        yield address


@contextlib.asynccontextmanager
async def _on_socket(dashboard: Dashboard) -> AsyncIterator[None]:
    path = socket_path(dashboard.folder)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # of a coordinator that was killed: the folder's lock says that it is gone
    runner = await _runner(application(dashboard, hosts=frozenset({"lamina"})))
    try:
        mask = os.umask(0o177)  # its owner alone may connect
        try:
            await web.UnixSite(runner, str(path)).start()
        finally:
            os.umask(mask)
        yield
    finally:
        await runner.cleanup()
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


@contextlib.asynccontextmanager
async def served_on_port(dashboard: Dashboard, settings: DashboardSettings) -> AsyncIterator[str]:
    """Serve on the port alone; yields and raises as `served`."""
    tls = _tls(settings)
    token = "" if _is_loopback(settings.host) and not settings.token_file else _token(dashboard.folder, settings)
    if not _is_loopback(settings.host) and tls is None:
        raise ConfigError(
            f"dashboard.host = {settings.host!r} lets a network in: give dashboard.cert_file and dashboard.key_file, "
            "or leave the host at 127.0.0.1 and reach it through ssh -L"
        )
    runner = await _runner(application(dashboard, token, frozenset({settings.host, *settings.names})))
    try:
        try:
            await web.TCPSite(runner, settings.host, settings.port, ssl_context=tls).start()
        except OSError as error:
            raise ConfigError(f"dashboard: {settings.host}:{settings.port} can't be used: {error.strerror}") from error
        scheme, name = "https" if tls else "http", settings.names[0] if settings.names else settings.host
        yield f"{scheme}://{name}:{settings.port}/" + (f"?token={token}" if token else "")
    finally:
        await runner.cleanup()


def socket_path(folder: Path) -> Path:
    """The socket of a run's coordinator: in its folder, or in one of this user's where its path is too long.

    Raises:
        ConfigError: that folder of the user's is somebody else's.
    """
    path = folder.absolute() / SOCKET
    if len(os.fsencode(path)) <= _MOST_PATH:
        return path
    own = Path(f"/tmp/lamina-{os.getuid()}")
    own.mkdir(mode=0o700, exist_ok=True)
    facts = own.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o077:
        raise ConfigError(
            f"{own} must be a folder of this user's alone: remove it, or choose a shorter path than {folder}"
        )
    return own / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]}.sock"


async def _runner(app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_END_S, handle_signals=False)
    await runner.setup()
    return runner


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(folder: Path, settings: DashboardSettings) -> str:
    """The operator's own, or one that is drawn once a run and kept beside its state."""
    path = Path(settings.token_file) if settings.token_file else folder / TOKEN
    if not settings.token_file and not path.exists():
        write_secret(path, secrets.token_urlsafe(24))
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"dashboard.token_file {path}: {error}") from error
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"dashboard.token_file {path}: a token is 16 letters and digits or more, on one line")
    return token


def _tls(settings: DashboardSettings) -> ssl.SSLContext | None:
    if not settings.cert_file:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.cert_file, settings.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"dashboard.cert_file {settings.cert_file}, key_file {settings.key_file}: {error}") from error
    return context
