"""A reload over all workers, all or nothing: the file is read once, every worker prepares, then all take it.

Where the file is refused, or one worker cannot take it, all keep what they have. A worker that is started later gets
what the others use, whatever the file says meanwhile; that is why the supervisor keeps the settings.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import structlog

from sidecar import config
from sidecar.config import apart
from sidecar.config.contents import digest
from sidecar.reloading import refuse_fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.settings import Settings
    from sidecar.workers.channel import Message
    from sidecar.workers.merging import Snapshot

PATIENCE = 30.0
"""Seconds that workers have to prepare."""
_log = structlog.get_logger()


class Office(Protocol):
    """What the supervisor does for it."""

    def workers(self) -> list[int]:
        """Return the workers that there are."""

    def tell(self, number: int, message: Message) -> None:
        """Send a message to a worker."""

    def when_readable(self, descriptor: int, call: Callable[[], None]) -> None:
        """Call once when there is something to read."""


class Reloads:
    """The configuration in use, and the one that is to follow."""

    def __init__(self, settings: Settings, path: str, environ: Mapping[str, str], office: Office) -> None:
        self.settings = settings
        self.until: float | None = None  # while workers prepare: when they have taken too long (time.monotonic)
        self._path = path
        self._environ = environ
        self._office = office
        self._reading: apart.Reading | None = None
        self._new: Settings | None = None
        self._told: list[int] = []
        self._waiting: set[int] = set()
        self._again = False
        self._files = settings.files  # and those of a configuration that was refused: they may mend it
        self._seen = settings.seen
        self._results = Counter(ok=1)
        self._last_success = time.time()
        self._valid = True

    @property
    def preparing(self) -> bool:
        """Whether workers are preparing: nobody is started meanwhile."""
        return self._new is not None

    def changed(self) -> None:
        """Hear from a worker that the files have changed: each of them says so, the first one counts."""
        if digest(self._files) != self._seen:
            self.ask()

    def ask(self) -> None:
        """Read the file and let all workers prepare. Where that is under way it is done once more afterwards."""
        if self._reading is not None or self.preparing:
            self._again = True
            return
        self._again, self._seen = False, digest(self._files)
        self._reading = apart.Reading(self._path, self._environ)
        if self._reading.descriptor is None:
            self._read()
        else:
            self._office.when_readable(self._reading.descriptor, self._read)

    def prepared(self, number: int, error: str) -> None:
        """Hear from a worker that it can take the new configuration, or why not."""
        if error and number in self._waiting:
            self._reject(error)
        else:
            self.gone(number)

    def gone(self, number: int) -> None:
        """Wait no longer for a worker that has prepared or ended: the next one gets what will be in use then."""
        self._waiting.discard(number)
        if self.preparing and not self._waiting:
            self._commit()

    def expire(self, now: float) -> None:
        """Give up on workers that do not answer."""
        if self.until is not None and now >= self.until:
            self._reject(f"worker {min(self._waiting)} does not answer")

    def rows(self) -> Snapshot:
        """Return what the metrics say of reloads."""
        return {
            "sidecar_config_reloads_total": [([result], self._results[result]) for result in ("failed", "ok")],
            "sidecar_config_last_reload_success_timestamp_seconds": [([], self._last_success)],
            "sidecar_config_valid": [([], int(self._valid))],
        }

    def _read(self) -> None:
        assert self._reading is not None  # noqa: S101 - it was asked
        reading, self._reading = self._reading, None
        self._told = self._office.workers()
        try:
            new = reading.settings()
            refuse_fixed(self.settings, new)
        except (config.ConfigError, OSError, ValueError) as error:
            self._reject(str(error), error.files if isinstance(error, config.ConfigError) else {})
            return
        self._new, self._waiting, self.until = new, set(self._told), time.monotonic() + PATIENCE
        text = base64.b64encode(apart.packed(new)).decode("ascii")
        self._tell_all({"do": "prepare", "settings": text})

    def _commit(self) -> None:
        assert self._new is not None  # noqa: S101 - it is pending
        changed = config.changed_routes(self.settings, self._new)
        self.settings = self._new
        self._see(self.settings.files, self.settings.seen)
        self._results["ok"] += 1
        self._last_success, self._valid = time.time(), True
        self._tell_all({"do": "commit"})
        _log.info("configuration_reloaded", file=self._path, changed=list(changed))
        for warning in self._new.warnings:
            _log.warning("configuration_warning", warning=warning)
        self._end()

    def _reject(self, error: str, files: Mapping[str, str] | None = None) -> None:
        self._results["failed"] += 1
        self._valid = False
        files = files or {}
        watched = tuple(dict.fromkeys((*self.settings.files, *files)))
        self._see(watched, digest(watched, files))
        self._tell_all({"do": "reject", "error": error, "files": files})
        _log.error("configuration_rejected", file=self._path, error=error)
        self._end()

    def _see(self, files: tuple[str, ...], seen: str) -> None:
        """Look at these files from now on; where the others were written again since they were read, read once more."""
        self._again = self._again or digest(self._files) != self._seen
        self._files, self._seen = files, seen

    def _end(self) -> None:
        self._new, self.until = None, None
        self._waiting.clear()
        if self._again:
            self.ask()

    def _tell_all(self, message: Message) -> None:
        for number in self._told:
            self._office.tell(number, message)
