"""The session as the application sees it, and its end: by the user's wish or by the issuer's word.

Carries out what `flow` and `backchannel` decide. OpenID Connect RP-Initiated Logout 1.0, Back-Channel Logout 1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import structlog
from aiohttp import web

from sidecar.callers import session_id
from sidecar.errors import Refusal
from sidecar.login import backchannel, cookies, flow, pages
from sidecar.login.answers import cookies_of, form_of, page, redirect
from sidecar.login.flow import SignInError
from sidecar.oauth.metadata import Metadata

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.credentials.sign_ins import SignedIn
    from sidecar.login.backchannel import Party
    from sidecar.login.state import LoginState
    from sidecar.settings import Login

_log = structlog.get_logger()


class SigningOut:
    """The handlers of session, logout and back-channel logout."""

    def __init__(self, state: LoginState) -> None:
        self._state = state

    @property
    def _login(self) -> Login:
        return self._state.login

    async def session(self, request: web.Request) -> web.Response:
        """Tell the application who is signed in."""
        found = await self._find(self._ids(request))
        if found is None:
            body: dict[str, Any] = {"signed_in": False, "login_url": self._login.url(self._login.providers[0])}
        else:
            body = {
                "signed_in": True,
                "subject": found.subject,
                "provider": found.provider,
                "since": int(found.since),
                "expires_at": int(found.expires_at),
                "logout_url": f"{self._login.public_url}/oauth2/logout",
            }
        return web.Response(body=orjson.dumps(body), content_type="application/json", headers={"Vary": "Cookie"})

    async def home(self, request: web.Request) -> web.Response:
        """Be where a sign-in ends by default, as long as no proxy is in front whose application is there."""
        found = await self._find(self._ids(request))
        return page(200, pages.home(found.subject if found else None, signed_in=found is not None))

    async def ask(self, request: web.Request) -> web.StreamResponse:
        """Ask the user: a link or a picture on another site must not sign anybody out."""
        landing = flow.landing(request.query.get("return_to"), self._login)
        found = await self._find(self._ids(request))
        if found is None:
            return redirect(landing, [self._no_session()])
        return page(200, pages.confirm(found.subject, landing), forms=True)

    async def logout(self, request: web.Request) -> web.StreamResponse:
        """End the session here and lead the browser to the provider's own sign-out, where there is one."""
        if not flow.from_here(request.headers, self._login):
            raise SignInError("cross_site")
        form = await form_of(request)
        landing = flow.landing(form.get("return_to", request.query.get("return_to")), self._login)
        ids = self._ids(request)
        if len(ids) > cookies.MOST_SESSIONS:
            raise SignInError("bad_request", "too_many_sessions")
        found = await self._find(ids)
        for held in ids:  # before the provider is asked for anything: it may be slow to answer
            await self._state.sessions.delete(held)
        location = landing
        if found is not None:
            location = await self._provider_logout(found, landing)
            _log.info("signed_out", provider=found.provider)
        if "application/json" in request.headers.get("Accept", ""):
            body = orjson.dumps({"signed_in": False, "logout_url": location})
            response = web.Response(body=body, content_type="application/json")
            response.headers.add("Set-Cookie", self._no_session())
            return response
        return redirect(location, [self._no_session()])

    async def backchannel(self, request: web.Request) -> web.Response:
        """End sessions by their issuer's word."""
        text = (await form_of(request)).get("logout_token", "")
        try:
            ended = await backchannel.sign_out(text, self._parties(), self._state.sign_ins, self._state.clock())
        except backchannel.LogoutRefusedError as refused:
            _log.warning("back_channel_logout_refused", reason=refused.reason)
            told = {"error": "invalid_request", "error_description": f"logout token refused: {refused.reason}"}
            return web.Response(status=400, body=orjson.dumps(told), content_type="application/json")
        _log.info("back_channel_logout", sessions=ended)
        return web.Response()

    def _parties(self) -> Iterable[Party]:
        """Return all providers: sessions outlive a configuration by which their own signed users in."""
        return [self._state.party(name) for name in self._state.registered]

    def _ids(self, request: web.Request) -> list[str]:
        """Return the session ids that the browser sends, those that can be one."""
        return [value for value in cookies.values(cookies_of(request), self._login.cookie) if _is_id(value)]

    async def _find(self, ids: list[str]) -> SignedIn | None:
        """Return what is known of the session of a browser that sends these ids; two that differ are none."""
        return await self._state.sign_ins.find(ids[0]) if len(ids) == 1 else None

    async def _provider_logout(self, found: SignedIn, landing: str) -> str:
        if found.provider not in self._state.registered:
            return landing
        party = self._state.party(found.provider)
        metadata = await party.server.metadata()
        if not isinstance(metadata, Metadata):
            return landing  # the session here ends all the same
        return flow.logout_url(metadata, party.registered.client_id, found.id_token, landing) or landing

    def _no_session(self) -> str:
        return cookies.set_cookie(self._login.cookie, "", 0, secure=self._login.secure)


def _is_id(value: str) -> bool:
    try:
        return bool(session_id.read(value.encode("ascii")))
    except (Refusal, UnicodeEncodeError):
        return False
