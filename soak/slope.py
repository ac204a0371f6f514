"""A straight line through readings, and whether what it rises by is more than chance. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

SURE = 3.0
"""Standard errors that a rise has to exceed. Readings of one process follow on each other, so two are chance often."""


class Line(NamedTuple):
    """`slope` in units per second, its standard `error`, and the `growth` along the line over all readings."""

    slope: float
    error: float
    growth: float

    def rises(self, most: float, noise: float) -> bool:
        """Say whether it rises by more than `most` per second for sure, and by more than `noise` in all."""
        return self.slope - SURE * self.error > most and self.growth > noise


def fit(times: Sequence[float], values: Sequence[float]) -> Line:
    """Return the least-squares line; of fewer than three readings a flat one."""
    count = len(times)
    if count < 3:
        return Line(0.0, 0.0, 0.0)
    middle, mean = sum(times) / count, sum(values) / count
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (value - mean) for at, value in zip(times, values, strict=True)) / spread
    residual = sum((value - mean - slope * (at - middle)) ** 2 for at, value in zip(times, values, strict=True))
    return Line(slope, (residual / (count - 2) / spread) ** 0.5, slope * (times[-1] - times[0]))
