"""The configuration, read in a process of its own that ends: YAML and pydantic never enter the one that serves.

They would cost it 11 MB for good, and a fifth of a second at start, which the other process spends beside it. Decides
nothing about the file: `loading` does, there as here. The settings come back by a pipe that nobody else holds, secrets
included. At start that process is a fork; later, when there are threads, a new interpreter. Where there can be no other
process, the file is read here.
"""

from __future__ import annotations

import dataclasses
import gc
import io
import os
import pickle
import resource
import sys
import threading
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn

from sidecar import __version__, config, settings
from sidecar.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sidecar.settings import Settings

_CHILD = "import sys; path, *sys.path = sys.argv[1:]; from sidecar.config import apart; apart.answer(path)"


class _Child(NamedTuple):
    """A process that reads for us: where its answer comes, and what waits for its end and returns its exit code."""

    pipe: IO[bytes]
    wait: Callable[[], int]


class Reading:
    """A configuration that is being read in another process since this was made."""

    def __init__(self, path: str | Path, environ: Mapping[str, str]) -> None:
        self._path, self._environ = str(path), environ
        start = _forked if threading.active_count() == 1 and hasattr(os, "fork") else _spawned
        try:
            self._child = start(self._path, environ)
        except (OSError, ValueError):
            self._child = None

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when `settings` need not wait long; None: it reads the file itself."""
        return self._child.pipe.fileno() if self._child else None

    def settings(self) -> Settings:
        """Wait for the configuration, and return it or raise `ConfigError`, as `config.load` would."""
        told = _told(self._child) if self._child else None
        if isinstance(told, tuple):
            raise config.ConfigError(*told)
        return told or config.load(self._path, self._environ)


def load(path: str | Path, environ: Mapping[str, str]) -> Settings:
    """Do what `config.load` does, in another process."""
    return Reading(path, environ).settings()


def _forked(path: str, environ: Mapping[str, str]) -> _Child | None:
    """Fork: it knows already what we know, so it answers soonest."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return _Child(os.fdopen(ours, "rb"), lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    try:
        os.close(ours)
        _answer(path, environ, theirs)
    finally:
        os._exit(1)  # whatever it is: the one that serves will meet it too


def _spawned(path: str, environ: Mapping[str, str]) -> _Child | None:
    # Isolated: what Python's own variables say is in `sys.path` already. What it says of itself is nobody's business.
    import subprocess  # noqa: PLC0415 - at a start nobody needs it

    flags = ["-I", "-B"] if sys.dont_write_bytecode else ["-I"]
    argv = [sys.executable, *flags, "-c", _CHILD, path, *sys.path]
    process = subprocess.Popen(  # noqa: S603 - ourselves
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environ)
    )
    return _Child(process.stdout, process.wait) if process.stdout else None


def _told(child: _Child) -> Settings | tuple[tuple[config.Problem, ...], dict[str, str]] | None:
    """Return what the child found, None where it did not come to an end, or is of another version by now."""
    with child.pipe:
        text = io.BytesIO(child.pipe.read())
    if child.wait() or pickle.load(text) != _shape():  # noqa: S301 - our own child's
        return None
    found: Settings | tuple[tuple[config.Problem, ...], dict[str, str]] = pickle.load(text)  # noqa: S301
    return found


def _shape() -> tuple[str, ...]:
    """Return what tells settings of one version from another's: files may be replaced under a running program."""
    kinds = [kind for kind in vars(settings).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    names = (f"{kind.__qualname__}.{member.name}" for kind in kinds for member in dataclasses.fields(kind))
    return (__version__, *names)


def answer(path: str) -> NoReturn:
    """In a new interpreter: read the file, write what was found to standard output, and end."""
    _answer(path, os.environ, 1)


def _answer(path: str, environ: Mapping[str, str], pipe: int) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold every secret
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # other packages' code: it has no business with secrets
    gc.disable()
    try:
        found: Any = config.load(path, environ)
    except config.ConfigError as error:
        found = error.problems, error.files
    with os.fdopen(pipe, "wb") as file:
        pickle.dump(_shape(), file)
        _Pickler(file).dump(found)
    os._exit(0)


def packed(whole: Settings) -> bytes:
    """Return the settings, secrets included, for a pipe to a process of ours."""
    text = io.BytesIO()
    _Pickler(text).dump(whole)
    return text.getvalue()


def unpacked(text: bytes) -> Settings:
    """Return what `packed` made; for what the process that started us sends."""
    whole: Settings = pickle.loads(text)  # noqa: S301 - our own parent's
    return whole


class _Pickler(pickle.Pickler):
    """Lets secrets through, which pickle themselves for nobody."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.dispatch_table = {Secret: lambda secret: (Secret, (secret.reveal(),))}
