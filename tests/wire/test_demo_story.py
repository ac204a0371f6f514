"""`sidecar demo` end to end: the whole product, its own authorization server and API, in one run."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from sidecar.demo import story
from sidecar.demo.layout import Check, Scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FACTS = (
    '401: the API asks for a token (Bearer realm="demo-api")',
    "~ GET /stats HTTP/1.1",
    "subject legacy-app, scope stats.read",
    "subject alice, scope profiles.read",
    "subject bob, scope profiles.read",
    "the session id stayed with the sidecar; the other cookie arrived",
    "each answered 200 at the first try",
    "one token request, in the background (refresh_token, rotated)",
    "the API refused the old token and took the new one",
    "401 login_required: the sidecar's own answer, and it says so",
    "7 of 7 steps as they should be",
)


async def test_demo_once_is_right_in_all_steps_and_shows_them() -> None:
    """Every fact holds, in under ten seconds, in 100 columns, without a token on the screen."""
    out, begun = io.StringIO(), time.monotonic()
    assert await story.run(once=True, out=out) == 0, out.getvalue()
    text = out.getvalue()
    assert time.monotonic() - begun < 10
    flat = re.sub(r"\s+", " ", text)
    assert [fact for fact in FACTS if fact not in flat] == []
    assert "✗" not in text
    assert "eyJ" not in text
    assert max(len(line) for line in text.splitlines()) <= 100


class Screen(io.StringIO):
    """A stream that tells when the last line was written."""

    def __init__(self) -> None:
        super().__init__()
        self.ready = asyncio.Event()

    def flush(self) -> None:
        if "Ctrl-C ends it." in self.getvalue():
            self.ready.set()


class Dummy:
    """What the opening and the closing words need of a stage."""

    five_lines = "providers: {}\n"
    proxy = admin = "127.0.0.1:1"
    admin_token = "admin-token"
    sessions: ClassVar[dict[str, str]] = {}
    server = SimpleNamespace(issuer="http://127.0.0.1:1")


@asynccontextmanager
async def dummy_stage() -> AsyncIterator[Dummy]:
    """Stand in for the stage: nothing runs on it."""
    yield Dummy()


async def breaks_off(_stage: Dummy) -> Scene:
    """Fail as a scene does whose server is gone."""
    raise ConnectionRefusedError


async def is_wrong(_stage: Dummy) -> Scene:
    """Show one right and one wrong fact."""
    return Scene("Wrong", "", (), (), (Check("good", right=True), Check("bad", right=False)))


async def is_right(_stage: Dummy) -> Scene:
    """Show one right fact."""
    return Scene("Right", "", (), (), (Check("good", right=True),))


@pytest.mark.parametrize(("scenes", "code"), [((breaks_off, is_right), 1), ((is_right, is_wrong), 1), ((is_right,), 0)])
async def test_demo_once_exits_1_when_a_step_is_wrong(
    monkeypatch: pytest.MonkeyPatch, scenes: tuple[Any, ...], code: int
) -> None:
    """A wrong fact or a broken step is marked, the following ones are still told, and the exit code says it."""
    monkeypatch.setattr(story, "SCENES", scenes)
    monkeypatch.setattr(story, "stage", dummy_stage)
    out = io.StringIO()
    assert await story.run(once=True, out=out) == code
    assert ("✗" in out.getvalue()) == bool(code)
    assert "✓ good" in out.getvalue()
    assert f"1 of {len(scenes)} steps as they should be" in out.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_demo_stays_up_until_it_is_interrupted(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Without --once it prints what to try and ends quietly at a signal."""
    monkeypatch.setattr(story, "SCENES", (is_right,))
    monkeypatch.setattr(story, "stage", dummy_stage)
    out = Screen()
    telling = asyncio.create_task(story.run(once=False, out=out))
    async with asyncio.timeout(5):
        await out.ready.wait()
        assert not telling.done()
        signal.raise_signal(number)
        assert await telling == 0
    assert "curl -x http://127.0.0.1:1 http://stats.internal/stats" in out.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_demo_command_stopped_midway_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """A signal in the middle of the story ends it with 1, without a traceback and without a temporary folder."""
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "demo"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert running.stdout is not None
    async with asyncio.timeout(30):
        await running.stdout.readuntil(b"Without the sidecar")
        running.send_signal(number)
        _out, err = await running.communicate()
    assert (running.returncode, err) == (1, b"")
    assert left_in(tmp_path) == []


def left_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder."""
    return [entry.name for entry in folder.iterdir()]
