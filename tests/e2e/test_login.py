"""A user signs in through the sidecar, the application calls an API, the user signs out: all parts real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.program import subject_of
from tests.support.sign_in import COOKIE, SignIn, query_of, signing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[SignIn]:
    async with signing_in(tmp_path) as parts:
        yield parts


async def test_signed_in_user_is_served_until_the_sign_out(running: SignIn) -> None:
    """Sign-in, API call, renewal, sign-out: the cookie is dead at once and the refresh token is revoked."""
    async with running.browser() as browser:
        refused = await running.call(browser)
        assert (refused.status, refused.document["login_url"]) == (401, f"{running.public}/oauth2/login")
        back = await browser.sign_in("alice", f"{running.public}/app/page?x=1#top")
        assert (back.status_code, back.headers["location"]) == (303, f"{running.public}/app/page?x=1#top")
        assert (await running.call(browser)).document["subject"] == "alice"
        running.clock.ahead += 310
        assert (await running.call(browser)).document["subject"] == "alice"
        assert len(running.server.token_requests(grant_type="refresh_token", outcome="ok")) == 1
        live = [text for text, token in running.server.state.ledger.refresh.items() if not token.family.dead]
        assert len(live) == 2
        session = browser.session
        gone = await browser.post("/oauth2/logout")
        assert (gone.status_code, gone.headers["location"]) == (303, f"{running.public}/app")
        assert browser.session == ""
        assert all(token.family.dead for token in running.server.state.ledger.refresh.values())
        dead = await running.ask("http://profiles.internal/me", [("Cookie", f"{COOKIE}={session}")])
        assert dead.code == "login_required"
    assert {subject_of(running.server, token) for token in running.tokens} == {"alice"}
    assert query_of  # used below
