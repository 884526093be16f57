"""How a link passes an HTTP proxy: it asks the proxy for a tunnel, and then speaks as if there were none."""

from __future__ import annotations

import base64
import os
import socket
import urllib.request

from lamina.broker.link.address import BrokerAddress, proxy_of

_MOST_HEADER_BYTES = 16 * 1024


def tunnel_or_direct(address: BrokerAddress, timeout_s: float) -> socket.socket:
    """A TCP connection to the broker, through its proxy where there is one.

    Raises:
        OSError: neither answers, or the proxy refuses; why is in the message.
    """
    bypassed = bool(urllib.request.proxy_bypass(address.host))
    proxy = proxy_of(address, os.environ, bypassed)
    if proxy is None:
        return socket.create_connection((address.host, address.port), timeout=timeout_s)
    host, port, credential = proxy
    connection = socket.create_connection((host, port), timeout=timeout_s)
    try:
        connection.sendall(_request(address, credential))
        status = _status_line(connection)
    except BaseException:
        connection.close()
        raise
    if status.split(" ")[1:2] != ["200"]:
        connection.close()
        raise ConnectionError(f"the proxy {host}:{port} refused a connection to {address}: {status[:100]!r}")
    return connection


def _request(address: BrokerAddress, credential: str) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"CONNECT {host}:{address.port} HTTP/1.1", f"Host: {host}:{address.port}"]
    if credential:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credential.encode()).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


def _status_line(connection: socket.socket) -> str:
    """The first line of the proxy's answer, which is read to its end and no further: what follows is the broker's."""
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(answer) == _MOST_HEADER_BYTES:
            raise ConnectionError("the proxy gave no answer that makes sense")
        answer += byte
    return answer.split(b"\r\n", 1)[0].decode("latin-1")
