"""Where a canary run listens: at the tests' authorization servers, their callers, and at every exit of the product.

Each function wraps a few names of the tests' support or of the product. The tests' own process holds tokens by right:
its output is not kept. What is kept is what the product writes, answers, stores, or has in its command line.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import click
import structlog

from sidecar import lane, logs
from sidecar.admin import prometheus
from sidecar.credentials import vault
from sidecar.demo.authorization_server import AuthorizationServer
from sidecar.demo.issuer import recording
from sidecar.demo.issuer.ledger import Ledger
from sidecar.demo.issuer.signing import Signer
from sidecar.demo.issuer.state import State
from sidecar.stores.sqlite import SqliteRecords
from sidecar.wire import downstream, service
from tests.support import jwts, process, program, redis_server, scripted_server, sign_in
from tests.support.canary_processes import commands, look, processes
from tests.support.canary_record import MEMBERS, STORE_SUFFIXES
from tests.support.canary_sessions import own_sessions
from tests.support.canary_wrap import after, after_await, before
from tests.support.corridor import TOKEN

KEY_PREFIX = "sidecar-k1."

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.canary_record import Record


def watch(record: Record) -> Callable[[], None]:
    """Begin to listen; return what ends it."""
    for part in (issued, given, answered, stored, processes, commands, own_sessions):
        part(record)
    record.secret(TOKEN.decode(), "stand-in broker's token")
    record.secret(program.ADMIN_TOKEN, "admin token")
    stream = (record.found / "in-process-log").open("w")
    sink = _log_to(stream)
    over = threading.Event()
    looking = threading.Thread(target=look, args=(record, over), daemon=True)
    looking.start()

    def end() -> None:
        over.set()
        looking.join()
        sink.close(10)
        stream.close()
        for one in list(redis_server._running):
            _redis_files(record, one)

    return end


def _log_to(stream: TextIO) -> logs.Sink:
    """Log at debug level to a file, and to standard output, where tests look for it.

    The lines of httpx are of the tests' own clients: they never come to where the product writes.
    """
    sink = logs.configure("debug", "json", environ={}, stream=stream)

    class Output:
        def msg(self, line: bytes) -> None:
            sink.write(line)
            sys.stdout.write(line.decode())

        debug = info = warning = error = critical = exception = msg

    structlog.configure(logger_factory=lambda *_: Output())
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).propagate = False
    return sink


def issued(record: Record) -> None:
    """Register what authorization servers issue and are sent, their clients' secrets, and store keys."""
    after(Signer, "sign", lambda text, *_a, **_k: record.secret(text, "signed token"))
    after(jwts, "signed", lambda text, *_a, **_k: record.secret(text, "signed token"))
    after(State, "token_response", lambda answer, *_a, **_k: record.members(answer))
    after(Ledger, "add_code", lambda text, *_a: record.secret(text, "code"))
    after(Ledger, "add_refresh", lambda text, *_a: record.secret(text, "refresh_token"))
    after(vault, "generate_key", lambda text: record.secret(text, "store key"))
    after_await(recording, "read_form", lambda form, _request: _form(record, form))
    after_await(scripted_server, "_read", lambda asked, _reader: _scripted(record, asked))
    before(scripted_server, "token", lambda **members: record.members(members))
    before(AuthorizationServer, "start", lambda server, *_a, **_k: _clients(record, server.clients.values()))
    before(AuthorizationServer, "register", lambda _self, client: _clients(record, [client]))


def _form(record: Record, form: Any) -> None:
    record.members({name: form.one(name) for name in MEMBERS})


def _scripted(record: Record, asked: Any) -> None:
    with suppress(ValueError):
        record.members(dict(asked.form))


def _clients(record: Record, clients: Any) -> None:
    for client in clients:
        record.secret(client.secret, "client secret")


def given(record: Record) -> None:
    """Register what callers and operators send, and the cookies that browsers get."""
    before(process.Process, "ask", lambda _self, target, headers=None, *, body=None, **_k: record.request(target, dict(headers or {}).items(), body))  # fmt: skip
    before(program.Caller, "ask", lambda _self, _m, target, headers=(), body=None: record.request(target, headers, body))  # fmt: skip
    after(sign_in.Browser, "__init__", lambda _none, self, *_a: _listen(record, self.client))


def _listen(record: Record, client: Any) -> None:
    async def note(response: Any) -> None:
        for cookie in client.cookies.jar:
            record.secret(cookie.value, "cookie")
        for line in response.headers.get_list("set-cookie"):
            record.secret(line.partition("=")[2].partition(";")[0], "cookie")
        record.request(str(response.request.url), (), None)
        record.request(response.headers.get("location", ""), (), None)

    client.event_hooks["response"].append(note)


def answered(record: Record) -> None:
    """Keep problem documents, the bodies of our own services, metrics pages."""
    for module in (lane, downstream):
        after(module, "problem", lambda text, *_a, **_k: record.text("problem", text))
    before(click, "echo", lambda message="", *_a, **_k: _said(record, message))
    before(service.Connection, "_write", lambda _self, told, **_k: record.text("answer", told.body))
    before(program.Whole, "close", lambda self: record.text("metrics", prometheus.exposition(self.program.metrics)()))
    after(process.Process, "ask", lambda answer, self, *_a, **named: _answer(record, self, answer, named.get("at")))


def _said(record: Record, message: object) -> None:
    """Keep what a command of ours says; `keygen` says a key by right."""
    if not str(message).startswith(KEY_PREFIX):
        record.text("said", str(message).encode())


def _answer(record: Record, sidecar: Any, answer: Any, at: str | None) -> None:
    kind = {name.lower(): value for name, value in answer.headers.items()}.get("content-type", "")
    if at == sidecar.admin or "problem+json" in kind:
        record.text("answer", answer.body)


def stored(record: Record) -> None:
    """Keep store files as they are before they are closed; let Redis servers write down each command."""
    before(SqliteRecords, "close", lambda self: record.files("store", _family(self._file.path)))
    old, count = redis_server.Server.start, itertools.count()

    def start(self: Any, *more: str) -> Any:
        if any(
            part == "--sentinel" or part.endswith(".conf") for part in self.command
        ):  # these keep files of their own
            return old(self, *more)
        once = ["--appendonly", "yes", "--appendfsync", "no", "--appenddirname", f"canary-{next(count)}"]
        return old(self, *more, *once)

    redis_server.Server.start = start  # type: ignore[method-assign]
    before(redis_server.Server, "kill", lambda self: _redis_files(record, self))


def _family(path: Path) -> list[Path]:
    """Return a store's files, without the key beside it."""
    return [path.with_name(path.name + suffix) for suffix in ("", *STORE_SUFFIXES)]


def _redis_files(record: Record, server: Any) -> None:
    record.files("redis", [path for path in server.folder.rglob("*") if path.suffix in {".aof", ".rdb"}])
    record.files("redis log", server.folder.glob("log"))
