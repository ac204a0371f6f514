"""Where the program runs: as the first process of a container, and with another HTTP parser than the tested one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.process import DEADLINE, Process
from tests.support.program import ENVIRON, text
from tests.support.same_sidecar import SAME_SIDECAR

if TYPE_CHECKING:
    from tests.support.process import Backdrop

STATS = "http://stats.internal/x"
CONTAINED = ("unshare", "--user", "--map-user=65534", "--map-group=65534", "--pid", "--fork", "--kill-child")
LOGIN = (
    'login: {bind: "127.0.0.1:0", public_url: "http://127.0.0.1:1", scope: openid, return_to: ["http://127.0.0.1:1/"]}'
)


def can_contain() -> bool:
    """Say whether this system lets us make namespaces."""
    return (
        bool(shutil.which("unshare"))
        and not subprocess.run([*CONTAINED, "true"], capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not can_contain(), reason="no user and process namespaces here")
def test_first_process_of_a_container_serves_and_ends_when_told(backdrop: Backdrop, tmp_path: Path) -> None:
    """[LC-06] As process 1, with uid 65534, where nothing can be written: it serves, and ends with 0 on SIGTERM."""
    sidecar = Process(tmp_path, text(backdrop.server, backdrop.upstream))
    tmp_path.chmod(0o555)
    command = [*CONTAINED, sys.executable, "-m", "sidecar", "run", "-c", str(sidecar.file)]
    environ = {**ENVIRON, "PATH": os.environ["PATH"], **SAME_SIDECAR, "PYTHONDONTWRITEBYTECODE": "1"}
    with sidecar.log.open("wb") as log, subprocess.Popen(command, stderr=log, env=environ, cwd=tmp_path) as process:
        try:
            sidecar.process = process
            told = sidecar.told("started")
            [first] = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
            status = Path(f"/proc/{first}/status").read_text()
            assert [line.split()[-1] for line in status.splitlines() if line.startswith("NSpid")] == ["1"]
            assert [line.split()[-1] for line in status.splitlines() if line.startswith("CapEff")] == ["0" * 16]
            assert sidecar.ask(STATS, at=told["listeners"][0]).status == 200
            os.kill(first, signal.SIGTERM)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()
            tmp_path.chmod(0o755)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "sidecar.yaml"]


def test_sign_in_without_the_c_parser_is_refused_at_start(backdrop: Backdrop, tmp_path: Path) -> None:
    """[CF-16] aiohttp's own parser in Python reads otherwise than llhttp: the start fails and says why."""
    configuration = text(backdrop.server, backdrop.upstream, more=LOGIN)
    environ = {**ENVIRON, "AIOHTTP_NO_EXTENSIONS": "1"}
    with Process(tmp_path, configuration, environ=environ, wait=False) as sidecar:
        assert sidecar.ended() == 1
        assert "C parser" in sidecar.log.read_text()
        assert "started" not in sidecar.log.read_text()
