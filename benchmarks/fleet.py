"""Starts proxies for a scene and checks each with single requests before anything is measured.

A proxy that cannot be had, does not start, forgets the token, sends somebody else's, or changes a body is not measured;
the reason goes into the report instead.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import processes
from benchmarks.install import NotAvailableError
from benchmarks.scene import APP_HOST, USER_HOST, Request, Scene, requests_for
from benchmarks.session_api import SessionApiError
from benchmarks.upstream import body_of
from benchmarks.wire import answers, get

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.peers.contract import Launch, Peer
    from benchmarks.processes import Program

START_SECONDS = 60
REASON = 200  # characters of a reason in the report
TOKEN_SECONDS = 15  # Envoy fetches its first token by itself, after the port is open


class CheckError(Exception):
    """A proxy did not do what every proxy here must do; the text says what."""


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy that serves on 127.0.0.1:`port` and passed its checks."""

    peer: Peer
    program: Program
    port: int

    def requests(self, scene: Scene, path: str) -> tuple[Request, ...]:
        """The load for this proxy: each session in turn, to the route of whoever it acts as."""
        return requests_for(USER_HOST if self.peer.acts_as == "user" else APP_HOST, path, scene.sessions)


def _await_port(program: Program, port: int) -> None:
    if not processes.wait_until(lambda: program.died() or answers(port), START_SECONDS):
        raise CheckError(f"does not listen after {START_SECONDS} s")
    if words := program.died():
        raise CheckError(words)


def _check_token(running: Running, scene: Scene, *, absolute: bool) -> None:
    """The upstream sees the right token for the first, the second and the last session, and never a session cookie."""
    requests = running.requests(scene, "/whoami")
    processes.wait_until(lambda: get(running.port, requests[0], absolute=absolute).status == 200, TOKEN_SECONDS, 0.2)
    for index in (0, min(1, len(requests) - 1), len(requests) - 1):
        answer = get(running.port, requests[index], absolute=absolute)
        if answer.status != 200:
            raise CheckError(f"answered {answer.status}: {answer.body[:200].decode(errors='replace')}")
        session = scene.sessions[index]
        token = session.token if running.peer.acts_as == "user" else scene.app_token
        authorization, _, cookie = answer.body.decode().partition("|")
        if authorization != f"Bearer {token}":
            raise CheckError("the upstream saw another token than it should")
        if running.peer.acts_as == "user" and session.id in cookie:
            raise CheckError("the session cookie reached the upstream")


def check(running: Running, scene: Scene, sizes: Iterable[int], *, absolute: bool = False) -> None:
    """Raise CheckError unless tokens and bodies are right."""
    _check_token(running, scene, absolute=absolute)
    for size in sizes:
        for path in (f"/{size}", f"/varied/{size}"):
            request = running.requests(scene, path)[0]
            answer = get(running.port, request, absolute=absolute)
            if answer.status != 200 or answer.body != body_of(size):
                raise CheckError(f"/{size} answered {answer.status} with another body of {len(answer.body)} bytes")


@contextmanager
def started(peer: Peer, launch: Launch, scene: Scene) -> Iterator[Running]:
    """Run a proxy and prime it; not yet checked."""
    log = scene.directory / f"{peer.name}.log"
    with processes.running(launch.argv, log, launch.env, scene.cpus) as program:
        _await_port(program, launch.port)
        launch.prime()
        yield Running(peer, program, launch.port)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The proxies that run, and for each other one why it does not."""

    running: tuple[Running, ...]
    versions: dict[str, str]
    missing: dict[str, str]


@contextmanager
def fleet(peers: Sequence[Peer], scene: Scene, sizes: Sequence[int], *, absolute: bool = False) -> Iterator[Fleet]:
    """Start and check all of `peers`; each lives until the block is left."""
    found = Fleet((), {}, {})
    up: list[Running] = []
    with ExitStack() as stack:
        for peer in peers:
            own = ExitStack()
            try:
                found.versions[peer.name] = peer.prepare()
                running = own.enter_context(started(peer, peer.launch(scene), scene))
                check(running, scene, sizes, absolute=absolute)
            except (NotAvailableError, CheckError, SessionApiError) as reason:
                own.close()
                found.missing[peer.name] = " ".join(str(reason).split())[:REASON]
            else:
                stack.enter_context(own)
                up.append(running)
        yield Fleet(tuple(up), found.versions, found.missing)
