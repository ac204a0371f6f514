"""What operators are told when this process comes to its limits: descriptors, memory, a loop that stood still.

Raises the limit of descriptors at the start and at a reload, as far as it may. What follows from the limits is decided
in `wire.capacity` and `wire.context`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from sidecar.wire import capacity

if TYPE_CHECKING:
    from sidecar.settings import Limits
    from sidecar.wire.context import Wire

NOTABLE = 0.9  # of the connections that were configured
_log = structlog.get_logger()


def prepare(limits: Limits) -> None:
    """Raise the limit of descriptors to what `limits.connections` need, as far as it may be."""
    capacity.raise_descriptors(limits.connections)


def tell_limited(limits: Limits) -> None:
    """Log that clearly fewer connections will be taken than configured, for want of descriptors."""
    now = capacity.descriptors()
    connections = capacity.connections_for(limits.connections, now)
    if connections < limits.connections * NOTABLE:
        _log.warning(
            "descriptors_limited", descriptors=now, connections=connections, wanted=limits.connections,
            hint="raise the hard limit of open files (ulimit -Hn), or lower limits.connections",
        )  # fmt: skip


def attend(wire: Wire) -> None:
    """Log the beginning and end of a shortage of memory, and each standstill of the event loop."""
    wire.strained = _strained
    wire.deadlines.stalled = _stalled


def _strained(above: bool) -> None:
    used = capacity.use()
    resident = used.resident if used else 0
    if above:
        _log.error("memory_exhausted", resident=resident, hint="new requests are refused; see limits.memory")
    else:
        _log.info("memory_free_again", resident=resident)


def _stalled(seconds: float) -> None:
    _log.warning("event_loop_stalled", seconds=round(seconds, 1))
