"""Single requests to a proxy or the upstream over http.client, to check them before they are measured."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.places import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.scene import Request


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body of a response; status 0 where there was none, with the reason as the body."""

    status: int
    body: bytes


def answers(port: int) -> bool:
    """Whether somebody accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def send(port: int, method: str, target: str, headers: Mapping[str, str], *, timeout: float = 10) -> Answer:
    """One request on a connection of its own."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=timeout)) as connection:
        try:
            connection.request(method, target, headers=dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read())
        except (OSError, http.client.HTTPException) as failure:
            return Answer(0, repr(failure).encode())


def get(port: int, request: Request, *, absolute: bool = False) -> Answer:
    """One GET as the load sends it."""
    target = f"http://{request.host}{request.path}" if absolute else request.path
    return send(port, "GET", target, request.headers())
