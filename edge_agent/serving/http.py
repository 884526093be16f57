"""Serves predictions by HTTP to other programs of the board: on the loopback interface alone, by the standard library.

GET  /          which model answers, and what it takes
POST /predict   a question (`questions`), and its answer
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from lamina.edge_agent.serving.predictor import Predictor
from lamina.edge_agent.serving.questions import MOST_BYTES, Reply, encoded, replied
from lamina.models.errors import ConfigError

log = logging.getLogger("lamina.agent")

HOST = "127.0.0.1"
PORT = 8766
_MOST_AT_ONCE = 8  # questions; others wait for their turn
_IDLE_S = 30.0  # a connection on which nothing comes
_LOCAL = ("127.0.0.1", "localhost", "[::1]")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], predictor: Predictor) -> None:
        self.predictor = predictor
        self.turns = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(address, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def do_GET(self) -> None:
        if not self._is_local():
            return
        if self.path != "/":
            return self._answer(404, encoded(Reply(error="there are GET / and POST /predict")))
        model = self.server.predictor.model
        facts = {
            "deployment": model.offer.number,
            "round": model.offer.round,
            "model": model.spec.name,
            "task": model.spec.wanted.task,
            "takes": {"shape": model.spec.input_shape, "dtype": model.spec.input_dtype},
            "classes": model.spec.names,
        }
        return self._answer(200, msgspec.json.encode(facts))

    def do_POST(self) -> None:
        if not self._is_local():
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True
            return self._answer(413, encoded(Reply(error=f"say Content-Length, of at most {MOST_BYTES}")))
        content = self.rfile.read(int(length))
        if self.path != "/predict":
            return self._answer(404, encoded(Reply(error="there are GET / and POST /predict")))
        with self.server.turns:
            reply = replied(self.server.predictor, content)
        return self._answer(400 if reply.error else 200, encoded(reply))

    def _is_local(self) -> bool:
        """Refuse pages of other sites, also where a foreign name leads here (DNS rebinding)."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin", "")
        if host.rsplit(":", 1)[0] in _LOCAL and not origin:
            return True
        self.close_connection = True
        self._answer(403, encoded(Reply(error="programs of this machine may ask, and no web page")))
        return False

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        log.debug(format, *args)


@contextmanager
def served(predictor: Predictor, port: int = PORT) -> Iterator[int]:
    """Serve while the context lasts; yields the port.

    Raises:
        ConfigError: the port is taken.
    """
    try:
        server = _Server((HOST, port), predictor)
    except OSError as error:
        raise ConfigError(f"{HOST}:{port} can't be used: {error.strerror}; choose another --port") from error
    thread = threading.Thread(target=server.serve_forever, name="serve", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
