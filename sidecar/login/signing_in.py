"""The browser's way in: to the authorization server and back, to a new session (OpenID Connect Core section 3.1).

Carries out what `flow`, `cookies` and `return_to` decide. Nothing is stored before the sign-in is complete.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import structlog

from sidecar.errors import Refusal
from sidecar.gate import Urgency
from sidecar.login import cookies, flow
from sidecar.login.answers import cookies_of, page_of, redirect
from sidecar.login.flow import CALLBACK, SignInError
from sidecar.model import ClientRefused, Invalid, Unavailable
from sidecar.oauth import authorization, id_token
from sidecar.oauth.authorization import CallbackError, Pending
from sidecar.oauth.error_codes import shown
from sidecar.oauth.metadata import Metadata
from sidecar.oauth.signature import JwtError, UnknownKeyError, believed

if TYPE_CHECKING:
    from aiohttp import web

    from sidecar.login.backchannel import Party
    from sidecar.login.state import LoginState
    from sidecar.model import Granted, Identity
    from sidecar.settings import Login

_log = structlog.get_logger()


class SigningIn:
    """The handlers of login and callback."""

    def __init__(self, state: LoginState) -> None:
        self._state = state

    @property
    def _login(self) -> Login:
        return self._state.login

    async def login(self, request: web.Request) -> web.StreamResponse:
        """Begin a sign-in: send the browser to the authorization server, with all that we keep of it in a cookie."""
        if not self._state.pace.admits(self._login.per_second, self._state.clock()):
            raise SignInError("busy")
        landing = flow.landing(request.query.get("return_to"), self._login)
        name = flow.chosen(request.query.get("provider"), self._login)
        party = self._state.party(name)
        metadata = await _metadata(party)
        now = self._state.clock()
        words = (secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        pending = flow.begin(words, name, metadata.issuer, landing, self._login.scopes, now)
        location = await self._authorization_url(party, metadata, pending)
        secure = self._login.secure
        cookie = cookies.pending_name(pending.state, secure=secure)
        value = cookies.seal(self._state.sealer, cookie, pending)
        coming = len(cookie) + len(value)
        gone = cookies.surplus(cookies_of(request), self._state.sealer, now, coming, secure=secure)
        self._state.results["begun"] += 1
        lines = [cookies.set_cookie(cookie, value, cookies.PENDING_LIFE, secure=secure)]
        return redirect(location, lines + [cookies.set_cookie(old, "", 0, secure=secure) for old in gone])

    async def callback(self, request: web.Request) -> web.StreamResponse:
        """Complete a sign-in, or say why not; either way what was begun is over."""
        pending, parameters = self._begun(request)
        secure = self._login.secure
        over = cookies.set_cookie(cookies.pending_name(pending.state, secure=secure), "", 0, secure=secure)
        try:
            session_id, identity = await self._complete(pending, parameters)
        except SignInError as error:
            self._state.results[error.name] += 1
            response = page_of(error, pending)
            response.headers.add("Set-Cookie", over)
            return response
        await self._forget(request, identity)
        self._state.results["signed_in"] += 1
        life = int(self._state.sessions.life.absolute)
        return redirect(
            pending.return_to, [over, cookies.set_cookie(self._login.cookie, session_id, life, secure=secure)]
        )

    async def _authorization_url(self, party: Party, metadata: Metadata, pending: Pending) -> str:
        if metadata.authorization_endpoint is None:
            raise SignInError("invalid", "metadata_authorization_endpoint")
        client_id = party.registered.client_id
        targets = [("resource", one) for one in self._login.resources]
        targets += [("audience", self._login.audience)] if self._login.audience else []
        extra = (*targets, *self._login.params)
        form = authorization.authorization_request(pending, client_id, self._redirect_uri, self._login.scopes, extra)
        if flow.pushes(self._login, metadata):
            pushed = await party.server.push(form)
            if not isinstance(pushed, str):
                raise SignInError("unavailable" if isinstance(pushed, Unavailable) else "refused", _reason(pushed))
            form = authorization.pushed(client_id, pushed)
        return authorization.with_query(metadata.authorization_endpoint, form)

    @property
    def _redirect_uri(self) -> str:
        return self._login.public_url + CALLBACK

    def _begun(self, request: web.Request) -> tuple[Pending, dict[str, str]]:
        """Return the sign-in that this browser began, and the parameters of its answer."""
        try:
            parameters = authorization.read_parameters(request.query.items())
        except CallbackError as error:
            raise SignInError("state", error.reason) from None
        name = cookies.pending_name(parameters.get("state", ""), secure=self._login.secure)
        for value in cookies.values(cookies_of(request), name):
            pending = cookies.unseal(self._state.sealer, name, value, self._state.clock())
            if pending is not None and pending.provider in self._login.providers:
                return pending, parameters
        raise SignInError("state", "not_begun_here")

    async def _complete(self, pending: Pending, parameters: dict[str, str]) -> tuple[str, Identity]:
        """Judge the answer, exchange the code, see who it is, store the session; return its new id and who it is.

        Anybody can come with a made-up code. So it is not urgent, and what users wait for who are signed in goes first.
        """
        party = self._state.party(pending.provider)
        metadata = await _metadata(party)
        if metadata.issuer != pending.issuer:
            raise SignInError("state", "provider_changed")
        try:
            code = authorization.judge_callback(parameters, pending, iss_required=metadata.iss_in_response)
        except CallbackError as error:
            raise (flow.told(error.reason) if error.told else flow.callback_trouble(error.reason)) from None
        until = pending.begun_at + 2 * cookies.PENDING_LIFE
        if not await self._state.sign_ins.once("state", pending.state, until):
            raise SignInError("state", "replayed")
        form = authorization.token_request(pending, code, self._redirect_uri, party.registered.params)
        asked = flow.asked(pending, self._login)
        granted = flow.granted(await party.server.token(form, asked=asked, urgency=Urgency(urgent=False)), asked)
        return await self._opened(party, metadata, granted, pending)

    async def _opened(
        self, party: Party, metadata: Metadata, granted: Granted, pending: Pending
    ) -> tuple[str, Identity]:
        session_id = secrets.token_urlsafe(32)  # 256 bits, new at each sign-in: nobody can have fixed it before
        try:
            identity = await self._identity(party, metadata, granted, pending)
            self._expect_still(pending.provider, party)
            params = party.registered.params
            kept = await self._state.sign_ins.open(session_id, pending.provider, granted, identity, params)
        except (SignInError, Refusal):
            if granted.refresh_token is not None:  # nobody will ever use it
                await party.server.revoke(granted.refresh_token, "refresh_token")
            raise
        if not kept:
            raise SignInError("signed_out")
        _log.info("signed_in", provider=pending.provider)
        return session_id, identity

    def _expect_still(self, provider: str, party: Party) -> None:
        """Raise unless the name means the same issuer and client as when the tokens were asked for."""
        now, before = self._state.registered.get(provider), party.registered
        if now is None or (now.issuer, now.client_id) != (before.issuer, before.client_id):
            raise SignInError("state", "provider_changed")

    async def _identity(self, party: Party, metadata: Metadata, granted: Granted, pending: Pending) -> Identity:
        algorithms = believed(metadata.id_token_algorithms)
        client_id, since = party.registered.client_id, flow.authenticated_since(self._login.max_age, pending)
        expected = id_token.Expected(metadata.issuer, client_id, pending.nonce, algorithms, since)
        token = granted.id_token
        if token is None:
            raise SignInError("invalid", "no_id_token")
        for missing in (False, True):
            keys = await party.server.keys(missing=missing)
            if isinstance(keys, Unavailable | Invalid):
                raise SignInError("unavailable" if isinstance(keys, Unavailable) else "invalid", keys.reason)
            try:
                return id_token.validate(token, granted.token.value, keys, expected, self._state.clock())
            except JwtError as error:
                if missing or not isinstance(error, UnknownKeyError):
                    raise SignInError("invalid", f"id_token_{error.reason}") from None
        raise AssertionError("the second round returns or raises")

    async def _forget(self, request: web.Request, identity: Identity) -> None:
        """End whatever session this browser had before: its id may be known to others, or be somebody else's."""
        for old in cookies.values(cookies_of(request), self._login.cookie)[: cookies.MOST_SESSIONS]:
            try:
                await self._state.sessions.delete(old, heir=identity)
            except Refusal as refusal:
                _log.warning("old_session_not_deleted", reason=refusal.code)


async def _metadata(party: Party) -> Metadata:
    metadata = await party.server.metadata()
    if isinstance(metadata, Metadata):
        return metadata
    raise SignInError("unavailable" if isinstance(metadata, Unavailable) else "invalid", metadata.reason)


def _reason(outcome: Unavailable | ClientRefused | Invalid) -> str:
    return shown(outcome.error) if isinstance(outcome, ClientRefused) else outcome.reason
