"""Clients that do not end what they begin, over bare sockets."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

PATIENCE_S = 60.0


def connection_to(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 80), timeout=PATIENCE_S)


def unfinished_request(
    address: str, path: str, body: bytes, *, announced: int | None = None
) -> socket.socket:
    """A POST whose body is sent but for its last byte.

    announced: length of the body in its headers; None = one more than is sent
    """
    connection = connection_to(address)
    length = len(body) + 1 if announced is None else announced
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def status_of(connection: socket.socket) -> int:
    """Of the answer; 0 where the server closed without one. Waits for it, and closes."""
    with connection:
        answer = connection.recv(4096)
    return int(answer.split()[1]) if answer else 0
