"""Where a token could get out beside the request that it is for: echoes of an upstream, and what a crash leaves."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.process import Backdrop, Process
from tests.support.program import text
from tests.support.recording_upstream import response

if TYPE_CHECKING:
    from tests.support.recording_upstream import Seen, Step

STATS = "http://stats.internal/x"


def echo(seen: Seen) -> list[Step]:
    """Return what came, in the body, in a header and in the challenge of an error."""
    (credential,) = seen.all(b"authorization")
    return [response(credential, 500, b"X-Echo: " + credential, b'WWW-Authenticate: Basic realm="' + credential + b'"')]


def test_token_that_an_upstream_echoes_is_passed_on_and_never_logged(backdrop: Backdrop, tmp_path: Path) -> None:
    """[LK-04] The response is the upstream's own, byte for byte; no log line at any level has a part of it."""
    more = "access_log: true"
    backdrop.do(lambda: setattr(backdrop.upstream, "default", echo))
    with Process(tmp_path, text(backdrop.server, backdrop.upstream, more=more), level="debug") as sidecar:
        answer = sidecar.ask(STATS)
        sidecar.terminate()
        logged = sidecar.log.read_text() + sidecar.out.read_text()
    token = re.fullmatch(r"Bearer (\S{20,})", answer.body.decode())
    assert answer.status == 500
    assert token is not None
    assert '"event":"request"' in logged.replace(" ", "")
    assert token[1] not in logged
    assert token[1][:20] not in logged


def test_crash_leaves_no_core(backdrop: Backdrop, tmp_path: Path) -> None:
    """[LK-16] It would hold every token: the limit is 0, and nothing lies about after the crash."""
    with Process(tmp_path, text(backdrop.server, backdrop.upstream)) as sidecar:
        limits = Path(f"/proc/{sidecar.process.pid}/limits").read_text()
        assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
        sidecar.signal(signal.SIGABRT)
        assert sidecar.ended() == -signal.SIGABRT
    assert not [file.name for file in tmp_path.iterdir() if "core" in file.name]
