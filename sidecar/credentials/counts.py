"""What the credentials part counts, for the metrics and the status page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


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
