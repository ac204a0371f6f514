"""A change of the file that a signal announces: read once, its warnings in the log."""

from __future__ import annotations

import asyncio
import gc
import signal
import weakref
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from sidecar import process
from sidecar.config import ConfigError, apart
from tests.support.program import ENVIRON, until, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.settings import Settings
    from tests.support.program import Whole


def append(run: Whole, line: str) -> None:
    """Write one more line to the configuration file."""
    with Path(run.program.path).open("a") as file:
        file.write(line)


async def word_of_a_change(_files: object, _seen: object) -> AsyncIterator[None]:
    """Yield once, as the watch does when the files were written."""
    yield
    await asyncio.Event().wait()


async def watched(run: Whole) -> int:
    """Return how often the watch asks for a reload upon that word."""
    asked: list[None] = []

    async def reload() -> None:
        asked.append(None)

    with suppress(TimeoutError):
        await asyncio.wait_for(run.program.watch(reload), 0.05)
    return len(asked)


@pytest.mark.parametrize("signalled", [True, False])
async def test_change_that_a_signal_had_read_is_not_read_again(
    signalled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[HR-05] SIGHUP after a write: one reload; without it the watch asks for the one."""
    monkeypatch.setattr("sidecar.program.changes", word_of_a_change)
    async with whole(tmp_path) as run:
        append(run, "# changed\n")
        if signalled:
            assert await run.program.reload(ENVIRON)
        assert await watched(run) == (0 if signalled else 1)


async def test_admin_token_that_is_replaced_opens_nothing_any_more(tmp_path: Path) -> None:
    """[HR-06] A reload takes the new one, and keeps no one else from being taken; the address stays."""
    async with whole(tmp_path) as run:
        assert (await run.admin("GET", "/v1/sessions")).status == 200
        assert await run.program.reload({**ENVIRON, "ADMIN_TOKEN": "another-admin-token"})
        assert (await run.admin("GET", "/v1/sessions")).status == 401
        headers = [("Authorization", "Bearer another-admin-token"), ("Host", "127.0.0.1")]
        assert (await run.ask("/v1/sessions", headers, port=run.program.admin_port)).status == 200
        append(run, "workers: 2\n")
        assert not await run.program.reload(ENVIRON)
        assert "workers" in run.program.error


async def test_providers_of_former_configurations_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[HR-01] A secret or a certificate that is rotated every hour leaves nothing behind but the last ones."""
    monkeypatch.setattr("sidecar.provider_http.KEEP_ALIVE", 0.0)
    async with whole(tmp_path) as run:
        former = []
        for number in range(3):
            former.append(weakref.ref(run.program.providers["idp"]))
            assert (await run.ask("http://stats.internal/")).status in (200, 502)
            assert await run.program.reload({**ENVIRON, "CLIENT_SECRET": f"secret-{number}"})
        await until(lambda: not gc.collect() and former[0]() is former[1]() is None)


async def test_counters_go_on_through_a_reload(tmp_path: Path) -> None:
    """Those of a provider whose secret was rotated, and of what is forwarded without a route: none goes back."""
    async with whole(tmp_path, more="unmatched: forward") as run:
        assert (await run.ask("http://stats.internal/")).status == 200
        assert (await run.ask(f"http://127.0.0.1:{run.upstream.port}/")).status == 401
        assert await run.program.reload({**ENVIRON, "CLIENT_SECRET": "another"})
        text = (await run.admin("GET", "/metrics")).body.decode()
        assert 'sidecar_requests_total{route="(unmatched)",status_class="4xx"} 1' in text
        assert 'sidecar_token_requests_total{provider="idp",result="granted"} 1' in text


async def test_warnings_of_a_reload_are_logged(tmp_path: Path) -> None:
    """What `check` warns of is in the log after a reload, as after a start."""
    async with whole(tmp_path) as run:
        append(run, "limits: {headers: 512}\n")
        with capture_logs() as lines:
            assert await run.program.reload(ENVIRON)
        assert ["limits.headers of 512" in line["warning"] for line in lines if "warning" in line] == [True]


@asynccontextmanager
async def watching(folder: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[Whole]:
    """Run everything, and look often for changed files."""
    patch.setattr("sidecar.config.watch.LOOK", 0.01)
    patch.setattr("sidecar.config.watch.QUIET", 0.01)
    async with whole(folder) as run:
        watcher = asyncio.create_task(run.program.watch(partial(run.program.reload, ENVIRON)))
        await asyncio.sleep(0)  # it has looked once
        try:
            yield run
        finally:
            watcher.cancel()


async def test_secret_that_comes_after_the_configuration_naming_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[HR-02] Refused while the file is not there; taken when it is, without another word; its changes are noticed."""
    async with watching(tmp_path, monkeypatch) as run:
        append(run, "via: ${file:late}\n")
        await until(lambda: run.program.error)
        for text in ("one", "another"):
            await asyncio.to_thread((tmp_path / "late").write_text, text)
            await until(lambda text=text: run.program.settings.via == text)
        assert not run.program.error


async def test_secret_that_comes_while_the_configuration_is_refused_for_want_of_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[HR-02] Nobody could watch the file before: what counts is what it held when it was looked for."""

    def load(*given: Any) -> Settings:
        try:
            return real(*given)
        except ConfigError:
            (tmp_path / "late").write_text("come")
            raise

    real = apart.load
    monkeypatch.setattr(apart, "load", load)
    async with watching(tmp_path, monkeypatch) as run:
        append(run, "via: ${file:late}\n")
        await until(lambda: run.program.settings.via == "come")


async def test_file_that_was_another_for_as_long_as_it_was_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[HR-05] A change and its withdrawal at once: what is in use is what the file holds, or is about to be."""

    def load(*given: Any) -> Settings:
        monkeypatch.setattr(apart, "load", real)
        file = Path(given[0])
        text = file.read_text()
        file.write_text(text.replace("via: one", "via: two"))
        try:
            return real(*given)
        finally:
            file.write_text(text)

    real = apart.load
    monkeypatch.setattr(apart, "load", load)
    async with watching(tmp_path, monkeypatch) as run:
        append(run, "via: one\n")
        await until(lambda: run.program.settings.via == "two")
        await until(lambda: run.program.settings.via == "one")


async def test_files_that_a_signal_brought_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[HR-05] The watch notices the change while the signal's reload is still reading: it looks at the new files too."""
    secret = tmp_path / "secret"
    async with watching(tmp_path, monkeypatch) as run:
        await asyncio.to_thread(secret.write_text, "one")
        append(run, "via: ${file:secret}\n")
        assert await run.program.reload(ENVIRON)
        await asyncio.to_thread(secret.write_text, "another")
        await until(lambda: run.program.settings.via == "another")


async def test_signals_during_a_reload_are_one_more_reload() -> None:
    """A storm of SIGHUP costs as many reloads as can begin one after the other; the last signal is not lost."""
    began, go_on = 0, asyncio.Event()

    async def reload() -> None:
        nonlocal began
        began += 1
        await go_on.wait()

    process.on_signals(asyncio.Event(), reload)
    try:
        for _ in range(20):
            signal.raise_signal(signal.SIGHUP)
            await asyncio.sleep(0)
        await until(lambda: began == 1)
        go_on.set()
        await until(lambda: began == 2)
        await asyncio.sleep(0)
        assert began == 2
        signal.raise_signal(signal.SIGHUP)
        await until(lambda: began == 3)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().remove_signal_handler(number)


async def test_change_is_noticed_after_one_that_found_no_thread_to_be_read_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[HR-02] A system without a thread left is a reload that failed, said as one; the files go on being watched."""

    async def refused(*_given: object) -> None:
        raise RuntimeError("can't start new thread")

    async with watching(tmp_path, monkeypatch) as run:
        with monkeypatch.context() as tight:
            tight.setattr(asyncio, "to_thread", refused)
            append(run, "via: one\n")
            await until(lambda: run.program.error)
        append(run, "access_log: true\n")
        await until(lambda: run.program.settings.access_log and not run.program.error)


async def test_change_while_the_sidecar_starts_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[HR-05] Written after it was read and before anybody looks for changes: a store that is away makes that long."""
    monkeypatch.setattr("sidecar.config.watch.LOOK", 0.01)
    monkeypatch.setattr("sidecar.config.watch.QUIET", 0.01)
    async with whole(tmp_path) as run:
        append(run, "via: someone\n")
        watcher = asyncio.create_task(run.program.watch(partial(run.program.reload, ENVIRON)))
        await until(lambda: run.program.settings.via == "someone")
        watcher.cancel()
