"""Structured logs on stderr: which lines there are, and the way that they go.

What stands in a line is `log_text`'s business, who writes it `log_sink`'s. Lines of other libraries go the same way,
warnings and worse only.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

from sidecar.log_sink import Sink
from sidecar.log_text import Console, moment, redact, render_json, scrub, stamp, tell_exception

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

Style = Literal["auto", "json", "console"]
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_sinks: list[Sink] = []
_labels: dict[str, object] = {}
_requests: list[Callable[[dict[str, Any]], None]] = []  # where the lines of requests go


def configure(level: str = "info", style: Style = "auto", *, environ: Mapping[str, str], stream: TextIO) -> Sink:
    """Send all logs of the process to `stream` (usually stderr), and return the sink for closing and counting.

    `level` is a key of `LEVELS`. `style` auto is console on a terminal, else JSON lines. NO_COLOR is respected.
    """
    console = style == "console" or (style == "auto" and stream.isatty())
    colour = console and stream.isatty() and not environ.get("NO_COLOR")
    sink = Sink(stream.fileno())
    _sinks.append(sink)
    render: Callable[[object, str, MutableMapping[str, Any]], bytes] = Console(colour) if console else render_json
    _requests[:] = [lambda event: sink.write(render(None, "", event))] if LEVELS[level] <= LEVELS["info"] else []
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

    `path` is cut at its query, which may hold credentials (RFC 6750 section 2.3). What the request brought is
    scrubbed; the line goes past structlog's chain, which costs more than the request.
    """
    event = {
        "time": moment(time.time()),
        "level": "info",
        "event": "request",
        **_labels,
        "request_id": scrub(request_id),
        "method": scrub(method),
        "path": scrub(path.partition("?")[0]),
        "route": route,
        "status": status,
        "seconds": round(seconds, 6),
        **more,
    }
    for write in _requests:
        write(event)


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
