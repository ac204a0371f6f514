"""Rotation of the store's keys: every record, once, nothing lost to or of those who write meanwhile."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sidecar.cli import cli
from sidecar.credentials.rotation import rotate
from sidecar.credentials.vault import Vault, generate_key, load_pepper
from sidecar.errors import SealError, StoreUnavailableError
from sidecar.model import Secret
from sidecar.stores import open_store
from tests.support import redis_server
from tests.support.credentials import APP, USER, Bench

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.stores.contract import Store

OLD, NEW, OTHER = (Secret(generate_key()) for _ in range(3))
USERS = [f"user{number}" for number in range(20)]


async def filled(bench: Bench) -> None:
    """Sign twenty users in, each with a list of their sessions and a mark, and store the application's token."""
    for user in USERS:
        await bench.sign_in(user)
        await bench.broker.sign_ins.once("jti", user, bench.clock() + 600)
    await bench.token(APP)


def ring(*keys: Secret) -> Vault:
    return Vault(keys)


async def test_every_record_is_sealed_with_the_newest_key_and_keeps_its_expiry() -> None:
    """[RD-12] Sessions, application tokens, marks and the store's own pepper; the old key opens nothing any more."""
    bench = Bench(vault=ring(OLD))
    await filled(bench)
    before = {name: await bench.store.get(name) for name in await bench.store.keys("")}
    new = ring(NEW, OLD)
    tally = await rotate(bench.store, new, bench.clock)
    assert (tally.sealed_again, tally.unreadable, tally.keys) == (42, 0, {new.ids[0]: 42})
    for name, old in before.items():
        record = await bench.store.get(name)
        assert ring(NEW).open(name, record.version, record.value) == ring(OLD).open(name, old.version, old.value)
        assert record.expires_at == old.expires_at


async def test_second_rotation_has_nothing_to_do() -> None:
    """[RD-12] It may be run as often as one likes."""
    bench = Bench(vault=ring(OLD))
    await filled(bench)
    await rotate(bench.store, ring(NEW, OLD), bench.clock)
    versions = {name: (await bench.store.get(name)).version for name in await bench.store.keys("")}
    assert (await rotate(bench.store, ring(NEW, OLD), bench.clock)).sealed_again == 0
    assert versions == {name: (await bench.store.get(name)).version for name in await bench.store.keys("")}


async def test_rotation_that_was_cut_off_goes_on_with_the_rest() -> None:
    """[RD-12] What was done stays done."""
    bench = Bench(vault=ring(OLD))
    await filled(bench)
    put, left = bench.store.put, iter(range(10))

    async def failing(*arguments, **options):
        if next(left, None) is None:
            raise StoreUnavailableError("away")
        return await put(*arguments, **options)

    bench.store.put = failing
    with pytest.raises(StoreUnavailableError):
        await rotate(bench.store, ring(NEW, OLD), bench.clock)
    bench.store.put = put
    assert (await rotate(bench.store, ring(NEW, OLD), bench.clock)).sealed_again == 32


@pytest.mark.parametrize("keys", [(NEW,), (NEW, OTHER)], ids=["missing", "wrong"])
async def test_store_of_other_keys_is_refused_and_untouched(keys: tuple[Secret, ...]) -> None:
    """[ST-06] Nothing is written without the key that opens the store's pepper."""
    bench = Bench(vault=ring(OLD))
    await filled(bench)
    before = {name: await bench.store.get(name) for name in await bench.store.keys("")}
    with pytest.raises(SealError):
        await rotate(bench.store, ring(*keys), bench.clock)
    assert before == {name: await bench.store.get(name) for name in await bench.store.keys("")}


async def test_record_of_an_unknown_key_is_counted_and_left_as_it_is() -> None:
    """[RD-12] It may be opened once its key is found again."""
    bench = Bench(vault=ring(OLD))
    await load_pepper(bench.store, bench.vault)
    await bench.store.put("app:{x}", ring(OTHER).seal("app:{x}", 1, b"x"), expected=None, version=1)
    tally = await rotate(bench.store, ring(NEW, OLD), bench.clock)
    assert (tally.sealed_again, tally.unreadable) == (1, 1)
    assert tally.keys == {ring(NEW).ids[0]: 1, ring(OTHER).ids[0]: 1}
    assert (await bench.store.get("app:{x}")).version == 1


async def test_sessions_are_served_and_renewed_during_the_rotation() -> None:
    """No renewal is lost to the rotation, and none undoes it, once all instances have the newest key first."""
    vault = ring(OLD)
    bench = Bench(vault=vault)
    for user in USERS:
        await bench.sign_in(user, expires_in=100)
    bench.clock.now += 200
    bench.server.latency = 3
    vault.adopt((NEW, OLD))
    tally, *tokens = await asyncio.gather(
        rotate(bench.store, ring(NEW, OLD), bench.clock), *(bench.token(USER, user) for user in USERS)
    )
    assert not bench.server.killed
    assert set(tally.keys) <= {ring(NEW).ids[0]}
    bench.clock.now += 4000
    again = [await bench.token(USER, user) for user in USERS]
    assert {token.split(".")[1] for token in (*tokens, *again)} == set(USERS)
    assert not bench.server.killed
    vault.adopt((NEW,))
    assert await bench.broker.sessions.info("user0")
    await bench.broker.close(1)


async def test_record_that_is_written_behind_the_rotation_is_found() -> None:
    """[RD-12] An instance that has the new key only for opening signs somebody in meanwhile: the store is read again."""
    bench = Bench(vault=ring(OLD))
    await filled(bench)
    keys, looks = bench.store.keys, 0

    async def behind(prefix: str) -> list[str]:
        nonlocal looks
        found, looks = await keys(prefix), looks + 1
        if looks == 1:
            await bench.sign_in("latecomer")
        return found

    bench.store.keys = behind
    tally = await rotate(bench.store, ring(NEW, OLD), bench.clock)
    assert set(tally.keys) == set(ring(NEW).ids)
    assert looks == 3
    await bench.broker.close(1)


def test_key_that_seals_now_cannot_leave_the_ring() -> None:
    """[RD-12] A reload that would make every record unreadable is refused."""
    vault = ring(OLD)
    with pytest.raises(ValueError, match="keys rotate"):
        vault.adopt((NEW,))
    vault.adopt((NEW, OLD))
    with pytest.raises(ValueError, match="keys rotate"):
        vault.check((OLD, OTHER))
    vault.adopt((NEW,))
    assert vault.ids == ring(NEW).ids


# -- the command -------------------------------------------------------------------------------------------------------

FILE = """
providers: {{idp: {{issuer: "https://idp.test", client_id: a, client_secret: s}}}}
routes: [{{match: {{host: a}}, upstream: "https://a.test", as: user}}]
store: {{url: "{url}", keys: [{keys}]}}
"""
URLS = {"sqlite": lambda path: f"sqlite:{path}/store.db", "redis": lambda _: redis_server.standalone_url()}


@pytest.fixture(params=URLS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty store."""
    return URLS[request.param](tmp_path)


def rotated(tmp_path: Path, url: str, *keys: Secret, options: tuple[str, ...] = ()):
    """Run the command with these keys."""
    file = tmp_path / "sidecar.yaml"
    file.write_text(FILE.format(url=url, keys=", ".join(key.reveal() for key in keys)))
    return CliRunner().invoke(cli, ["keys", "rotate", "-c", str(file), *options])


def fill(url: str) -> None:
    """Put some records into a store, sealed with the old key."""

    async def work(store: Store) -> None:
        bench = Bench(store=store, vault=ring(OLD))
        bench.clock.now = time.time()
        for user in USERS[:3]:
            await bench.sign_in(user)
        await bench.broker.close(1)
        await store.close()

    async def run() -> None:
        await work(open_store(url))

    asyncio.run(run())


def test_command_rotates_and_says_which_keys_are_still_needed(tmp_path: Path, url: str) -> None:
    """Counts, exit 0, and that the old key can be taken out; it really can."""
    fill(url)
    done = rotated(tmp_path, url, NEW, OLD)
    assert done.exit_code == 0, done.output
    new, old = ring(NEW, OLD).ids
    assert done.output.splitlines() == [
        "encrypted again with the newest key: 4 records",
        f"key {new}: 4 records (the newest)",
        f"key {old}: 0 records (not used any more: take it out)",
    ]
    again = rotated(tmp_path, url, NEW, options=("--json",))
    assert (again.exit_code, json.loads(again.output)) == (0, {"sealed_again": 0, "unreadable": 0, "keys": {new: 4}})


def test_command_with_wrong_keys_changes_nothing_and_shows_none(tmp_path: Path, url: str) -> None:
    """[ST-06] One line, exit 1."""
    fill(url)
    done = rotated(tmp_path, url, NEW, OTHER)
    assert done.exit_code == 1
    assert "nothing was changed: the store was written with other keys" in done.stderr
    assert not any(key.reveal() in done.output + done.stderr for key in (OLD, NEW, OTHER))
    assert rotated(tmp_path, url, OLD).exit_code == 0


def test_command_makes_no_store(tmp_path: Path) -> None:
    """A wrong path is told, not filled."""
    done = rotated(tmp_path, f"sqlite:{tmp_path}/nothing.db", NEW)
    assert done.exit_code == 1
    assert "there is no store at" in done.stderr
    assert not (tmp_path / "nothing.db").exists()
