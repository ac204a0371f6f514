"""What the credentials part counts, for the metrics and the status page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Counts:
    """Plain integers since the start of the process.

    `renewals` is token requests by what caused them: `mint` (nothing was held), `expiry`, `background`, `rejection`.
    """

    renewals: Counter[str] = field(default_factory=Counter)
    joined: int = 0  # callers that waited for a flight which another had started
    lost_races: int = 0  # somebody else had renewed or replaced what we were about to
    discarded: int = 0  # renewals that came back after the session had been replaced or deleted
    store_write_retries: int = 0  # further attempts to store a rotated refresh token
    generation_regressions: int = 0  # the store held an older refresh token than this process
    repairs: int = 0  # records that were brought forward to what this process knew
    damaged_records: int = 0  # records that could not be opened, taken for missing
    changed_identities: int = 0  # renewals that came back for somebody else than who signed in
    still_rejected: int = 0  # rejections that were passed on, since a renewal had just not helped


def figures(counts: Counts, states: Mapping[str, int], sessions: int, unstored: int) -> dict[str, dict[str, float]]:
    """Return what operators see, in groups: every name is always there, so that a rate can be told from the start."""
    return {
        "tokens": {**dict.fromkeys(("fresh", "stale", "expired", "renewing"), 0), **states},
        "renewals": {cause: counts.renewals[cause] for cause in ("mint", "expiry", "background", "rejection")},
        "events": {
            "joined": counts.joined,
            "lost_race": counts.lost_races,
            "discarded": counts.discarded,
            "store_went_back": counts.generation_regressions,
            "record_repaired": counts.repairs,
            "record_damaged": counts.damaged_records,
            "identity_changed": counts.changed_identities,
            "still_rejected": counts.still_rejected,
            "write_retried": counts.store_write_retries,
        },
        "now": {"sessions": sessions, "unstored": unstored},
    }
