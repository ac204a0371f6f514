"""From models that nothing is wrong with to `sidecar.settings`: defaults filled in, names resolved. Pure."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.callers import SESSION_KINDS, SessionKind
from sidecar.callers.cookie import Cookie
from sidecar.config.schema import DEFAULT_SESSIONS
from sidecar.grants import GRANTS
from sidecar.model import As, TokenSpec
from sidecar.settings import (
    Admin,
    Destinations,
    Limits,
    Listener,
    Login,
    Match,
    ProviderLimit,
    ProviderSettings,
    ProviderTimeout,
    Replay,
    Route,
    SessionLife,
    Settings,
    StoreSettings,
    Tls,
    UpstreamTimeout,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.config.sections import Entry, Parsed

T = TypeVar("T")
DEFAULT_GRANTS: dict[As, str] = {"app": "client_credentials", "user": "session"}
_DEFAULT_COOKIE = dict(DEFAULT_SESSIONS)["cookie"]
HOST_PREFIX = "__Host-"
_TLS_FILES = ("ca", "cert", "key")


def compiled(parsed: Parsed, absolute: Callable[[str], str]) -> Settings:
    """Return the settings. `absolute` turns the name of a file in the configuration into an absolute one."""
    single = parsed.single
    providers = {name: _provider(name, entry.model, absolute) for name, entry in parsed.providers.items()}
    sessions = default_sessions() if parsed.sessions is None else tuple(parsed.sessions)
    made: dict[str, Any] = {
        "listeners": tuple(_with(Listener, entry.model) for entry in parsed.listeners) or None,
        "admin": _part(Admin, single.get("admin")),
        "store": _part(StoreSettings, single.get("store")),
        "login": _login(single.get("login"), sessions, providers),
        "sessions": _with_login_cookie(sessions, single.get("login")),
        "session_life": _part(SessionLife, single.get("sessions")),
        "apps": tuple(kind for kind in parsed.apps.values() if kind is not None),
        "providers": providers,
        "routes": _routes(parsed.routes, providers, absolute),
        "tunnels": tuple(single["tunnels"].allow or ()) if "tunnels" in single else None,
        "destinations": _with(Destinations, single.get("destinations")),
        "limits": _with(Limits, single.get("limits")),
        **{key: single[key] for key in ("unmatched", "via", "access_log", "workers") if key in single},
    }
    return Settings(**{key: value for key, value in made.items() if value is not None})


def default_sessions() -> tuple[SessionKind, ...]:
    """Return where the session's id is looked for when the file does not say."""
    return tuple(SESSION_KINDS[keyword](name) for keyword, name in DEFAULT_SESSIONS)


def login_cookie(login: Any, sessions: Iterable[SessionKind]) -> tuple[str, str] | None:
    """Return the name that `callers.session` has for the cookie of sign-ins, and the name that is used instead.

    The one place that decides: the listener sets the second, callers are looked for under the second. A name that
    `login.cookie` spells out is used as it stands; else browsers are asked to guard it (`__Host-`) where they can.
    None where no cookie of `callers.session` is meant.
    """
    cookies = [kind.cookie for kind in sessions if isinstance(kind, Cookie)]
    if not cookies or (login.cookie and login.cookie not in cookies and cookies != [_DEFAULT_COOKIE]):
        return None
    if login.cookie:
        return login.cookie if login.cookie in cookies else cookies[0], login.cookie
    guarded = (login.public_url or "").startswith("https:") and not cookies[0].startswith(("__Host-", "__Secure-"))
    return cookies[0], HOST_PREFIX + cookies[0] if guarded else cookies[0]


def _with_login_cookie(sessions: tuple[SessionKind, ...], login: Entry | None) -> tuple[SessionKind, ...]:
    names = login_cookie(login.model, sessions) if login else None
    if names is None:
        return sessions
    written, used = names
    cookie: SessionKind = SESSION_KINDS[Cookie.keyword](used)
    return tuple(cookie if isinstance(kind, Cookie) and kind.cookie == written else kind for kind in sessions)


def _login(
    entry: Entry | None, sessions: Iterable[SessionKind], providers: dict[str, ProviderSettings]
) -> Login | None:
    if entry is None:
        return None
    model = entry.model
    names = login_cookie(model, sessions)
    scopes = frozenset[str]().union(*(model.scope or ()))
    return _with(
        Login,
        model,
        providers=tuple(model.provider or providers),
        cookie=names[1] if names else "",
        return_to=tuple(model.return_to or [f"{model.public_url}/"]),
        scopes=("openid", *sorted(scopes - {"openid"})),
        resources=tuple(model.resource or ()),
        params=tuple((model.params or {}).items()),
    )


def _part(kind: type[T], entry: Entry | None) -> T | None:
    return None if entry is None else _with(kind, entry.model)


def _with(kind: type[T], model: Any, **more: Any) -> T:
    """Return a `kind` with the keys that the model has; its own defaults for the others."""
    names = _names_of(kind)  # type: ignore[arg-type]
    given = {name: getattr(model, name) for name in type(model).model_fields if name in names} if model else {}
    known = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return kind(**{name: value for name, value in {**known, **more}.items() if value is not None})


@cache
def _names_of(kind: Any) -> frozenset[str]:
    return frozenset(member.name for member in fields(kind))


def _tls(model: Any, absolute: Callable[[str], str]) -> Tls | None:
    if model is None:
        return None
    found = {name: absolute(getattr(model, name)) for name in _TLS_FILES if getattr(model, name)}
    return Tls(**found, server_name=getattr(model, "server_name", None))


def _provider(name: str, model: Any, absolute: Callable[[str], str]) -> ProviderSettings:
    return _with(
        ProviderSettings,
        model,
        name=name,
        params=tuple((model.params or {}).items()),
        timeout=_with(ProviderTimeout, model.timeout),
        limit=_with(ProviderLimit, model.limit),
        tls=_tls(model.tls, absolute),
    )


def _routes(
    entries: Iterable[Entry], providers: dict[str, ProviderSettings], absolute: Callable[[str], str]
) -> tuple[Route, ...]:
    models = [entry.model for entry in entries]
    names = _names(models)
    return tuple(_route(model, name, providers, absolute) for model, name in zip(models, names, strict=True))


def _route(model: Any, name: str, providers: dict[str, ProviderSettings], absolute: Callable[[str], str]) -> Route:
    spec = None
    if model.as_ != "none":
        provider = providers[model.provider] if model.provider else next(iter(providers.values()))
        spec = _spec(model, provider)
    return _with(
        Route,
        model,
        name=name,
        match=_match(model.match),
        upstream=model.upstream.origin,
        base_path=model.upstream.base_path,
        provider=spec and spec.provider,
        grant=spec and spec.grant,
        spec=spec,
        allow=frozenset(model.allow) if model.allow else None,
        replay=_with(Replay, model.replay),
        timeout=_with(UpstreamTimeout, model.timeout),
        tls=_tls(model.tls, absolute),
    )


def _match(model: Any) -> Match:
    host, port = model.host or ("", 0)
    return Match(host, port, model.path or "/", frozenset(model.methods) if model.methods else None)


def _spec(model: Any, provider: ProviderSettings) -> TokenSpec:
    return TokenSpec(
        provider=provider.name,
        issuer=provider.issuer or provider.token_endpoint or "",
        client=provider.client_id,
        grant=model.grant or next(name for as_, name in DEFAULT_GRANTS.items() if as_ == model.as_ and name in GRANTS),
        audience=model.audience or "",
        resources=tuple(model.resource or ()),
        scopes=frozenset().union(*(model.scope or ())),
        params=tuple({**dict(provider.params), **(model.params or {})}.items()),
    )


def _names(models: list[Any]) -> list[str]:
    """Return a name for each route: its own, or one made from host, path and, where needed, methods or a number."""
    taken = {model.name for model in models if model.name}
    names = []
    for model in models:
        name = model.name or _free_name(_match(model.match), taken)
        taken.add(name)
        names.append(name)
    return names


def _free_name(match: Match, taken: set[str]) -> str:
    host = f"[{match.host}]" if ":" in match.host else match.host
    base = host + (f":{match.port}" if match.port else "") + match.path
    base = (base if host else match.path).strip("/") or "any"
    if base not in taken:
        return base
    with_methods = f"{base}:{'+'.join(sorted(match.methods))}" if match.methods else base
    candidates = (with_methods, *(f"{base}-{number}" for number in range(2, len(taken) + 3)))
    return next(name for name in candidates if name not in taken)
