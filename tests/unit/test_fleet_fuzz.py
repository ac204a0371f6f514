"""A short form of `python -m fuzz fleet`: fleets in simulated time, and what its judge says of a broker that is broken."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from fuzz import fleet
from fuzz.fleet_mix import Mix
from fuzz.fleet_play import play
from sidecar.credentials.memory import Memory
from sidecar.stores.leases import Leases

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.fleet_judge import Violation

TWICE, ANOTHER, ENDED = "refresh token sent twice", "another user's credential", "ended session served"
SHORT = Mix(seconds=150.0)
DEAF = Mix(seconds=150.0, life=40.0, provider=0.5, late=1.0)
EPISODES = 12


def test_fleet_keeps_every_promise_and_a_seed_its_history(capsys: pytest.CaptureFixture[str]) -> None:
    """Some minutes of three instances on one store break no rule, and the same seed gives the same minutes."""
    episodes = [play(SHORT, seed) for seed in (2026, 2027)]
    assert [violation for episode in episodes for violation in episode.violations] == []
    assert all(episode.tally["served"] > 300 and not episode.excused for episode in episodes)
    assert play(SHORT, 2027) == episodes[1]
    assert fleet.report(episodes, 1) == 0
    assert "2 episodes" in capsys.readouterr().out


def everybody_alone(hold: Callable[..., Any], leases: Leases, name: str, lease: float, wait: float) -> Any:
    """Hold a lock of a name that nobody else has."""
    return hold(leases, name + secrets.token_hex(4), lease, wait)


@pytest.mark.parametrize(
    ("owner", "name", "broken", "mix", "rules"),
    [
        pytest.param(Leases, "hold", everybody_alone, Mix(seconds=60.0), {TWICE}, id="no lock"),
        pytest.param(Memory, "disown", None, SHORT, {ANOTHER, ENDED}, id="no word of changes"),
        pytest.param(Memory, "keep_only", None, DEAF, {ANOTHER}, id="a former user's last resort"),
    ],
)
def test_fleet_that_is_broken_breaks_rules_by_name(
    owner: type, name: str, broken: Any, mix: Mix, rules: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without locks, without word of changes or with a former user's last resort, the judge soon says what is wrong."""
    whole = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: broken(whole, *given) if broken else None)
    found: list[Violation] = []
    for seed in range(1, EPISODES + 1):
        found += play(mix, seed).violations
        if rules <= {violation.rule for violation in found}:
            break
    assert rules <= {violation.rule for violation in found}
    assert all(violation.story for violation in found)
