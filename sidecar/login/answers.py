"""What the sign-in listener answers with: pages, redirects with cookies; and what it reads of a request's cookies."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

import structlog
from aiohttp import web

from sidecar.login import cookies, pages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.login.flow import SignInError
    from sidecar.oauth.authorization import Pending

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 20
_log = structlog.get_logger()


def cookies_of(request: web.Request) -> list[tuple[str, str]]:
    """Return the cookies of a request."""
    return cookies.read(request.headers.getall("Cookie", []))


async def form_of(request: web.Request) -> dict[str, str]:
    """Return the fields of a form; nothing where the body is none, and no field that stands there twice."""
    if request.content_type != FORM:
        return {}
    body = await request.read()
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


def page(status: int, text: str, *, forms: bool = False) -> web.Response:
    """Return an HTML page."""
    return web.Response(status=status, text=text, content_type="text/html", headers=pages.headers(forms=forms))


def page_of(error: SignInError, pending: Pending | None = None) -> web.Response:
    """Return the page of what went wrong with the sign-in `pending`, and log its reason."""
    _log.info("sign_in_refused", name=error.name, reason=error.reason)
    trouble = error.trouble
    again = None
    if trouble.again:
        asked = {"return_to": pending.return_to, "provider": pending.provider} if pending else {}
        again = "/oauth2/login" + (f"?{urlencode(asked)}" if asked else "")
    response = page(trouble.status, pages.trouble(trouble.title, trouble.text, again))
    if trouble.status == 503:  # noqa: PLR2004
        response.headers["Retry-After"] = "5"
    return response


def redirect(location: str, set_cookies: Iterable[str]) -> web.Response:
    """Return a 303 to `location`; `set_cookies` are values of Set-Cookie lines."""
    response = web.Response(status=303, headers={"Location": location})
    for line in set_cookies:
        response.headers.add("Set-Cookie", line)
    return response
