"""Structured logs on stderr: where lines go, and what happens when nobody reads them.

What stands in a line is `log_text`'s business. Lines of other libraries go the same way, warnings and worse only. A
request never waits for the log: a thread writes, and lines that find the queue full are counted and given up.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from typing import TYPE_CHECKING, Literal, TextIO

import structlog

from sidecar.log_text import Console, redact, render_json, stamp, tell_exception

if TYPE_CHECKING:
    from collections.abc import Mapping

Style = Literal["auto", "json", "console"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
QUEUED = 10_000  # lines
_sinks: list[Sink] = []
_labels: dict[str, object] = {}


class Sink:
    """Writes lines to a file descriptor from a thread of its own; a full queue costs lines, never time."""

    def __init__(self, descriptor: int, size: int = QUEUED) -> None:
        self._descriptor = descriptor
        self._size = size
        self._thread: threading.Thread | None = None
        self.begin()

    def begin(self) -> None:
        """Write from a thread, nothing dropped so far."""
        self.dropped = 0
        self._lines: queue.Queue[bytes | None] = queue.Queue(self._size)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue `line`, or count it as dropped."""
        if self._thread is None:
            self._write_now(line)
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self.dropped += 1

    def close(self, seconds: float = 1.0) -> None:
        """Write what is queued, waiting at most `seconds` for a reader that is slow or gone; then without a thread."""
        if self._thread is None:
            return
        try:
            self._lines.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)
        self._thread = None

    def _write_now(self, line: bytes) -> None:
        """Write as much as the reader takes at once: a process that forks has no thread, and waits for nobody."""
        waiting = select.poll()
        waiting.register(self._descriptor, select.POLLOUT)
        try:
            if waiting.poll(0):
                os.write(self._descriptor, line)
                return
        except OSError:
            pass
        self.dropped += 1

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write_all(line)
            except OSError:
                self.dropped += 1

    def _write_all(self, line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])


def configure(level: str = "info", style: Style = "auto", *, environ: Mapping[str, str], stream: TextIO) -> Sink:
    """Send all logs of the process to `stream` (usually stderr), and return the sink for closing and counting.

    `level` is a key of `LEVELS`. `style` auto is console on a terminal, else JSON lines. NO_COLOR is respected.
    """
    console = style == "console" or (style == "auto" and stream.isatty())
    colour = console and stream.isatty() and not environ.get("NO_COLOR")
    sink = Sink(stream.fileno())
    _sinks.append(sink)
    render = Console(colour) if console else render_json
    structlog.configure(
        processors=[structlog.processors.add_log_level, _labelled, stamp, tell_exception, redact, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _Output(sink),
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(LEVELS[level])
    return sink


def without_threads() -> None:
    """Write each line at once from now on: for a process that forks."""
    for sink in _sinks:
        sink.close()


def begin_again(**labels: object) -> None:
    """Write from a thread again, every line with `labels`: for what has been forked."""
    _labels.update(labels)
    for sink in _sinks:
        sink.begin()


def dropped() -> int:
    """Return how many lines of this process were given up."""
    return sum(sink.dropped for sink in _sinks)


def access(
    *, request_id: str, method: str, path: str, route: str, status: int, seconds: float, **more: str | float
) -> None:
    """Write the line of one finished request. Called only where `access_log` is on.

    `path` is cut at its query, which may hold credentials (RFC 6750 section 2.3).
    """
    structlog.get_logger().info(
        "request",
        request_id=request_id,
        method=method,
        path=path.partition("?")[0],
        route=route,
        status=status,
        seconds=round(seconds, 6),
        **more,
    )


def _labelled(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.update(_labels)
    return event


class _Output:
    """What structlog writes a rendered line to: every level is the same sink."""

    def __init__(self, sink: Sink) -> None:
        self.msg = self.debug = self.info = self.warning = self.error = self.critical = self.exception = sink.write


_ORDINARY = frozenset(logging.makeLogRecord({}).__dict__) | {"taskName"}


class _Bridge(logging.Handler):
    """Sends the records of the standard library's loggers down our chain; those of our own with their `extra`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the first line of the record's text; asyncio goes on with the reprs of tasks and exceptions."""
        try:
            text = record.getMessage()
        except (TypeError, ValueError):
            text = str(record.msg)
        level = min(record.levelno // 10 * 10, logging.ERROR)
        own = record.name.partition(".")[0] == "sidecar"
        extra = {name: value for name, value in record.__dict__.items() if name not in _ORDINARY} if own else {}
        more = extra | {"logger": record.name, "exc_info": record.exc_info}
        structlog.get_logger().log(level, text.partition("\n")[0], **more)


def _route_standard_logging(level: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(level, logging.WARNING))
    for name in ("aiohttp", "asyncio", "authlib", "redis"):
        logging.getLogger(name).setLevel(root.level)
    logging.getLogger("sidecar").setLevel(level)
    logging.captureWarnings(capture=True)
