"""`explain` beside the real thing: what it says is what becomes of the request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from tests.support.program import BOTH, whole

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.program import Reply, Whole

ROUTES = (
    BOTH
    + """
  - {name: base, match: {path: /base}, strip_prefix: true, upstream: "UPSTREAM/v1", as: app}
  - {name: small, match: {host: small.internal}, upstream: "UPSTREAM", as: app, allow: [billing]}
  - {name: below, match: {host: stats.internal, path: /admin}, upstream: "UPSTREAM", as: app, allow: [billing]}
  - {name: open, match: {host: open.internal}, upstream: "UPSTREAM", as: none}
"""
)
MORE = """callers:
  session: [{header: X-Session-Id}, {cookie: sid}]
  apps: {billing: {header: X-Api-Key, key: billing-key}, reports: {header: X-Api-Key, key: reports-key}}
limits: {target: 1KiB, header_count: 12}
"""
KEY, OTHER = ("X-Api-Key", "billing-key"), ("X-Api-Key", "reports-key")
STATS, PROFILES = "http://stats.internal", "http://profiles.internal"
ALICE = ("X-Session-Id", "alices-explained-session")
QUESTIONS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "as app": ("GET", f"{STATS}/x?q=1", [KEY]),
    "as user": ("GET", f"{PROFILES}/x", [KEY, ALICE]),
    "cookie": ("GET", f"{PROFILES}/x", [KEY, ("Cookie", "theme=dark; sid=alices-explained-session; a=b")]),
    "prefix stripped": ("GET", "/base/x/y?q=/base", [("Host", "any.internal"), KEY]),
    "prefix alone": ("GET", "/base", [("Host", "any.internal"), KEY]),
    "as none": ("GET", "http://open.internal/x", [KEY, ("Authorization", "Bearer own")]),
    "hop by hop": ("GET", f"{STATS}/x", [KEY, ("Connection", "close, X-Y"), ("X-Y", "1"), ("Authorization", "Bearer own")]),
    "HD-23 encoded slash": ("GET", f"{STATS}/a%2fb", [KEY]),
    "SS-09 dot segments": ("GET", f"{STATS}/a/../b", [KEY]),
    "SS-09 another route for who merges slashes": ("GET", f"{STATS}//admin/x", [OTHER]),
    "SS-09 another route for who drops parameters": ("GET", f"{STATS}/admin;v=1/x", [OTHER]),
    "SS-09 one route in every reading": ("GET", f"{STATS}/a;v=1//x", [KEY]),
    "HD-05 token in the query": ("GET", f"{STATS}/a?access_token=t", [KEY]),
    "SS-04 userinfo": ("GET", "http://u:p@stats.internal/x", [KEY]),
    "SS-07 another scheme": ("GET", "ftp://stats.internal/x", [KEY]),
    "SS-07 https to http": ("GET", "https://stats.internal/x", [KEY]),
    "ID-06 two sessions": ("GET", f"{PROFILES}/x", [KEY, ALICE, ("X-Session-Id", "bob")]),
    "no session": ("GET", f"{PROFILES}/x", [KEY]),
    "no key": ("GET", f"{STATS}/x", []),
    "no key, base URL": ("GET", "/base/x", [("Host", "any.internal")]),
    "wrong key": ("GET", f"{STATS}/x", [("X-Api-Key", "wrong")]),
    "ID-07 not allowed": ("GET", "http://small.internal/x", [OTHER]),
    "allowed": ("GET", "http://small.internal/x", [KEY]),
    "no route": ("GET", "http://nowhere.internal/", [KEY]),
    "no route and no key": ("GET", "http://nowhere.internal/", []),
    "LK-05 TRACE": ("TRACE", f"{STATS}/x", [KEY]),
    "HD-11 last hop": ("OPTIONS", f"{STATS}/x", [KEY, ("Max-Forwards", "0")]),
    "HD-11 one hop less": ("OPTIONS", f"{STATS}/x", [KEY, ("Max-Forwards", "5")]),
    "SM-28 tunnel": ("CONNECT", "stats.internal:443", [KEY]),
    "own method": ("REPORT", f"{STATS}/x", [KEY]),
    "OV-01 long target": ("GET", f"{STATS}/{'x' * 1100}", [KEY]),
    "OV-01 many lines": ("GET", f"{STATS}/x", [KEY, *[("X", "x")] * 20]),
    "SM-01 two framings": ("POST", f"{STATS}/x", [KEY, ("Content-Length", "1"), ("Transfer-Encoding", "chunked")]),
    "not ASCII": ("GET", f"{STATS}/\u00e9", [KEY]),
    "not ASCII in a line": ("GET", f"{STATS}/x", [KEY, ("X-Name", "\u00e9")]),
}  # fmt: skip


async def asked(run: Whole, method: str, url: str, headers: list[tuple[str, str]]) -> Reply:
    """Ask for real; what cannot be spelt in Latin-1 goes as UTF-8."""
    given = [(name, value.encode().decode("latin-1")) for name, value in headers]
    return await run.ask(url.encode().decode("latin-1"), given, method=method)


async def test_explain_tells_what_becomes_of_the_request(tmp_path: Path) -> None:
    """[HD-23] [ID-06] Refused as `explain` says, or sent line for line as it says, but for the token itself."""
    async with whole(tmp_path, ROUTES, MORE) as run:
        await run.sign_in("alice", "alices-explained-session")
        for name, (method, url, headers) in QUESTIONS.items():
            question = {"method": method, "url": url, "headers": headers}
            told = (await run.admin("POST", "/v1/explain", question)).document
            run.forget()
            reply = await asked(run, method, url, headers)
            if not told["outcome"].startswith("forwarded"):
                assert told["outcome"] == f"refused: {reply.status} {reply.code}", name
                assert told.get("detail", reply.document["detail"]) == reply.document["detail"], name
                assert not run.seen, name
                continue
            [seen] = run.seen
            lines = [f"{seen.method.decode()} {seen.target.decode()} HTTP/1.1"]
            lines += [f"{key.decode()}: {value.decode()}" for key, value in seen.headers]
            if told["as"] != "none":
                *lines, token = lines
                assert token.startswith("Authorization: Bearer "), name
                lines.append("Authorization: Bearer (the token)")
            assert told["sent"] == lines, name


async def test_logged_refusal_has_the_status_of_the_answer(tmp_path: Path) -> None:
    """[LG-01] An unknown caller is answered 407 as a proxy's and 401 as a server's; the log says which."""
    async with whole(tmp_path, ROUTES, MORE) as run:
        for (url, headers), status in (((f"{STATS}/x", []), 407), (("/base/x", [("Host", "any.internal")]), 401)):
            with capture_logs() as lines:
                assert (await run.ask(url, headers)).status == status
            assert [line["status"] for line in lines if line["event"] == "refused"] == [status]


async def test_explain_names_what_stays_behind(tmp_path: Path) -> None:
    """What identifies the caller is told by its name, never by its value."""
    async with whole(tmp_path, ROUTES, MORE) as run:
        method, url, headers = QUESTIONS["cookie"]
        told = (await run.admin("POST", "/v1/explain", {"method": method, "url": url, "headers": headers})).document
        assert told["removed"] == ["X-Api-Key", "Cookie: sid"]
        assert "alices-explained-session" not in str(told)
        assert "billing-key" not in str(told)
