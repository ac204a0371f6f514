"""What a canary run keeps of processes of the product: logs, output, pages, store files, command lines.

Commands of other programs, as curl, are not kept: a caller holds what it sends by right.
"""

from __future__ import annotations

import http.client
import itertools
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import process
from tests.support.canary_wrap import after, before

if TYPE_CHECKING:
    import threading

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


def look(record: Record, over: threading.Event) -> None:
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
