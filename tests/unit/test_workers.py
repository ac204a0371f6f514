"""What is decided about several workers: how many, who accepts for whom, what their numbers mean together, when to start."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.admin.process import READINGS
from sidecar.admin.prometheus import FAMILIES, HISTOGRAM
from sidecar.config import ConfigError, load
from sidecar.settings import Limits, Login, ProviderLimit, ProviderSettings, Settings
from sidecar.workers import cpus, merging
from sidecar.workers.channel import Unpacker, pack
from sidecar.workers.crew import Worker, acceptance
from sidecar.workers.pulse import BETWEEN, MOST, Pulses
from sidecar.workers.restarts import LONGEST, STEADY, after_end
from sidecar.workers.rounds import PATIENCE, Round, Rounds
from sidecar.workers.sharing import share

if TYPE_CHECKING:
    from pathlib import Path

ROUTES = "routes: [{match: {host: a}, upstream: 'https://a.example', as: none}]"

# -- the configuration -----------------------------------------------------------------------------------------------


def settings(folder: Path, text: str) -> Settings:
    file = folder / "sidecar.yaml"
    file.write_text(f"{text}\n{ROUTES}\n")
    return load(file, {})


@pytest.mark.parametrize(("written", "means"), [("1", 1), ("4", 4), ("256", 256), ("auto", "auto"), ('"2"', 2)])
def test_workers_are_read(written, means, tmp_path):
    """A number, or `auto`; 1 where nothing is written."""
    assert settings(tmp_path, f"workers: {written}").workers == means
    assert settings(tmp_path, "").workers == 1


@pytest.mark.parametrize("written", ["0", "-1", "257", "1.5", "many", "Auto", "true", "[2]"])
def test_workers_that_are_no_number_of_processes_are_refused(written, tmp_path):
    """What is expected stands in the problem, at its place."""
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, f"workers: {written}")
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (1, "workers") or problem.key.startswith("workers")
    assert "expected" in problem.message


@pytest.mark.parametrize("written", ["2", "auto"])
def test_workers_with_a_store_of_their_own_are_refused(written, tmp_path):
    """Sessions would differ from worker to worker: the problem is at the store, and says what to write."""
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, f"workers: {written}\nstore: {{url: 'memory:'}}")
    (problem,) = caught.value.problems
    assert (problem.line, problem.key) == (2, "store.url")
    assert "sqlite:" in problem.hint
    assert settings(tmp_path, "workers: 1\nstore: {url: 'memory:'}").workers == 1


# -- how many `auto` is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("200000", 2.0), ("", None), ("0 100000", None)]
)
def test_quota_of_control_groups_2(text, quota):
    """Quota by period; `max` and what cannot be read limit nothing."""
    assert cpus.quota_v2(text) == quota


@pytest.mark.parametrize(
    ("quota", "period", "number"), [("-1", "100000", None), ("50000", "100000", 0.5), ("", "", None)]
)
def test_quota_of_control_groups_1(quota, period, number):
    """-1 is no limit."""
    assert cpus.quota_v1(quota, period) == number


@pytest.mark.parametrize(
    ("files", "number"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "10000 100000"}, 1),
        ({"pod/cpu.max": "200000 100000", "pod/container/cpu.max": "max 100000"}, 2),
        ({"pod/cpu.max": "max 100000", "pod/container/cpu.max": "400000 100000"}, 4),
        ({"cpu/pod/container/cpu.cfs_quota_us": "300000\n", "cpu/pod/container/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "1600000 100000"}, 8),
    ],
)
def test_auto_is_what_affinity_and_every_control_group_around_us_allow(files, number, tmp_path, monkeypatch):
    """The smallest of all; a part of a CPU counts as one; no quota: every CPU of the affinity."""
    monkeypatch.setattr(cpus, "affinity", lambda: 8)
    own = tmp_path / "cgroup"
    own.write_text("4:cpu,cpuacct:/pod/container\n0::/pod/container\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpus.usable(tmp_path, own) == number
    assert cpus.number("auto") >= 1
    assert cpus.number(3) == 3


# -- limits ------------------------------------------------------------------------------------------------------------


def test_limits_of_the_program_are_divided():
    """Rounded up, never 0; what one message may be stays, and so does what is not limited."""
    idp = ProviderSettings("idp", "client", token_endpoint="https://idp", limit=ProviderLimit(1, 7))
    login = Login("https://app.example", ("idp",), "sid", ("https://app.example/",), per_second=6)
    whole = Settings(limits=Limits(connections=10, replay_memory=64), providers={"idp": idp}, login=login, workers=4)
    one = share(whole, 4)
    assert (one.limits.connections, one.limits.replay_memory, one.limits.memory) == (3, 16, None)
    assert (one.providers["idp"].limit.at_once, one.providers["idp"].limit.per_second) == (1, 2)
    assert one.login == replace(login, per_second=2)
    assert one.limits.headers == whole.limits.headers
    assert share(whole, 1) == whole


# -- who accepts for whom ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serving", "accepts"),
    [
        ([1, 1, 1], {0: (0,), 1: (1,), 2: (2,)}),
        ([1, 0, 1], {0: (0,), 2: (2, 1)}),
        ([0, 0, 1], {2: (2, 0, 1)}),
        ([0, 0, 0], {}),
    ],
)
def test_every_socket_has_one_worker_that_accepts_from_it(serving, accepts):
    """Those of workers that are not there are shared out among the others."""
    workers = [Worker(at, serving=bool(there)) for at, there in enumerate(serving)]
    assert acceptance(workers) == accepts


# -- starting again ------------------------------------------------------------------------------------------------------


def test_worker_that_was_steady_is_started_at_once():
    """Its end is one of its own, not one of a row."""
    assert after_end(5, started=100.0, now=100.0 + STEADY) == (0, 100.0 + STEADY)


def test_worker_that_ends_again_and_again_is_started_ever_later():
    """Twice as late each time, up to a limit."""
    failures, pauses = 0, []
    for _ in range(12):
        failures, at = after_end(failures, started=0.0, now=1.0)
        pauses.append(at - 1.0)
    assert pauses[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert pauses[-1] == LONGEST


# -- numbers -------------------------------------------------------------------------------------------------------------


def test_every_gauge_says_what_it_means_over_workers():
    """A metric that is no counter is summed, or the largest or smallest is taken, or the supervisor knows: one of these."""
    kinds = {family.name: family.kind for family in FAMILIES} | {name: kind for name, kind, _ in READINGS}
    ways = [merging.SUMMED, merging.LARGEST, merging.SMALLEST, merging.SUPERVISED]
    gauges = {name for name, kind in kinds.items() if kind == "gauge"}
    assert gauges <= frozenset.union(*ways) <= kinds.keys()
    assert sum(map(len, ways)) == len(frozenset.union(*ways))


def test_families_by_route_are_known():
    """Those are the ones that a removed route has to leave."""
    found = {family.name for family in FAMILIES if family.labels[:1] == ("route",)} | {HISTOGRAM}
    assert found == merging.BY_ROUTE


def test_snapshots_are_put_together_as_each_number_means():
    """Counters and parts of a whole are summed; for others the largest, the smallest, or the supervisor's is taken."""
    one = {"sidecar_requests_total": [(["a", "2xx"], 3)], "sidecar_connections": [([], 2)], "sidecar_sessions": [([], 9)],
           "process_max_fds": [([], 100)], "sidecar_workers": [([], 1)]}  # fmt: skip
    other = {"sidecar_requests_total": [(["a", "2xx"], 4), (["b", "4xx"], 1)], "sidecar_connections": [([], 5)],
             "sidecar_sessions": [([], 8)], "process_max_fds": [([], 90)], "sidecar_workers": [([], 1)]}  # fmt: skip
    assert merging.merged([one, other], {}, {"sidecar_workers": [([], 2)]}) == {
        "sidecar_requests_total": [(["a", "2xx"], 7), (["b", "4xx"], 1)],
        "sidecar_connections": [([], 7)],
        "sidecar_sessions": [([], 9)],
        "process_max_fds": [([], 90)],
        "sidecar_workers": [([], 2)],
    }


def test_counters_of_an_ended_worker_stay_and_its_gauges_go():
    """What it counted was shown before and must not be taken back; what it had open is closed."""
    last = {"sidecar_requests_total": [(["a", "2xx"], 3)], "sidecar_connections": [([], 2)]}
    ended = merging.counters(last)
    assert merging.merged([], ended, {}) == {"sidecar_requests_total": [(["a", "2xx"], 3)]}


def test_routes_that_a_reload_removed_leave_the_page():
    """Also those that only an ended worker had; what matched no route stays."""
    rows = [(["gone", "no_route"], 1), (["kept", "no_route"], 1), (["", "no_route"], 1), (["(unmatched)", "loop"], 1)]
    found = merging.pruned(
        {"sidecar_refusals_total": rows, "sidecar_token_requests_total": [(["idp", "granted"], 1)]}, ["kept"]
    )
    assert [labels[0] for labels, _ in found["sidecar_refusals_total"]] == ["kept", "", "(unmatched)"]
    assert found["sidecar_token_requests_total"]


def answer(*, ready: bool, store: str, lasting: float | None) -> dict[str, object]:
    return {"ready": ready, "checks": {"store": [store, "", True]}, "tokens_last": lasting}


@pytest.mark.parametrize(
    ("answers", "workers", "ready", "store", "lasting"),
    [
        ([answer(ready=True, store="ok", lasting=50), answer(ready=True, store="ok", lasting=None)], 2, True, "ok", 50),
        (
            [answer(ready=True, store="ok", lasting=50), answer(ready=False, store="failing", lasting=9)],
            2,
            False,
            "failing",
            9,
        ),
        ([answer(ready=True, store="ok", lasting=50)], 2, False, "ok", 50),
    ],
)
def test_all_are_ready_when_each_worker_is(answers, workers, ready, store, lasting):
    """A check is as bad as its worst worker; a worker that does not answer is not ready."""
    told = merging.ready(answers, workers)
    assert (told["ready"], told["checks"]["store"][0], told["tokens_last"]) == (ready, store, lasting)
    assert told["checks"]["workers"][0] == ("ok" if len(answers) == workers else "failing")


# -- questions and answers ---------------------------------------------------------------------------------------------


def test_messages_arrive_whole_however_they_are_cut():
    """Each has its length before it."""
    sent = [{"event": "report", "metrics": {"a": [[["b"], 1.5]]}}, {"do": "commit"}]
    data, inbox, found = b"".join(map(pack, sent)), Unpacker(), []
    for at in range(len(data)):
        found += inbox.feed(data[at : at + 1])
    assert found == sent
    assert Unpacker().feed(data) == sent


class Asked:
    """Rounds, what was sent, and what was completed."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, dict]] = []
        self.done: list[Round] = []
        self.rounds = Rounds(lambda number, message: self.sent.append((number, message)), self.done.append)
        self.rounds.begin(0, 7, ["metrics"], [0, 1, 2], now=10.0)


def test_question_is_answered_when_all_have_spoken():
    """Not before, and once."""
    asked = Asked()
    assert [number for number, _ in asked.sent] == [0, 1, 2]
    for number, message in asked.sent:
        assert not asked.done
        asked.rounds.heard(number, {"round": message["round"], "metrics": number})
    assert [(one.asker, one.question, sorted(one.answers)) for one in asked.done] == [(0, 7, [0, 1, 2])]
    asked.rounds.expire(99.0)
    assert len(asked.done) == 1


def test_question_does_not_wait_for_a_worker_that_has_ended_or_is_silent():
    """Who is gone is left out at once, who is silent after a while, and comes too late then."""
    asked = Asked()
    asked.rounds.gone(1)
    asked.rounds.heard(0, {"round": 1})
    asked.rounds.expire(10.0 + PATIENCE / 2)
    assert not asked.done
    assert asked.rounds.next() == 10.0 + PATIENCE
    asked.rounds.expire(10.0 + PATIENCE)
    asked.rounds.heard(2, {"round": 1})
    assert [sorted(one.answers) for one in asked.done] == [[0]]


def test_question_of_a_worker_that_has_ended_is_dropped():
    """Nobody waits for its answer."""
    asked = Asked()
    asked.rounds.gone(0)
    asked.rounds.expire(99.0)
    assert not asked.done


# -- hanging workers ---------------------------------------------------------------------------------------------------


class Watched:
    """Three workers that are asked; those in `hanging` do not answer. The clock is an argument."""

    def __init__(self, *hanging: int) -> None:
        self.pulses, self.hanging, self.stopped = Pulses(), set(hanging), set()
        self.given_up: list[tuple[float, int]] = []

    def live(self, since: float, until: float, step: float = 1.0) -> list[tuple[float, int]]:
        """Look every `step` seconds; return who was given up, and when."""
        self.given_up, now = [], since
        while now <= until:
            ask, hung = self.pulses.look(now, 30.0, [0, 1, 2], self.stopped)
            for number in set(ask) - self.hanging:
                self.pulses.heard(number)
            if hung is not None:
                self.given_up.append((now, hung))
            now += step
        return self.given_up


def test_worker_that_is_silent_is_given_up_and_no_other():
    """After the silence that is borne, once; all that answer are never."""
    assert Watched(1).live(0, 31) == [(30.0, 1)]
    assert Watched().live(0, 1000) == []


def test_pause_of_the_whole_machine_is_nobodys_silence():
    """Hours between two looks count for two seconds: who answers then lives on, who hangs is found all the same."""
    watched = Watched(1)
    assert watched.live(0, 10) == []
    assert watched.live(10_000, 10_000) == []
    watched.hanging.clear()
    for number in list(watched.pulses.silent):
        watched.pulses.heard(number)
    assert watched.live(10_001, 10_100) == []
    watched.hanging.add(1)
    assert [number for _, number in watched.live(20_000, 20_040)] == [1]


def test_pause_counts_for_less_than_the_silence_that_is_borne():
    """However often the machine is paused: each pause adds `MOST`."""
    watched = Watched(0, 1, 2)
    pauses = int(30.0 / MOST) - 1
    assert [watched.live(at * 1000.0, at * 1000.0) for at in range(pauses)] == [[]] * pauses


def test_workers_that_all_hang_are_given_up_one_at_a_time():
    """What makes all of them hang is not mended by killing all at once."""
    times = [at for at, _ in Watched(0, 1, 2).live(0, 50)]
    assert times == [30.0, 30.0 + BETWEEN, 30.0 + 2 * BETWEEN]


def test_stopped_worker_is_not_judged_for_as_long_as_it_is_stopped():
    """A debugger may take its time; what is silent afterwards still is given up."""
    watched = Watched(2)
    watched.stopped.add(2)
    assert watched.live(0, 1000) == []
    watched.stopped.clear()
    assert [number for _, number in watched.live(1001, 1040)] == [2]


def test_worker_is_asked_again_only_after_its_answer():
    """Questions do not pile up in the socket of one that does not read."""
    pulses = Pulses()
    asked = [number for at in range(100) for number in pulses.look(float(at), 1000.0, [0, 1], [1]).ask]
    assert asked == [0, 1]
    pulses.heard(1)
    assert pulses.look(300.0, 1000.0, [0, 1], []).ask == (1,)


def test_clock_that_goes_back_takes_nobodys_life():
    """`time.monotonic` does not; no sum becomes negative all the same."""
    watched = Watched(1)
    assert watched.live(100, 110) == []
    assert watched.live(50, 69) == []
    assert [number for _, number in watched.live(70, 90)] == [1]
