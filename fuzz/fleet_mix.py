"""What a fleet has to go through, and what is known and documented to go wrong with it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mix:
    """The defaults are what the sidecar promises to outlive without exception. Times in seconds.

    Beyond the defaults `fleet_judge` excuses what docs/redis.md and docs/soak.md say of `failovers` and failing stores,
    and counts it; anything else is a violation.
    """

    seconds: float = 300.0  # that an episode takes; a minute of calm follows
    life: float = 120.0  # of an access token
    skew: float = 20.0  # the most by which an instance's clock is off
    late: float = 0.3  # share of the messages of changes that are lost: the log makes up for them
    provider: float = 0.2  # share of token requests that find nobody
    slow: bool = True  # the provider may take longer than the timeout, the store 3 s
    faults: float = 0.0  # share of the store's operations that fail before, and as many after they were done
    outages: bool = False  # the store is away for all, for up to 30 s
    local: bool = False  # `store.on_outage: local`
    failovers: bool = False  # the store goes back by up to 1.5 s, locks and all
