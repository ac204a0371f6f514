"""A reload over all workers, all or nothing: the file is read once, every worker prepares, then all take it.

Where the file is refused, or one worker cannot take it, all keep what they have. A worker that is started later gets
what the others use, whatever the file says meanwhile; that is why the supervisor keeps the settings.
"""

from __future__ import annotations

import base64
import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from sidecar import config
from sidecar.config import apart
from sidecar.config.watch import digest
from sidecar.reloading import refuse_fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from sidecar.settings import Settings
    from sidecar.workers.channel import Message
    from sidecar.workers.merging import Snapshot

PATIENCE = 30.0
"""Seconds that workers have to prepare."""
_log = structlog.get_logger()


class Reloads:
    """The configuration in use, and the one that is to follow. `tell` sends to a worker."""

    def __init__(
        self, settings: Settings, path: str, environ: Mapping[str, str], tell: Callable[[int, Message], None]
    ) -> None:
        self.settings = settings
        self.until: float | None = None  # while workers prepare: when they have taken too long (time.monotonic)
        self._path = path
        self._environ = environ
        self._tell = tell
        self._new: Settings | None = None
        self._told: set[int] = set()
        self._waiting: set[int] = set()
        self._again = False
        self._seen = digest(settings.files)
        self._results = Counter(ok=1)
        self._last_success = time.time()
        self._valid = True

    @property
    def pending(self) -> bool:
        """Whether workers are preparing."""
        return self.until is not None

    def changed(self, workers: Collection[int], now: float) -> None:
        """Hear from a worker that the files have changed: each of them says so, the first one counts."""
        if self.pending or digest(self.settings.files) != self._seen:
            self.ask(workers, now)

    def ask(self, workers: Collection[int], now: float) -> None:
        """Read the file and let `workers` prepare. Where they are preparing already it is done once more afterwards."""
        if self.pending:
            self._again = True
            return
        self._told, self._again, self._seen = set(workers), False, digest(self.settings.files)
        try:
            new = apart.load(self._path, self._environ)
            refuse_fixed(self.settings, new)
        except (config.ConfigError, OSError, ValueError) as error:
            self._reject(str(error))
            return
        self._new, self._waiting, self.until = new, set(workers), now + PATIENCE
        text = base64.b64encode(apart.packed(new)).decode("ascii")
        for number in workers:
            self._tell(number, {"do": "prepare", "settings": text})
        self._settle(now)

    def prepared(self, number: int, error: str, now: float) -> None:
        """Hear from a worker that it can take the new configuration, or why not."""
        if error and number in self._waiting:
            self._reject(error)
        self._waiting.discard(number)
        self._settle(now)

    def gone(self, number: int, now: float) -> None:
        """Wait no longer for a worker that has ended: the next one gets what will be in use then."""
        self._told.discard(number)
        self._waiting.discard(number)
        self._settle(now)

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

    def _settle(self, now: float) -> None:
        if self.pending and not self._waiting:
            self._commit()
        if self._again and not self.pending:
            self.ask(list(self._told), now)

    def _commit(self) -> None:
        assert self._new is not None  # noqa: S101 - it is pending
        changed = config.changed_routes(self.settings, self._new)
        self.settings, self._new, self.until = self._new, None, None
        self._seen = digest(self.settings.files)
        self._results["ok"] += 1
        self._last_success, self._valid = time.time(), True
        self._tell_all({"do": "commit"})
        _log.info("configuration_reloaded", file=self._path, changed=list(changed))

    def _reject(self, error: str) -> None:
        self._new, self.until = None, None
        self._waiting.clear()
        self._results["failed"] += 1
        self._valid = False
        self._tell_all({"do": "reject", "error": error})
        _log.error("configuration_rejected", file=self._path, error=error)

    def _tell_all(self, message: Message) -> None:
        for number in self._told:
            self._tell(number, message)
