"""The short forms of the soak's programs: fleets of real processes on one store. The full forms are in docs/soak.md."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.soaking import programs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

LONGEST = 120.0
SHORT = {
    "RF-02 expiries": "expiries --instances 2 --callers 40 --keys 4 --expiries 3 --life 3 --latency 0.5",
    "RF-05 ST-01 kills": "kills --instances 1 --kills 3 --callers 4 --keys 10 --judge-starts 0",
    "ID-05 logout": "logout --instances 2 --logouts 3 --callers 3 --others 10",
    "ID-08 users": "users --users 100 --requests 3000 --callers 5 --life 4 --delay 0.3",
    "LC-07 slopes": "slopes --minutes 0.12 --every 0.4 --sessions 30 --rate 60 --callers 5 --turnover 3",
    "RF-08 slow provider": "holders --instances 1 --duration 5 --keys 6 --callers 3 --slow 0 "
    "--late 2.5 --patience 1 --life 4",
}
"""Programs and arguments by what they show. They run at the same time: they mostly wait."""


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All programs, started; gone at the end with their processes, which the kernel ties to them."""
    with programs(SHORT) as started:
        yield started


@pytest.mark.parametrize("name", SHORT, ids=[f"[{name}]" for name in SHORT])
def test_fleet_under_harm_keeps_its_promises(running: dict[str, subprocess.Popen[str]], name: str) -> None:
    """One token request per expiry, no session lost but in the window, none used after its end, none confused."""
    out, errors = running[name].communicate(timeout=LONGEST)
    assert out, errors
    assert json.loads(out)["ok"], out
    assert running[name].returncode == 0
