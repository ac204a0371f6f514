"""The keys of the store change while the program serves from it: reloads, and the rotation from outside."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from click.testing import CliRunner

from sidecar.cli import cli
from sidecar.credentials.vault import generate_key
from tests.support.program import ENVIRON, Whole, whole

if TYPE_CHECKING:
    from pathlib import Path

PROFILES = "http://profiles.internal/me"
OLD, NEW, OTHER = (generate_key() for _ in range(3))


async def reloaded(run: Whole, folder: Path, *keys: str) -> bool:
    """Put these keys into the file and have it read."""
    path = folder / "sidecar.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("store:")]
    path.write_text("\n".join([*lines, store(folder, *keys)]) + "\n")
    return await run.program.reload(ENVIRON)


def store(folder: Path, *keys: str) -> str:
    return f'store: {{url: "sqlite:{folder}/store.db", keys: [{", ".join(keys)}]}}'


async def test_keys_change_while_serving(tmp_path: Path) -> None:
    """[RD-12, HR-06] The new key first, `keys rotate`, the old one out: each step by a reload, no request refused."""
    async with whole(tmp_path, more=store(tmp_path, OLD)) as run:
        await run.sign_in("alice", "a-session")
        served = [(await run.ask(PROFILES, session="a-session")).status]
        assert not await reloaded(run, tmp_path, NEW)
        assert "keys rotate" in run.program.error
        assert await reloaded(run, tmp_path, NEW, OLD)
        await run.sign_in("bob", "b-session")
        command = ["keys", "rotate", "-c", str(tmp_path / "sidecar.yaml")]
        rotating = asyncio.create_task(asyncio.to_thread(CliRunner(env=ENVIRON).invoke, cli, command))
        while not rotating.done():
            served.append((await run.ask(PROFILES, session="a-session")).status)
        assert rotating.result().exit_code == 0, rotating.result().output
        assert await reloaded(run, tmp_path, NEW)
        run.clock.ahead += 4000
        served += [(await run.ask(PROFILES, session=f"{user}-session")).status for user in "ab"]
        assert set(served) == {200}
        assert not await reloaded(run, tmp_path, OTHER)
        assert not await reloaded(run, tmp_path)
