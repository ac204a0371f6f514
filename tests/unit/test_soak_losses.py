"""Which lost sessions the soak's programs explain, and which they report."""

from __future__ import annotations

import pytest

from soak.losses import Asked, Bounds, Harm, Reuse, Traces, fault, read, unaccounted

BOUNDS = Bounds(lease=3.0, late=0.5)
REUSE = Reuse("alice", 4, token="spent", bought="bought", rotated=10.2, again=14.0, acknowledged=False)
KILLED = [Harm(10.3, instance=0)]
ASKED = {"spent": [Asked(10.0, 0), Asked(13.5, 1)]}


def test_holder_killed_before_the_answer_was_stored_is_the_allowed_loss() -> None:
    """[RF-05] The other waited for the lease, and spent what it found."""
    assert fault(REUSE, Traces(ASKED, {}), KILLED, BOUNDS) == ""


@pytest.mark.parametrize(
    ("reuse", "asked", "stored", "harms", "said"),
    [
        (REUSE._replace(acknowledged=True), ASKED, {}, KILLED, "acknowledged"),
        (REUSE, ASKED, {"bought": 10.4}, KILLED, "the store had taken"),
        (REUSE, ASKED, {}, [], "nobody was harmed"),
        (REUSE, ASKED, {}, [Harm(10.3, instance=2)], "nobody was harmed"),
        (REUSE, ASKED, {}, [Harm(9.9, instance=0)], "nobody was harmed"),
        (REUSE, ASKED, {}, [Harm(13.0, instance=0)], "nobody was harmed"),
        (REUSE, {}, {}, KILLED, "nobody was harmed"),
        (REUSE, {"spent": [Asked(10.0, 0), Asked(10.1, 1)]}, {}, KILLED, "the lock did not hold"),
    ],
    ids=[
        "acknowledged", "stored", "no harm", "another was harmed", "harmed before", "harmed long after", "who asked?",
        "two at a time",
    ],
)  # fmt: skip
def test_loss_of_any_other_kind_is_reported(
    reuse: Reuse, asked: dict[str, list[Asked]], stored: dict[str, float], harms: list[Harm], said: str
) -> None:
    """[RF-05] Each part of the explanation is asked for."""
    assert said in fault(reuse, Traces(asked, stored), harms, BOUNDS)


@pytest.mark.parametrize(
    ("stop", "killed", "one_writer", "explained"),
    [
        (Harm(10.4, 2, until=13.0), 13.2, True, True),
        (Harm(9.0, 2, until=13.0), 13.2, True, True),
        (Harm(10.4, 2, until=13.0), 13.2, False, False),
        (Harm(12.8, 0, until=13.1), 13.2, True, False),
        (Harm(7.0, 2, until=10.1), 13.2, True, False),
        (Harm(12.9, 2, until=13.1), 13.2, True, False),
    ],
    ids=["stopped", "stopped before", "other stores", "itself", "had gone on", "stopped later"],
)
def test_holder_killed_while_another_that_is_stopped_has_the_file_could_not_have_stored_it(
    stop: Harm, killed: float, one_writer: bool, explained: bool
) -> None:
    """[RF-05] With SQLite one process writes at a time; stopped in the middle of it, it holds up all others."""
    bounds = BOUNDS._replace(one_writer=one_writer)
    harms = [stop, Harm(killed, instance=0)]
    assert (fault(REUSE, Traces(ASKED, {}), harms, bounds) == "") == explained


def test_store_that_took_the_answer_after_the_reuse_saved_nothing() -> None:
    """[RF-05] A stopped holder that came back too late."""
    assert fault(REUSE, Traces(ASKED, {"bought": 14.1}), KILLED, BOUNDS) == ""


def test_every_loss_must_have_its_reuse_and_every_reuse_its_loss() -> None:
    """[RF-05] A session that is gone without reuse was lost by the store."""
    bob = REUSE._replace(subject="bob")
    assert unaccounted({"alice": 1}, [REUSE]) == []
    assert unaccounted({"alice": 2}, [REUSE, bob]) == [
        "alice was signed out 2 times, with 1 reuses",
        "bob was signed out 0 times, with 1 reuses",
    ]


def test_traces_are_read_by_instance_and_the_first_storing_counts() -> None:
    """[RF-05] A chain is stored again with a later one of another route."""
    lines = [(0, "asked spent 10.0"), (0, "stored bought 10.4"), (1, "stored bought 11.0"), (1, "asked spent 13.5")]
    assert read(lines) == Traces(ASKED, {"bought": 10.4})
