"""[LK-00] Canaries: every secret of a busy day is unique, and none of them is found anywhere but where it must be.

One process at debug level goes through everything that touches a secret: start, sessions, tokens, renewals, rejections,
faults of the provider and of the upstream, refusals, a reload of a broken file, explain, the status page, a kill. Then
all that it wrote, said and showed is searched, in every spelling of `canary_search`, by pieces. `make canary` does the
same with everything that all tests of the whole program go through.
"""

from __future__ import annotations

import base64
import json
import os
import quopri
import signal
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.authorization_server import Client
from tests.support.canary_record import is_store
from tests.support.canary_search import Finder, places
from tests.support.process import ROOT, Process
from tests.support.program import guarded, head, seen, text
from tests.support.recording_upstream import Fin, response
from tests.support.same_sidecar import SAME_SIDECAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.canary_search import Hit
    from tests.support.process import Backdrop

CLIENT_SECRET = "canary-client-secret-8d21"
ADMIN_TOKEN = "canary-admin-token-77aa"
BILLING_KEY = "canary-billing-key-0c4e"
REPORTS_KEY = "canary-reports-key-5b19"
SESSION, OTHER_SESSION = "canary-session-alice-e3f0", "canary-session-bob-91d2"
CALLERS_OWN = "canary-callers-own-token-2f6b"
QUERY = "canary-query-credential-b8b8"
GIVEN = [CLIENT_SECRET, ADMIN_TOKEN, BILLING_KEY, REPORTS_KEY, SESSION, OTHER_SESSION, CALLERS_OWN]
ENVIRON = {
    "CLIENT_SECRET": CLIENT_SECRET, "ADMIN_TOKEN": ADMIN_TOKEN, "BILLING_KEY": BILLING_KEY, "REPORTS_KEY": REPORTS_KEY,
}  # fmt: skip
MORE = """access_log: true
callers:
  session: [{{cookie: sidecar_session}}, {{header: X-Session-Id}}]
  apps:
    billing: {{basic: "${{BILLING_KEY}}"}}
    reports: {{header: X-Api-Key, key: "${{REPORTS_KEY}}"}}
store: {{url: "sqlite:{folder}/sidecar.db"}}
"""
STATS, PROFILES = "http://stats.internal/x", "http://profiles.internal/x"
BASIC = {"Proxy-Authorization": f"Basic {base64.b64encode(f'billing:{BILLING_KEY}'.encode()).decode()}"}
FAULTS = [
    {"down": True}, {"status": 500}, {"html": True}, {"line_feed": True}, {"truncated": True}, {"error": "invalid_client"},
    {"expires_in": -1},
]  # fmt: skip


class Day:
    """What was answered, shown and written."""

    def __init__(self, sidecar: Process, backdrop: Backdrop) -> None:
        self.sidecar = sidecar
        self.backdrop = backdrop
        self.texts: dict[str, bytes] = {}

    def ask(self, name: str, target: str, headers: dict[str, str], **how: object) -> int:
        """Send a request; what comes back is searched, unless it is the upstream's own."""
        answer = self.sidecar.ask(target, {**BASIC, **headers}, **how)  # type: ignore[arg-type]
        self.texts[f"answer {name} {len(self.texts)}"] = str(dict(answer.headers)).encode() + answer.body
        return answer.status

    def manage(self, method: str, path: str, document: object = None, token: str = ADMIN_TOKEN) -> int:
        """Send a request to the admin listener; what comes back is searched."""
        answer = self.sidecar.manage(method, path, document, token)
        self.texts[f"admin {method} {path.partition('?')[0]} {len(self.texts)}"] = answer.body
        return answer.status

    def raw(self, name: str, data: bytes) -> None:
        """Send bytes that are no good request."""
        host, _, port = self.sidecar.proxy.rpartition(":")
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            self.texts[f"raw {name}"] = b"".join(iter(lambda: sock.recv(65536), b""))

    def command(self, *arguments: str, line: str = "") -> None:
        """Run another command of the program beside it."""
        env = {"PATH": os.environ["PATH"], **SAME_SIDECAR, **ENVIRON}
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", *arguments],
            input=line.encode(), capture_output=True, timeout=60, env=env, cwd=self.sidecar.folder, check=False,
        )  # fmt: skip
        self.texts[f"command {arguments[0]} {len(self.texts)}"] = done.stdout + done.stderr


@pytest.fixture(scope="module")
def day(backdrop: Backdrop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """Live through it once; the tests search."""
    folder = tmp_path_factory.mktemp("canary")
    backdrop.server.register(Client("legacy-app", CLIENT_SECRET))
    configuration = text(backdrop.server, backdrop.upstream, more=MORE.format(folder=folder), patience="300ms")
    with Process(folder, configuration, environ=ENVIRON, level="debug") as sidecar:
        lived = Day(sidecar, backdrop)
        for live in (sign_in, use, misuse, meet_faults, administer, end):
            live(lived)
        yield lived


def sign_in(day: Day) -> None:
    """Two users."""
    for user, session in (("alice", SESSION), ("bob", OTHER_SESSION)):
        tokens = day.backdrop.do(
            lambda user=user: day.backdrop.server.issue(user, "profiles.read openid", "legacy-app")
        )
        assert day.manage("PUT", f"/v1/sessions/{session}", tokens) == 200


def use(day: Day) -> None:
    """Tokens bought, renewed after a rejection, sent."""
    assert day.ask("app", STATS, {}) == 200
    assert day.ask("header", PROFILES, {"X-Session-Id": SESSION}) == 200
    assert day.ask("cookie", PROFILES, {"Cookie": f"a=1; sidecar_session={OTHER_SESSION}"}) == 200
    day.backdrop.do(day.backdrop.server.revoke)
    assert day.ask("rejected", PROFILES, {"X-Session-Id": SESSION}, method="POST", body=b"x") == 200
    assert day.ask("with a query", f"{STATS}?code={QUERY}", {"Authorization": f"Bearer {CALLERS_OWN}"}) == 200


def misuse(day: Day) -> None:
    """Requests that are refused, each with something secret in it."""
    assert day.ask("no route", f"http://{SESSION}.internal/x?{SESSION}", {"X-Session-Id": SESSION}) == 403
    assert day.ask("unknown session", PROFILES, {"X-Session-Id": CALLERS_OWN}) == 401
    assert day.ask("malformed session", PROFILES, {"X-Session-Id": f"{SESSION} x"}) == 401
    assert day.ask("two sessions", PROFILES, {"X-Session-Id": SESSION, "x-session-id": OTHER_SESSION}) == 400
    assert day.ask("token in the query", f"{STATS}?access_token={CALLERS_OWN}", {}) == 400
    assert day.ask("trace", STATS, {"X-Session-Id": SESSION}, method="TRACE") == 403
    assert day.sidecar.ask(STATS, {"X-Api-Key": CALLERS_OWN}).status == 407
    day.raw("userinfo", head("GET", f"http://u:{CALLERS_OWN}@stats.internal/"))
    day.raw("broken line", f"GET {STATS} HTTP/1.1\r\nHost: a\r\nX-Session-Id {SESSION}\r\n\r\n".encode())
    day.raw("cut off", f"GET {STATS} HTTP/1.1\r\nHost: a\r\nX-Session-Id: {SESSION}".encode())


def meet_faults(day: Day) -> None:
    """The provider and the upstream at fault while tokens are needed."""
    server, upstream = day.backdrop.server, day.backdrop.upstream
    for fault in FAULTS:
        day.backdrop.do(server.revoke)
        day.backdrop.do(lambda fault=fault: server.faults.change(**fault))
        day.ask(f"fault {fault}", STATS, {})
        day.ask(f"fault {fault}", PROFILES, {"X-Session-Id": SESSION})
        day.backdrop.do(server.faults.clear)
    upstream.default = lambda _: [b"not HTTP " + SESSION.encode() + b"\r\n\r\n", Fin]
    day.ask("upstream nonsense", STATS, {})
    upstream.default = lambda one: [response(b"echo", 401, *[b"X-Echo: " + v for v in one.all(b"x-kept")])]
    day.ask("upstream 401", PROFILES, {"Cookie": f"sidecar_session={OTHER_SESSION}"})
    upstream.default = guarded(server)


def administer(day: Day) -> None:
    """Everything that shows something."""
    for path in (
        "/",
        "/metrics",
        "/readyz",
        "/healthz",
        "/v1/sessions",
        f"/v1/sessions/{SESSION}",
        "/v1/sessions/nobody",
    ):
        day.manage("GET", path)
        day.manage("GET", path, token=CALLERS_OWN)
    for url in (PROFILES, STATS, f"http://nowhere.internal/{QUERY}"):
        question = {"method": "GET", "url": url, "session": SESSION, "headers": [["X-Api-Key", REPORTS_KEY]]}
        assert day.manage("POST", "/v1/explain", question) == 200
    assert day.manage("PUT", "/v1/sessions/broken", {"access_token": f"{CALLERS_OWN} x", "token_type": "Bearer"}) == 400
    day.command("check", "sidecar.yaml")
    day.command("routes", "-c", "sidecar.yaml")
    day.command("explain", "-c", "sidecar.yaml", "GET", PROFILES, "--session", "-", line=SESSION + "\n")
    day.command("sessions", "list", "-c", "sidecar.yaml", "--admin", f"http://{day.sidecar.admin}")
    good = day.sidecar.file.read_text()
    day.sidecar.file.write_text(good.replace("as: app", "as: ${CLIENT_SECRET}"))
    day.command("check", "sidecar.yaml")
    day.sidecar.signal(signal.SIGHUP)
    day.sidecar.told("configuration_rejected")
    day.manage("GET", "/")
    day.sidecar.file.write_text(good)
    day.sidecar.signal(signal.SIGHUP)
    day.sidecar.told("configuration_reloaded")
    assert day.manage("DELETE", f"/v1/sessions/{OTHER_SESSION}") == 204


def end(day: Day) -> None:
    """What a running process shows of itself; then what it left behind, killed in the middle of everything."""
    process = Path(f"/proc/{day.sidecar.process.pid}")
    day.texts["command line"] = process.joinpath("cmdline").read_bytes()
    assert b"Max core file size        0                    0" in process.joinpath("limits").read_bytes()
    for path in sorted(day.sidecar.folder.glob("sidecar.db*")):
        day.texts[f"file {path.name}"] = path.read_bytes()
    day.sidecar.kill()
    for path in sorted(day.sidecar.folder.glob("sidecar.db*")):
        day.texts[f"file {path.name} after the kill"] = path.read_bytes()
    day.texts["log"] = day.sidecar.log.read_bytes()
    day.texts["standard output"] = day.sidecar.out.read_bytes()


def found_in(texts: dict[str, bytes], *secrets: str) -> list[Hit]:
    """Return where secrets, or pieces of them, stand."""
    return places(Finder({secret: f"{secret[:20]}…" for secret in secrets}), texts.items())


def test_invariant_09_no_given_secret_is_found_anywhere(day: Day) -> None:
    """Client secret, admin token, keys, session ids, the caller's own token, a credential in a query."""
    assert found_in(day.texts, *GIVEN, QUERY) == []


def test_invariant_09_no_token_is_found_anywhere(day: Day) -> None:
    """Every access and refresh token that was ever issued, and every ID token's shape."""
    ledger = day.backdrop.server.state.ledger
    tokens = [*ledger.access, *ledger.refresh]
    assert len(tokens) >= 8
    assert found_in(day.texts, *tokens) == []
    assert [name for name, content in day.texts.items() if b"eyJ" in content] == []


def test_canaries_reached_only_the_places_they_were_meant_for(day: Day) -> None:
    """[LK-01] The upstream saw tokens in Authorization lines, and nothing of who called or of our own secrets."""
    requests = seen(day.backdrop.upstream)
    assert len(requests) >= 5
    for one in requests:
        lines = [name + b": " + value for name, value in one.headers if name.lower() != b"authorization"]
        content = b"\n".join([one.target.replace(QUERY.encode(), b""), *lines, one.body])
        assert [secret for secret in GIVEN if secret.encode() in content] == []
        assert b"eyJ" not in content
        assert CALLERS_OWN.encode() not in b"".join(one.all(b"authorization"))


def test_search_would_find_what_it_looks_for(day: Day) -> None:
    """The search is not blind: the log has lines of what happened, and a planted canary is found in every spelling."""
    events = {line.get("event") for line in day.sidecar.lines()}
    assert {"started", "request", "configuration_rejected", "configuration_reloaded"} <= events
    assert len(day.texts) > 40
    assert all(content for name, content in day.texts.items() if name.startswith("answer"))
    token = next(iter(day.backdrop.server.state.ledger.access))
    refresh = next(iter(day.backdrop.server.state.ledger.refresh))
    for planted in (token, refresh, SESSION, "s+cr%t: ü and more of it"):
        for spelled in (planted, planted[:14]):
            for at, content in enumerate(_written(spelled)):
                before = b"a line\n" + b"." * (at % 5)
                assert found_in({"planted": before + content}, planted), content
                assert not found_in({"planted": content}, "quite-another-secret-0123"), content


def _written(secret: str) -> Iterator[bytes]:
    raw, form = secret.encode(), urllib.parse.quote_plus(secret).encode()
    yield from (raw, b"x" + raw + b"y", urllib.parse.quote(secret, safe="").encode(), form, raw.hex().encode())
    yield from (json.dumps(f"x{secret}").encode(), quopri.encodestring(raw, quotetabs=False))
    for before in (b"", b"x", b"xy"):
        yield from (
            base64.b64encode(before + raw),
            base64.urlsafe_b64encode(before + raw),
            base64.b64encode(before + form),
        )


def test_files_of_a_store_are_told_from_its_key(tmp_path: Path) -> None:
    """SQLite's files are searched, by what is in them or by their ending; the key beside them holds a secret by right."""
    for name, content in {"a": b"SQLite format 3\0...", "b-wal": b"x", "a.key": b"sidecar-k1.", "log": b""}.items():
        tmp_path.joinpath(name).write_bytes(content)
    assert sorted(path.name for path in tmp_path.iterdir() if is_store(path)) == ["a", "b-wal"]


PLANTED = """
import os
from pathlib import Path
import structlog
from tests.support.program import whole

async def test_something(tmp_path):
    async with whole(tmp_path) as run:
        tokens = await run.sign_in("alice", "a-session-of-the-planted-test")
        assert (await run.ask("http://profiles.internal/", session="a-session-of-the-planted-test")).status == 200
        structlog.get_logger().debug(tokens["refresh_token"][:16])
    found = Path(os.environ["CANARY"], "fleet-1", "found")
    found.mkdir(parents=True)
    found.joinpath("log").write_text(tokens["access_token"])
    found.parent.joinpath("registry.jsonl").write_text("")
"""


def test_canary_run_finds_what_a_test_made_the_product_show(tmp_path: Path) -> None:
    """[LK-00] A run with the plugin fails where a piece of a token came into a log, a fleet's too; for nothing else."""
    tmp_path.joinpath("test_planted.py").write_text(PLANTED)
    options = ["-p", "tests.support.canary", "--canary", str(tmp_path / "run"), "-c", str(ROOT / "pyproject.toml")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path / "test_planted.py")],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert "refresh_token (as it is) in tests/in-process-log" in done.stdout
    assert "signed token (as it is) in fleet-1/log" in done.stdout
    assert "canary: 4 hits" in done.stdout  # the JWT's beginning, its end, its signature
    assert done.returncode == 1
