"""Where a canary run listens: at the tests' authorization servers, their callers, and at every exit of the product.

Each function wraps a few names of the tests' support or of the product. The tests' own process holds tokens by right:
its output is not kept. What is kept is what the product writes, answers, stores, or has in its command line.
"""

from __future__ import annotations

import functools
import http.client
import itertools
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from tests.support.canary_record import MEMBERS, STORE_SUFFIXES
from tests.support.corridor import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.canary_record import Record

PAUSE = 0.5  # seconds between two looks at the command lines
STARTUP = """import os, sys, tempfile
def _audit(event, args):
    if event in {"subprocess.Popen", "os.exec", "os.posix_spawn"}:
        with tempfile.NamedTemporaryFile(dir=FOUND, prefix="command_line_of_a_sidecar_", delete=False) as file:
            file.write(b"\\n".join(map(os.fsencode, args[1])))
sys.addaudithook(_audit)
"""
"""What each sidecar runs as `sitecustomize`: what it starts itself may live too briefly for a look at the processes."""
_pids: set[int] = set()


def watch(record: Record) -> Callable[[], None]:
    """Begin to listen; return what ends it."""
    for part in (issued, given, answered, stored, processes, commands):
        part(record)
    record.secret(TOKEN.decode(), "stand-in broker's token")
    record.secret(program.ADMIN_TOKEN, "admin token")
    stream = (record.found / "in-process-log").open("w")
    sink = logs.configure("debug", "json", environ={}, stream=stream)
    over = threading.Event()
    looking = threading.Thread(target=_look, args=(record, over), daemon=True)
    looking.start()

    def end() -> None:
        over.set()
        looking.join()
        sink.close(10)
        stream.close()
        for one in list(redis_server._running):
            _redis_files(record, one)

    return end


def before(owner: Any, name: str, note: Callable[..., object]) -> None:
    """Call `note` with the arguments of each call of `owner.name`, before it."""
    old = getattr(owner, name)

    @functools.wraps(old)
    def call(*args: Any, **named: Any) -> Any:
        note(*args, **named)
        return old(*args, **named)

    setattr(owner, name, call)


def after(owner: Any, name: str, note: Callable[..., object]) -> None:
    """Call `note` with the result of each call of `owner.name`, and its arguments."""
    old = getattr(owner, name)

    @functools.wraps(old)
    def call(*args: Any, **named: Any) -> Any:
        result = old(*args, **named)
        note(result, *args, **named)
        return result

    setattr(owner, name, call)


def after_await(owner: Any, name: str, note: Callable[..., object]) -> None:
    """Call `note` with the awaited result of each call of `owner.name`, and its arguments."""
    old = getattr(owner, name)

    @functools.wraps(old)
    async def call(*args: Any, **named: Any) -> Any:
        result = await old(*args, **named)
        note(result, *args, **named)
        return result

    setattr(owner, name, call)


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
    before(service.Connection, "_write", lambda _self, told, **_k: record.text("answer", told.body))
    before(program.Whole, "close", lambda self: record.text("metrics", prometheus.exposition(self.program.metrics)()))
    after(process.Process, "ask", lambda answer, self, *_a, **named: _answer(record, self, answer, named.get("at")))


def _answer(record: Record, sidecar: Any, answer: Any, at: str | None) -> None:
    kind = {name.lower(): value for name, value in answer.headers.items()}.get("content-type", "")
    if at == sidecar.admin or "problem+json" in kind:
        record.text("answer", answer.body)


def stored(record: Record) -> None:
    """Keep store files as they are before they are closed; let Redis servers write down each command."""
    before(SqliteRecords, "close", lambda self: record.files("store", _family(self._file.path)))
    old, count = redis_server.Server.start, itertools.count()

    def start(self: Any, *more: str) -> Any:
        if "--sentinel" in self.command:
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


def processes(record: Record) -> None:
    """Run every sidecar at debug level; keep its log, output, pages, store files and command lines."""
    old, startup = process.Process.__init__, record.folder / "startup"
    startup.mkdir()
    startup.joinpath("sitecustomize.py").write_text(f"FOUND = {str(record.found)!r}\n{STARTUP}")

    def begin(self: Any, *args: Any, **named: Any) -> None:
        old(self, *args, **{**named, "level": "debug"})
        record.environ(self._environ)
        self._environ["PYTHONPATH"] += f"{os.pathsep}{startup}"

    process.Process.__init__ = begin  # type: ignore[method-assign]
    before(process.Process, "start", lambda self: _keep_files(record, self))
    after(process.Process, "start", lambda _none, self: _started(record, self))
    for name in ("terminate", "kill", "__exit__"):
        before(process.Process, name, lambda self, *_a: _last_look(record, self))
    after(process.Process, "__exit__", lambda _none, self, *_a: _keep_files(record, self))


def _started(record: Record, sidecar: Any) -> None:
    _pids.add(sidecar.process.pid)
    _command_lines(record, {sidecar.process.pid})


def _keep_files(record: Record, sidecar: Any) -> None:
    record.files("log", [path for path in (sidecar.log, sidecar.out) if path.exists()])
    record.stores(sidecar.folder)


def _last_look(record: Record, sidecar: Any) -> None:
    """Ask a sidecar that still answers for its metrics and status page, and copy its store before it is closed."""
    if sidecar.process.poll() is not None:
        return
    record.stores(sidecar.folder)
    headers = {"Authorization": f"Bearer {sidecar._environ.get('ADMIN_TOKEN', '')}", "Host": "127.0.0.1"}
    for path in ("/metrics", "/") if ":" in sidecar.admin else ():
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(sidecar.admin, timeout=1)
            connection.request("GET", path, headers=headers)
            record.text("last page", connection.getresponse().read())
            connection.close()


def commands(record: Record) -> None:
    """Keep the arguments of every command of the product that a test starts, and what it writes."""

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and _is_ours(line := [os.fsdecode(one) for one in args[1]]):
            record.text("command line", "\n".join(line).encode())

    sys.addaudithook(audit)
    after(subprocess, "run", lambda done, command, *_a, **_k: _ran(record, command, done))


def _is_ours(command: list[str]) -> bool:
    """Say whether a command is the product's own: curl and other clients of the tests hold what they send by right."""
    if "sidecar" in {Path(one).name for one in command[:1]}:
        return True
    pairs = itertools.pairwise(command)
    return any(
        (a == "-m" and b.partition(".")[0] == "sidecar") or (a == "-c" and "from sidecar" in b) for a, b in pairs
    )


def _ran(record: Record, command: Any, done: Any) -> None:
    if _is_ours([os.fsdecode(one) for one in command]):
        for output in (done.stdout, done.stderr):
            record.text("output", output.encode() if isinstance(output, str) else output or b"")


def _look(record: Record, over: threading.Event) -> None:
    seen: set[bytes] = set()
    while not over.wait(PAUSE):
        _command_lines(record, set(_pids), seen)


def _command_lines(record: Record, pids: set[int], seen: set[bytes] | None = None) -> None:
    """Keep what a process list shows of these processes and their children; each line once."""
    waiting, known = list(pids), set() if seen is None else seen
    while waiting:
        folder = Path("/proc", str(pid := waiting.pop()))
        try:
            shown = b"\n".join([folder.joinpath("cmdline").read_bytes(), folder.joinpath("comm").read_bytes()])
            waiting += [int(one) for one in folder.joinpath("task", str(pid), "children").read_text().split()]
        except OSError:
            _pids.discard(pid)
            continue
        if shown not in known:
            known.add(shown)
            record.text("process list", shown)
