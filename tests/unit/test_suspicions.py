"""What is remembered of rejections, and for how long."""

from __future__ import annotations

from sidecar.credentials.memory import Memory
from sidecar.credentials.session_record import Step
from sidecar.credentials.suspicions import MOST, Suspicions
from sidecar.oauth.token_response import MAX_LIFE
from tests.support.credentials import USER, keyed


def test_suspicion_lasts_for_as_long_as_any_token_and_no_longer() -> None:
    """[RF-14] A rejected token is never used again; when it must have expired nothing is left of it, nor of its session."""
    suspicions, key = Suspicions(), keyed(USER, "alice")
    assert suspicions.reject(key, Step(1, 7), 1000.0)
    suspicions.sweep(1000.0 + MAX_LIFE - 1)
    assert suspicions.rejects(key, Step(1, 7))
    assert not suspicions.rejects(key, Step(1, 8))
    suspicions.sweep(500.0)  # the clock was set back
    assert suspicions.rejects(key, Step(1, 7))
    suspicions.sweep(1000.0 + MAX_LIFE)
    assert not suspicions._by_key


def test_suspicions_are_bounded() -> None:
    """The oldest make room."""
    suspicions = Suspicions()
    for number in range(MOST + 5):
        suspicions.reject(keyed(USER, f"user{number}"), Step(1, 1), 1000.0)
    assert len(suspicions._by_key) == MOST
    assert not suspicions.rejects(keyed(USER, "user4"), Step(1, 1))
    assert suspicions.rejects(keyed(USER, "user5"), Step(1, 1))


def test_memory_of_unknown_sessions_is_swept() -> None:
    """[ID-01] Guessed ids are remembered for a moment, not until there are ten thousand of them."""
    memory = Memory()
    memory.unknown("session:{a}", 1000.0)
    memory.sweep(1001.0)
    assert memory.repeats.is_unknown("session:{a}", 1001.0)
    memory.sweep(1002.0)
    assert not memory.repeats._unknown
