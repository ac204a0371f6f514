"""What changed between two configurations, and when a file did: in place, by rename, by a ConfigMap's swap."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.config import changed_routes, loading, watch
from sidecar.config.contents import digest
from sidecar.config.watch import changes
from tests.support.config import settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE = 8.0  # seconds
QUIET = 1.2  # seconds in which nothing should be reported

BASE = """\
providers: {{idp: {{issuer: https://a, client_id: app, client_secret: '{secret}'}}}}
callers: {{apps: {{billing: {{basic: '{key}'}}}}}}
routes:
  - {{name: x, match: {{host: x}}, upstream: https://x, as: app, scope: {scope}}}
  - {{name: {second}, match: {{host: y}}, upstream: https://y, as: none}}
limits: {{connections: {limit}}}
"""
SAME = {"secret": "s3cr3t-canary", "key": "k3y-canary", "scope": "a", "second": "y", "limit": "5"}


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, ()),
        ({"scope": "b"}, ("route altered: x",)),
        ({"second": "z"}, ("route added: z", "route removed: y")),
        ({"secret": "n3w-canary"}, ("providers altered: idp",)),
        ({"key": "n3w-canary"}, ("callers.apps altered: billing",)),
        ({"limit": "6"}, ("limits altered",)),
    ],
)
def test_changes_are_named_without_values(changed: dict[str, str], lines: tuple[str, ...], tmp_path: Path) -> None:
    """One line for each route, one for each other part; names only."""
    old = settings(tmp_path, BASE.format(**SAME))
    new = settings(tmp_path, BASE.format(**{**SAME, **changed}))
    assert changed_routes(old, new) == lines
    assert "canary" not in "".join(changed_routes(old, new))


def test_secret_that_is_rotated_while_the_rest_is_read_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[HR-05] Thousands of routes take seconds: a digest from the end would be of what is not in use."""

    def judge(*given: Any) -> Any:
        (tmp_path / "secret").write_text("new")
        return real(*given)

    real = loading.judge
    monkeypatch.setattr(loading, "judge", judge)
    (tmp_path / "secret").write_text("old")
    made = settings(tmp_path, BASE.format(**{**SAME, "secret": "${file:secret}"}))
    assert made.providers["idp"].client_secret.reveal() == "old"
    assert made.seen != digest(made.files)


@pytest.fixture(autouse=True)
def _without_looking_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the system's own word counts here, not the look now and then that stands in for it."""
    monkeypatch.setattr(watch, "LOOK_ANYWAY", 3600.0)


@contextlib.asynccontextmanager
async def watching(*files: Path, seen: str | None = None) -> AsyncIterator[asyncio.Queue[None]]:
    """Collect the words of a watcher; give it a moment to begin."""
    words: asyncio.Queue[None] = asyncio.Queue()

    async def collect() -> None:
        async for _ in changes([str(file) for file in files], seen):
            words.put_nowait(None)

    task = asyncio.create_task(collect())
    await asyncio.sleep(0.3)
    try:
        yield words
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)


async def told(words: asyncio.Queue[None]) -> bool:
    """Whether a word comes in time."""
    try:
        await asyncio.wait_for(words.get(), PATIENCE)
    except TimeoutError:
        return False
    return True


async def quiet(words: asyncio.Queue[None]) -> bool:
    """Whether nothing more is said for a while."""
    try:
        await asyncio.wait_for(words.get(), QUIET)
    except TimeoutError:
        return True
    return False


async def test_watcher_tells_of_writes_and_renames_and_nothing_else(tmp_path: Path) -> None:
    """[HR-05] In place, by rename, deleted and made again: a word each; a touch or a neighbour's file: none."""
    file = tmp_path / "sidecar.yaml"
    file.write_text("one")
    async with watching(file) as words:
        file.write_text("two")
        assert await told(words), "written in place"
        (tmp_path / "new").write_text("three")
        (tmp_path / "new").rename(file)
        assert await told(words), "replaced by rename"
        file.write_text("four")
        assert await told(words), "written after the rename"
        file.touch()
        (tmp_path / "other").write_text("x")
        file.write_text("four")
        assert await quiet(words), "nothing changed"
        file.unlink()
        assert await told(words), "deleted"
        file.write_text("five")
        assert await told(words), "made again"


async def test_watcher_tells_of_every_configmap_swap(tmp_path: Path) -> None:
    """[HR-05] Kubernetes swaps the link `..data` to a new folder and removes the old one; the second swap counts too."""

    def publish(version: str) -> None:
        folder = tmp_path / f"..{version}"
        folder.mkdir()
        (folder / "sidecar.yaml").write_text(version)
        os.symlink(folder.name, tmp_path / "..data_tmp")  # noqa: PTH211
        old = (tmp_path / "..data").resolve() if (tmp_path / "..data").exists() else None
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")
        if old is not None:
            (old / "sidecar.yaml").unlink()
            old.rmdir()

    publish("1")
    file = tmp_path / "sidecar.yaml"
    os.symlink("..data/sidecar.yaml", file)  # noqa: PTH211
    async with watching(file) as words:
        for version in ("2", "3"):
            publish(version)
            assert await told(words), version
            assert file.read_text() == version
        assert await quiet(words)


async def test_watcher_follows_a_link_to_another_folder(tmp_path: Path) -> None:
    """A file changed where the link leads to is a change."""
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    target = tmp_path / "far/real.yaml"
    target.write_text("one")
    os.symlink(target, tmp_path / "near/sidecar.yaml")  # noqa: PTH211
    async with watching(tmp_path / "near/sidecar.yaml") as words:
        target.write_text("two")
        assert await told(words)


async def test_watcher_is_told_what_was_read_and_misses_nothing(tmp_path: Path) -> None:
    """A change between reading and watching is reported at once."""
    file = tmp_path / "sidecar.yaml"
    file.write_text("one")
    seen = digest([str(file)])
    file.write_text("two")
    async with watching(file, seen=seen) as words:
        assert await told(words)
        assert await quiet(words)


async def test_watcher_without_a_folder_waits(tmp_path: Path) -> None:
    """A folder that is not there is no fault; `digest` tells absence from contents."""
    assert digest([str(tmp_path / "no/x")]) == digest([str(tmp_path / "no/x")])
    (tmp_path / "x").write_text("")
    assert digest([str(tmp_path / "x")]) != digest([str(tmp_path / "y")])
    async with watching(tmp_path / "no/x") as words:
        assert words.empty()


async def test_watcher_looks_now_and_then_where_the_system_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that appears later, or a network mount: found out by looking."""
    monkeypatch.setattr(watch, "LOOK_ANYWAY", 0.2)
    async with watching(tmp_path / "later/x") as words:
        (tmp_path / "later").mkdir()
        (tmp_path / "later/x").write_text("x")
        assert await told(words)
