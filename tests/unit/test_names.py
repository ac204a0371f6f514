"""The memory of names: one lookup for all, for a short while, and what is left when the resolver fails."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.wire import names
from sidecar.wire.names import Found, Names

if TYPE_CHECKING:
    from collections.abc import Iterator

ONE, TWO = (Found(socket.AF_INET, "192.0.2.1"),), (Found(socket.AF_INET, "192.0.2.2"),)
AWAY = socket.gaierror(socket.EAI_AGAIN, "try again")
UNKNOWN = socket.gaierror(socket.EAI_NONAME, "no such name")


class Resolver:
    """Answers what it is told to; hangs while `open` is not set. Its clock is put forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answer: tuple[Found, ...] | Exception = ONE
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self.open = threading.Event()
        self.open.set()
        self._lock = threading.Lock()

    def __call__(self, host: str) -> tuple[Found, ...]:
        with self._lock:
            self.asked.append(host)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.open.wait(5)
        with self._lock:
            self.at_once -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def names(self) -> Names:
        return Names(self, lambda: self.now)


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    made = Resolver()
    yield made
    made.open.set()


async def test_name_is_looked_up_once_for_all_who_ask_at_once(resolver: Resolver):
    """A thousand requests at the start cost one lookup."""
    known = resolver.names()
    assert await asyncio.gather(*(known.resolve("api.example") for _ in range(1000))) == [ONE] * 1000
    assert resolver.asked == ["api.example"]


async def test_name_with_thousands_of_addresses_keeps_the_first_of_each_family(resolver: Resolver):
    """Whoever owns a name that a caller thought of says how many there are: each is judged, dialled and remembered."""
    four = tuple(Found(socket.AF_INET, f"192.0.{number >> 8}.{number & 255}") for number in range(4000))
    six = tuple(Found(socket.AF_INET6, f"2001:db8::{number:x}") for number in range(4000))
    resolver.answer = six + four
    most = names.MOST_ADDRESSES
    assert await resolver.names().resolve("many.example") == six[:most] + four[:most]
    resolver.answer = six[:1] * 4000
    assert await resolver.names().resolve("same.example") == six[:1] * most


async def test_answer_counts_for_its_time_and_no_longer(resolver: Resolver):
    """A name that moves is found at its new address after `FRESH` seconds."""
    known = resolver.names()
    await known.resolve("a")
    resolver.answer = TWO
    resolver.now += names.FRESH - 0.1
    assert await known.resolve("a") == ONE
    resolver.now += 0.2
    assert await known.resolve("a") == TWO


async def test_unknown_name_is_asked_for_again_after_a_shorter_time(resolver: Resolver):
    """A pod's neighbour may get its name any moment; a storm of requests for one without does not reach the resolver."""
    known = resolver.names()
    resolver.answer = UNKNOWN
    for _ in range(20):
        with pytest.raises(OSError):  # noqa: PT011 - its number is the resolver's
            await known.resolve("a")
    assert len(resolver.asked) == 1
    resolver.answer = ONE
    resolver.now += names.UNKNOWN + 0.1
    assert await known.resolve("a") == ONE


async def test_resolver_that_fails_leaves_the_last_answer_in_use_for_a_bounded_time(resolver: Resolver):
    """RFC 8767: stale is better than nothing, but not for ever."""
    known = resolver.names()
    await known.resolve("a")
    resolver.answer = AWAY
    resolver.now += names.FRESH + 1
    assert await known.resolve("a") == ONE
    resolver.now += names.STALE
    with pytest.raises(OSError):  # noqa: PT011
        await known.resolve("a")


async def test_name_that_is_gone_is_gone_at_once(resolver: Resolver):
    """That there is no such name is an answer, not a failure: nothing stale is used."""
    known = resolver.names()
    await known.resolve("a")
    resolver.answer = UNKNOWN
    resolver.now += names.FRESH + 1
    with pytest.raises(OSError):  # noqa: PT011
        await known.resolve("a")


async def test_resolver_that_hangs_is_not_waited_for_long_where_there_is_an_answer(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    """The first who asks waits `PATIENCE`, the others not at all; the late answer is taken when it comes."""
    monkeypatch.setattr(names, "PATIENCE", 0.02)
    known = resolver.names()
    await known.resolve("a")
    resolver.now += names.FRESH + 1
    resolver.open.clear()
    resolver.answer = TWO
    assert await known.resolve("a") == ONE
    monkeypatch.setattr(names, "PATIENCE", 60.0)
    assert await asyncio.wait_for(known.resolve("a"), 1) == ONE
    resolver.open.set()
    while resolver.at_once:  # noqa: ASYNC110 - it is counted on a thread
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert await known.resolve("a") == TWO
    assert len(resolver.asked) == 2


async def test_slow_lookups_are_few_at_once_and_others_wait_their_turn(resolver: Resolver):
    """Names that hang take no more than `MOST_LOOKUPS` threads, and no more than `MOST_WAITING` wait."""
    known = resolver.names()
    resolver.open.clear()
    count = names.MOST_LOOKUPS + names.MOST_WAITING
    asking = [asyncio.ensure_future(known.resolve(f"n{number}")) for number in range(count)]
    await asyncio.sleep(0.02)
    with pytest.raises(OSError):  # noqa: PT011
        await known.resolve("one-too-many")
    assert len(resolver.asked) == names.MOST_LOOKUPS
    resolver.open.set()
    assert await asyncio.gather(*asking) == [ONE] * count
    assert resolver.most_at_once <= names.MOST_LOOKUPS


async def test_caller_that_leaves_harms_no_other(resolver: Resolver):
    """One lookup, two askers, one gives up: the other gets its answer."""
    known = resolver.names()
    resolver.open.clear()
    one, other = (asyncio.ensure_future(known.resolve("a")) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    resolver.open.set()
    assert await other == ONE
    assert len(resolver.asked) == 1


async def test_names_that_are_kept_have_an_end(resolver: Resolver, monkeypatch: pytest.MonkeyPatch):
    """The name that was asked for longest ago is forgotten first."""
    monkeypatch.setattr(names, "MOST_NAMES", 3)
    known = resolver.names()
    for host in ("a", "b", "c", "d", "b"):
        await known.resolve(host)
    assert resolver.asked == ["a", "b", "c", "d"]
    await known.resolve("a")
    assert resolver.asked[-1] == "a"


async def test_what_is_no_host_name_has_no_address(resolver: Resolver):
    """An empty label is an error of the codec's, which is told as any other."""
    resolver.answer = UnicodeEncodeError("idna", "a..b", 0, 1, "label empty")
    with pytest.raises(OSError):  # noqa: PT011
        await resolver.names().resolve("a..b")


async def test_name_is_found_again_after_the_system_had_no_thread_left(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
):
    """[UP-01] The lookup has failed, and is tried again as any other: nobody waits for one that never began."""
    known = resolver.names()

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as tight:
        tight.setattr(threading.Thread, "start", refused)
        failures = await asyncio.gather(*(known.resolve(f"{n}.example") for n in range(20)), return_exceptions=True)
    assert {getattr(failure, "errno", failure) for failure in failures} == {errno.ENOMEM}
    resolver.now += names.UNKNOWN + 0.1
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(known.resolve(f"{n}.example") for n in range(20))) == [ONE] * 20


async def test_stale_answer_is_used_where_too_many_names_are_being_looked_up(resolver: Resolver):
    """[UP-01] A resolver that hangs while hundreds of names are asked for: what was found before goes on being used."""
    known = resolver.names()
    await known.resolve("a")
    resolver.open.clear()
    resolver.now += names.FRESH + 0.1
    many = names.MOST_LOOKUPS + names.MOST_WAITING
    waiting = [asyncio.create_task(known.resolve(f"{n}.example")) for n in range(many)]
    await asyncio.sleep(0)
    assert await known.resolve("a") == ONE
    with pytest.raises(OSError):  # noqa: PT011 - its number is the resolver's
        await known.resolve("unheard-of")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    resolver.open.set()
