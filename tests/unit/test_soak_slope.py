"""Which rise of a reading is called one: pure, and shown on readings that are made up."""

from __future__ import annotations

import random

import pytest

from soak.slope import fit

HOUR = 3600.0


def noisy(slope: float, noise: float, count: int = 400) -> tuple[list[float], list[float]]:
    """Readings every nine seconds for an hour, that rise by `slope` an hour."""
    draw = random.Random(1)  # noqa: S311
    times = [at * 9.0 for at in range(count)]
    return times, [50.0 + slope * at / HOUR + draw.gauss(0, noise) for at in times]


@pytest.mark.parametrize(
    ("slope", "noise", "rises"),
    [(0.0, 2.0, False), (0.9, 0.1, False), (5.0, 0.5, True), (50.0, 5.0, True), (-20.0, 0.1, False), (2.0, 0.0, False)],
    ids=["level", "within the limit", "leak", "leak in much noise", "falling", "sure, but too little to matter"],
)
def test_line_rises_where_it_is_sure_and_more_than_noise(slope: float, noise: float, rises: bool) -> None:
    """[LC-07] At most one unit an hour is allowed, and three in all are taken for chance."""
    line = fit(*noisy(slope, noise))
    assert abs(line.slope * HOUR - slope) <= 4 * line.error * HOUR + 1e-9
    assert line.rises(1.0 / HOUR, 3.0) is rises


def test_line_through_too_few_readings_is_flat() -> None:
    """Two readings say nothing of what is chance."""
    assert fit([0.0, 1.0], [0.0, 9.0]) == (0.0, 0.0, 0.0)
