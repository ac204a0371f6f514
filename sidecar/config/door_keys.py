"""The keys of `listeners`, `admin`, `login`, `sessions`. Shape only: what they mean is `door_rules`, `login_rules`."""

from __future__ import annotations

from sidecar.config import kinds
from sidecar.config.keys import Params, Section, default_of, key
from sidecar.settings import Admin, Login, SessionLife


class ListenerKeys(Section):
    """A place where the sidecar takes requests."""

    bind: kinds.Bind | None = key("Address to listen on: host:port, [IPv6]:port or unix:/path.")
    app: kinds.Name | None = key("Every request on this listener comes from this app; no other proof is asked for.")


class AdminKeys(Section):
    """The admin listener."""

    bind: kinds.Bind | None = key("Address of the admin listener.", Admin().bind)
    token: kinds.HeaderKey | None = key("Bearer token required on /v1/*. Needed for a bind beyond loopback.")
    quit: kinds.Switch | None = key("Let POST /quit end the sidecar, for Jobs.", default=False)


class LoginKeys(Section):
    """The sidecar's own sign-in."""

    bind: kinds.Bind | None = key("Address of the sign-in listener.", default_of(Login, "bind"))
    public_url: kinds.PublicUrl | None = key("The origin under which browsers reach /oauth2/. Required.")
    provider: kinds.OneOrMoreNames | None = key(
        "Provider that signs users in, or several, the default first; the only one by default."
    )
    scope: kinds.Scopes | None = key("Scopes to ask for; openid among them.", "openid")
    return_to: kinds.ReturnTo | None = key(
        "URLs under which a browser may land after sign-in and sign-out, the default first; public_url by default."
    )
    cookie: kinds.CookieName | None = key(
        "Name of the session cookie, as it stands; by default the first cookie of callers.session, with the prefix "
        "__Host- where public_url is https."
    )
    par: kinds.Par | None = key(
        "Push authorization requests (RFC 9126): auto where the provider offers it, require or never.",
        default_of(Login, "par"),
    )
    resource: kinds.Resources | None = key(
        "Resources that users consent to (RFC 8707): a URI or a list, for providers that renew for no other."
    )
    audience: kinds.Text | None = key(
        "Audience that the authorization request names, for providers that make an API's access tokens only so."
    )
    params: Params | None = key("Extra parameters of every authorization request.")
    per_second: kinds.Count | None = key("Sign-ins that may be begun in any second.", default_of(Login, "per_second"))


class SessionsKeys(Section):
    """Lifetimes of sessions."""

    idle: kinds.Duration | None = key("Time after its last use at which a session ends.", SessionLife().idle)
    absolute: kinds.Duration | None = key("Time after its sign-in at which a session ends.", SessionLife().absolute)
