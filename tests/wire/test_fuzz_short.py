"""A short form of `make fuzz`: some thousand mutated cases in process, some hundred over sockets [SM-29]."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import sockets
from fuzz.far_side import HAPROXY, NGINX

ROOT = Path(__file__).parents[2]
FOUND = sorted((ROOT / "fuzz" / "seeds" / "found").glob("*.json"))


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer in a process of its own: it is alone with its event loop there."""
    command = [sys.executable, "-m", "fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("target", "count"), [("wire", 2000), ("admin", 1000), ("provider", 1000)])
def test_mutated_streams_keep_every_promise(target: str, count: int, tmp_path: Path) -> None:
    """Some thousand mutated requests and responses in process: no exception, no desync, no leak, nothing left."""
    ran = fuzz(target, "--count", str(count), "--seed", "2026", "--jobs", "1", "--keep", str(tmp_path))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{count} cases" in ran.stdout
    assert " 0 found" in ran.stdout


@pytest.mark.parametrize("path", FOUND, ids=[path.stem for path in FOUND])
def test_a_case_that_was_found_once_is_found_no_more(path: Path) -> None:
    """Every case that once broke a promise is played again."""
    ran = fuzz("--replay", str(path))
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr


@pytest.mark.skipif(not (NGINX and HAPROXY), reason="needs the Debian packages nginx and haproxy")
def test_nginx_haproxy_and_h11_see_the_same_requests(tmp_path: Path) -> None:
    """[SM-29] Mutated requests through a real sidecar to real servers: all see one list, each caller its own answer."""
    running = asyncio.run(sockets.run(300, 2026, tmp_path))
    assert running.found == []
    assert running.sent == 300
    assert running.forwarded > 200
