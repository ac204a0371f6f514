"""The short forms of the programs about streams and floods. The full forms are in docs/soak.md."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.process import Backdrop, Process, cpu_seconds
from tests.support.raw import Raw
from tests.support.recording_upstream import response
from tests.support.soaking import programs

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = 120.0
GET = b"GET /x HTTP/1.1\r\nHost: any.internal\r\n\r\n"
SHORT = {
    "STR-01 PD-14 SSE-01 WS-01 streams": "streams --mebibytes 96 --seconds 2 --largest 1 --late 60",
    "SL-01 SL-02 SL-03 SL-04 floods": "floods --kinds mixed --connections 200 --rounds 1 --seconds 0.5 --ratio 10000",
}
"""Programs and arguments by what they show; neither lateness nor ratio is judged on a machine that does other work."""
CONFIGURATION = """
listeners: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
store: {url: "memory:"}
limits: {connections: 1000}
routes: [{match: {path: /}, upstream: "http://127.0.0.1:UPSTREAM", as: none}]
"""


@pytest.fixture(scope="module")
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All programs, started at once; gone at the end with their processes, which the kernel ties to them."""
    with programs(SHORT) as started:
        yield started


@pytest.mark.parametrize("name", SHORT, ids=[f"[{name}]" for name in SHORT])
def test_streams_and_floods_cost_no_memory_and_harm_no_one(
    running: dict[str, subprocess.Popen[str]], name: str
) -> None:
    """Equal bytes, flat memory, every event, whole WebSocket messages; good traffic answered, descriptors given back."""
    out, errors = running[name].communicate(timeout=LONGEST)
    assert out, errors
    assert json.loads(out)["ok"], out


@pytest.fixture
def backdrop() -> Iterator[Backdrop]:
    with Backdrop() as made:
        made.upstream.default = [response(b"here")]
        yield made


def _text(backdrop: Backdrop) -> str:
    return CONFIGURATION.replace("UPSTREAM", str(backdrop.upstream.port))


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_limit_of_descriptors_is_raised_at_the_start_and_by_a_reload(tmp_path: Path, backdrop: Backdrop) -> None:
    """[OV-03 HR-01] A soft limit that is too low for `limits.connections` is raised as far as the hard one lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sidecar = Process(tmp_path, _text(backdrop))
    sidecar.descriptors = 256
    with sidecar:
        assert resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 2 * 1000 + 256)
        sidecar.file.write_text(_text(backdrop).replace("connections: 1000", "connections: 1500"))
        sidecar.signal(signal.SIGHUP)
        sidecar.told("configuration_reloaded")
        assert resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 2 * 1500 + 256)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's")
def test_few_descriptors_serve_few_connections_whole_and_tell_the_others(tmp_path: Path, backdrop: Backdrop) -> None:
    """[OV-03] With 64 descriptors 16 connections are taken, each can reach its upstream; later all is as before."""
    with Process(tmp_path, _text(backdrop)) as sidecar, contextlib.ExitStack() as stack:
        resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE, (64, 64))
        sidecar.signal(signal.SIGHUP)
        sidecar.told("configuration_reloaded")
        port = int(sidecar.proxy.rpartition(":")[2])
        served, told = 0, 0
        for _ in range(24):
            answer = stack.enter_context(Raw(port)).send(GET).answer()
            served += answer is not None and answer.body == b"here"
            told += answer is not None and (answer.status, answer.all(b"retry-after")) == (503, [b"1"])
        assert (served, told) == (16, 8)
        before = cpu_seconds(sidecar.process.pid)
        time.sleep(0.5)
        assert cpu_seconds(sidecar.process.pid) - before < 0.3
        stack.close()
        for _ in range(100):
            with Raw(port) as client:
                answer = client.send(GET).answer()
            if answer is not None and answer.status == 200:
                return
            time.sleep(0.05)
        pytest.fail("never served again")
