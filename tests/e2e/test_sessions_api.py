"""The session API as an application uses it that signs its users in, and what is left on the disk.

In this process where that is enough; as a process of its own where kills, restarts and bytes in files count.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidecar.app import serve
from sidecar.config import load
from sidecar.credentials import vault
from tests.support.process import Process
from tests.support.program import ENVIRON, head, text, until, whole

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.process import Backdrop

PROFILES = "http://profiles.internal/x"
SESSION = "session-canary-4f1c"


# -- one process ---------------------------------------------------------------------------------------------------


async def test_session_is_put_shown_listed_and_deleted(tmp_path: Path) -> None:
    """Created from a token response; shown as metadata, without id or tokens; gone after DELETE, its tokens revoked."""
    with capture_logs() as lines:
        await _put_and_deleted(tmp_path)
    assert [line["event"] for line in lines if line["event"].startswith("session_")] == [
        "session_put",
        "session_deleted",
    ]


async def _put_and_deleted(tmp_path: Path) -> None:
    async with whole(tmp_path) as run:
        tokens = await run.sign_in("alice", SESSION)
        shown = await run.admin("GET", f"/v1/sessions/{SESSION}")
        assert shown.status == 200
        (provider,) = shown.document["providers"]
        assert (provider["provider"], provider["scopes"], provider["has_refresh_token"]) == (
            "idp",
            ["profiles.read"],
            True,
        )
        assert 290 < provider["seconds_left"] <= 300
        listed = await run.admin("GET", "/v1/sessions")
        assert [one["identifier"] for one in listed.document["sessions"]] == [shown.document["identifier"]]
        for secret in (SESSION, tokens["access_token"], tokens["refresh_token"]):
            assert secret not in (shown.body + listed.body).decode()
        assert (await run.admin("DELETE", f"/v1/sessions/{SESSION}")).status == 204
        assert (await run.admin("GET", f"/v1/sessions/{SESSION}")).status == 404
        assert (await run.admin("DELETE", f"/v1/sessions/{SESSION}")).status == 404
        assert (await run.admin("GET", "/v1/sessions")).document == {"sessions": []}
        assert [record.outcome for record in run.server.requests if record.endpoint == "/revoke"] == ["ok"]
        assert not run.server.state.ledger.access[tokens["access_token"]].active(0.0)


async def test_session_is_replaced_at_each_sign_in(tmp_path: Path) -> None:
    """[ID-03] The same id with another user's tokens: from that answer on the first user's are not used any more."""
    async with whole(tmp_path) as run:
        for user in ("alice", "bob", "alice"):
            await run.sign_in(user, SESSION)
            assert (await run.ask(PROFILES, session=SESSION)).document["subject"] == user
        assert len((await run.admin("GET", "/v1/sessions")).document["sessions"]) == 1


async def test_deleted_session_is_refused_at_once_on_open_connections(tmp_path: Path) -> None:
    """[ID-05] The next request after the answer to DELETE is refused, although its connection was served before."""
    async with whole(tmp_path) as run:
        await run.sign_in("alice", SESSION)
        caller = await run.caller()
        headers = [("X-Session-Id", SESSION)]
        assert (await caller.ask("GET", PROFILES, headers)).status == 200
        assert (await run.admin("DELETE", f"/v1/sessions/{SESSION}")).status == 204
        reply = await caller.ask("GET", PROFILES, headers)
        assert (reply.status, reply.code) == (401, "login_required")
        assert len(run.seen) == 1


async def test_renewal_in_flight_cannot_bring_a_deleted_session_back(tmp_path: Path) -> None:
    """[ID-04] Deleted while its token is renewed: the waiting caller is refused, nothing is stored again."""
    async with whole(tmp_path, patience="10s") as run:
        await run.sign_in("alice", SESSION, expires_in=1)
        run.clock.ahead = 5.0
        run.server.faults.change(slow=0.4)
        caller = await run.caller()
        caller.writer.write(head("GET", PROFILES, [("X-Session-Id", SESSION)]))
        await until(lambda: run.program.broker.states()["renewing"] == 1)
        assert (await run.admin("DELETE", f"/v1/sessions/{SESSION}")).status == 204
        reply = await caller.reply()
        assert (reply.status, reply.code) == (401, "login_required")
        await until(lambda: not run.program.broker.states()["renewing"])
        assert (await run.admin("GET", "/v1/sessions")).document == {"sessions": []}
        assert (await run.ask(PROFILES, session=SESSION)).code == "login_required"
        assert run.upstream.streams() == []


@pytest.mark.parametrize(
    ("path", "document", "status", "code"),
    [
        pytest.param("/v1/sessions/x", {"access_token": "a b", "token_type": "Bearer"}, 400, "bad_request", id="token"),
        pytest.param("/v1/sessions/x", {"token_type": "Bearer"}, 400, "bad_request", id="no token"),
        pytest.param("/v1/sessions/x", {"access_token": "a", "token_type": "mac"}, 400, "bad_request", id="token type"),
        pytest.param("/v1/sessions/x", {"access_token": "a", "token_type": "Bearer", "provider": "no"}, 400,
                     "bad_request", id="unknown provider"),
        pytest.param("/v1/sessions/x", {"error": "access_denied"}, 400, "bad_request", id="an error"),
        pytest.param("/v1/sessions/x", ["a"], 400, "bad_request", id="a list"),
        pytest.param("/v1/sessions/a%20b", {"access_token": "a", "token_type": "Bearer"}, 400, "bad_request", id="id"),
        pytest.param("/v1/nothing", {}, 404, "not_found", id="no such place"),
    ],
)  # fmt: skip
async def test_bad_session_is_refused_and_stores_nothing(
    path: str, document: object, status: int, code: str, tmp_path: Path
) -> None:
    """What could not be used later is refused when it is handed over."""
    async with whole(tmp_path) as run:
        reply = await run.admin("PUT", path, document)
        assert (reply.status, reply.code) == (status, code)
        assert (await run.admin("GET", "/v1/sessions")).document == {"sessions": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_type": None}, 'token_type is to be "Bearer"'),
        ({"access_token": "q z"}, "access_token is to be the token"),
        ({"refresh_token": 7}, "refresh_token is to be a string"),
        ({"id_token": "q z"}, "id_token is to be a string"),
        ({"expires_in": "soon"}, "expires_in is to be a number of seconds"),
        ({"expires_in": 0}, "expires_in says that the access token has expired"),
        ({"scope": 'q "z"'}, "scope is to be names with a blank between them"),
        ({"audience": ["a"]}, "audience is to be a string"),
        ({"resource": [1]}, "resource is to be a string or a list of strings"),
        ({"error": "access_denied"}, "it is the error response of a token endpoint"),
    ],
)
async def test_refusal_of_a_session_says_what_its_token_response_should_say_instead(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    """The name of the member alone leaves a reader to guess; its value, which may be a token, is not shown."""
    good = {"access_token": "a", "token_type": "Bearer"}
    document = {name: value for name, value in (good | change).items() if value is not None}
    async with whole(tmp_path) as run:
        reply = await run.admin("PUT", "/v1/sessions/x", document)
        assert (reply.status, reply.code) == (400, "bad_request")
        assert said in str(reply.document)
        assert "q " not in str(reply.document)


async def test_session_api_asks_for_the_admin_token(tmp_path: Path) -> None:
    """Without it, or with another, nothing of /v1/ is answered; health and readiness are open."""
    async with whole(tmp_path) as run:
        for authorization in ("", "Bearer wrong", "Basic YTpi", f"bearer{ENVIRON['ADMIN_TOKEN']}"):
            for method, path in (("GET", "/v1/sessions"), ("DELETE", "/v1/sessions/x"), ("POST", "/v1/explain")):
                caller = await run.caller(run.program.admin_port)
                headers = [("Host", "127.0.0.1")] + ([("Authorization", authorization)] if authorization else [])
                reply = await caller.ask(method, path, headers)
                assert (reply.status, reply.code) == (401, "caller_unknown")
                assert reply.one("www-authenticate").startswith("Bearer")
        for path in ("/healthz", "/readyz"):
            caller = await run.caller(run.program.admin_port)
            assert (await caller.ask("GET", path, [("Host", "127.0.0.1")])).status == 200


async def test_session_deleted_at_one_instance_is_refused_by_another_within_a_second(tmp_path: Path) -> None:
    """[ID-05] Both have served it from memory; a deletion reaches who shares the store. So does a new sign-in [ID-03]."""
    store = f'store: {{url: "sqlite:{tmp_path}/sidecar.db"}}\n'
    async with whole(tmp_path, more=store) as run, serve(load(run.program.path, ENVIRON), clock=run.clock) as second:

        async def second_says(wanted: str) -> None:
            async with asyncio.timeout(2.0):  # a second is promised, the machine may be busy
                while (
                    wanted
                    not in (reply := await run.ask(PROFILES, session=SESSION, port=second.proxy_port)).body.decode()
                ):
                    assert reply.status in (200, 401)
                    await asyncio.sleep(0.02)

        for user in ("alice", "bob"):
            await run.sign_in(user, SESSION)
            await second_says(f'"subject": "{user}"')
        assert (await run.admin("DELETE", f"/v1/sessions/{SESSION}")).status == 204
        await second_says("login_required")


# -- across processes ----------------------------------------------------------------------------------------------


def on_disk(backdrop: Backdrop, folder: Path, keys: str = "") -> str:
    """Return a configuration with a store in `folder`."""
    return text(backdrop.server, backdrop.upstream, more=f'store: {{url: "sqlite:{folder}/sidecar.db"{keys}}}\n')


@pytest.mark.parametrize("end", ["SIGTERM", "kill -9"])
def test_session_survives_the_process(end: str, backdrop: Backdrop, tmp_path: Path) -> None:
    """[LC-03, ST-01] What was answered is kept: the renewed token serves the next process, nothing is renewed again.

    And no byte of a token or a session id stands in any file of the store.
    """
    with Process(tmp_path, on_disk(backdrop, tmp_path)) as sidecar:
        tokens = sidecar.sign_in(backdrop, "alice", SESSION)
        assert sidecar.ask(PROFILES, {"X-Session-Id": SESSION}).status == 200
        backdrop.do(lambda: backdrop.server.revoke("alice"))
        assert sidecar.ask(PROFILES, {"X-Session-Id": SESSION}).document["subject"] == "alice"
        asked = len(backdrop.server.token_requests())
        assert sidecar.terminate() == 0 if end == "SIGTERM" else sidecar.kill() is None
        check_files(tmp_path, [SESSION, *secrets_of(backdrop, tokens)])
        sidecar.start()
        again = sidecar.ask(PROFILES, {"X-Session-Id": SESSION})
        assert (again.status, again.document["subject"]) == (200, "alice")
        assert len(backdrop.server.token_requests()) == asked
        assert len(sidecar.manage("GET", "/v1/sessions").document["sessions"]) == 1
        assert sidecar.manage("DELETE", f"/v1/sessions/{SESSION}").status == 204
        sidecar.kill()
        sidecar.start()
        gone = sidecar.ask(PROFILES, {"X-Session-Id": SESSION})
        assert (gone.status, gone.document["code"]) == (401, "login_required")


def secrets_of(backdrop: Backdrop, tokens: dict[str, str]) -> list[str]:
    """Return every token that could have come to the store so far."""
    ledger = backdrop.server.state.ledger
    return [tokens["access_token"], tokens["refresh_token"], *backdrop.do(lambda: [*ledger.access, *ledger.refresh])]


def check_files(folder: Path, canaries: list[str]) -> None:
    """No canary, nor a telling part of one, is in a file of the folder; only its owner may read the store."""
    files = [path for path in folder.iterdir() if path.name.startswith("sidecar.db")]
    assert {"sidecar.db", "sidecar.db.key"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0, path
        for canary in canaries:
            assert canary.encode() not in content, path
            assert canary[-40:].encode() not in content, path  # a JWT's signature


@pytest.mark.parametrize("how", ["another key in the configuration", "the key file was changed"])
def test_store_of_another_key_refuses_to_start_and_is_left_alone(how: str, backdrop: Backdrop, tmp_path: Path) -> None:
    """[ST-06, RD-12] One line that says so, exit 1, not a byte of the store changed; with its own key all is there."""
    first, second = vault.generate_key(), vault.generate_key()
    given = how.startswith("another")
    with Process(tmp_path, on_disk(backdrop, tmp_path, f', keys: ["{first}"]' if given else "")) as sidecar:
        sidecar.sign_in(backdrop, "alice", SESSION)
        assert sidecar.terminate() == 0
        content = (tmp_path / "sidecar.db").read_bytes()
        key_file = tmp_path / "sidecar.db.key"
        if given:
            sidecar.file.write_text(on_disk(backdrop, tmp_path, f', keys: ["{second}"]'))
        else:
            kept = key_file.read_text()
            key_file.write_text(second + "\n")
        sidecar._wait = False
        sidecar.start()
        assert sidecar.ended() == 1
        (line,) = sidecar.log.read_text().splitlines()
        assert line.startswith("error: the store cannot be used: ")
        assert first not in line
        assert second not in line
        assert (tmp_path / "sidecar.db").read_bytes() == content
        if given:
            sidecar.file.write_text(on_disk(backdrop, tmp_path, f', keys: ["{second}", "{first}"]'))
        else:
            key_file.write_text(kept)
        sidecar._wait = True
        sidecar.start()
        assert sidecar.ask(PROFILES, {"X-Session-Id": SESSION}).document["subject"] == "alice"


def test_session_api_answers_json_to_json(backdrop: Backdrop, tmp_path: Path) -> None:
    """[PD-15] A sidecar whose provider is away takes sessions all the same, and serves them with their valid tokens."""
    tokens = backdrop.do(lambda: backdrop.server.issue("bob", "profiles.read", "legacy-app"))
    away = on_disk(backdrop, tmp_path).replace(backdrop.server.issuer, "http://127.0.0.1:1")
    with Process(tmp_path, away) as sidecar:
        assert json.loads(sidecar.manage("PUT", f"/v1/sessions/{SESSION}", tokens).body)["providers"]
        assert sidecar.ask(PROFILES, {"X-Session-Id": SESSION}).document["subject"] == "bob"
        refused = sidecar.ask("http://stats.internal/x")
        assert (refused.status, refused.document["code"]) == (503, "provider_unavailable")
