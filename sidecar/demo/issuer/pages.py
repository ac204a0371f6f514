"""The server's few HTML pages: small, readable without a script, every inserted text escaped, with a strict CSP.

Knows nothing about OAuth. `form-action` names the client's origin too: browsers apply it to the redirect that answers
a form.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from string import Template

from aiohttp import web

_STYLE = """
:root{color-scheme:light dark;font:1.05rem/1.5 system-ui,sans-serif}
body{max-width:34rem;margin:4rem auto;padding:0 1.25rem}
h1{font-size:1.5rem;margin-bottom:.25rem}
form{display:flex;gap:.75rem;flex-wrap:wrap;margin:1.5rem 0}
button{font:inherit;padding:.6rem 1.2rem;border:2px solid #0b57d0;border-radius:.5rem;background:#0b57d0;color:#fff}
button:focus-visible,a:focus-visible{outline:3px solid #f9ab00;outline-offset:2px}
code{overflow-wrap:anywhere}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE = Template(
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>$title</title>'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><style>'
    + _STYLE
    + "</style></head><body><main><h1>$title</h1>$body</main></body></html>"
)
_SIGN_IN = Template(
    "<p>The application <strong>$client</strong> asks for <code>$scope</code>.</p>"
    '<form method="post" action="$action">$buttons</form>'
    "<p>This is a demonstration: choosing a name is the whole sign-in.</p>"
)


def page(title: str, body: str, *, status: int = 200, form_action: str = "'none'") -> web.Response:
    """Return a page. `title` is text; `body` is HTML whose inserted texts are escaped already."""
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; "
        f"frame-ancestors 'none'; form-action {form_action}"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    text = _PAGE.substitute(title=escape(title), body=body)
    return web.Response(text=text, content_type="text/html", status=status, headers=headers)


def sign_in(client: str, scope: str, users: dict[str, str], action: str, origin: str) -> web.Response:
    """Return the sign-in page: one button per demo user. `origin` is where the client's redirect goes."""
    buttons = "".join(
        f'<button name="user" value="{escape(user)}">Sign in as {escape(name)}</button>' for user, name in users.items()
    )
    body = _SIGN_IN.substitute(client=escape(client), scope=escape(scope), action=escape(action), buttons=buttons)
    return page("Sign in", body, form_action=f"'self' {origin}")


def problem(text: str) -> web.Response:
    """Return the page for an authorization request that cannot be answered by a redirect."""
    return page("This sign-in cannot go on", f"<p>{escape(text)}</p>", status=400)


def home(issuer: str) -> web.Response:
    """Return the front page: what this server is and where its documents are."""
    paths = ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/jwks", "/_faults")
    links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in paths)
    intro = f"<p>The demo's authorization server. Its issuer is <code>{escape(issuer)}</code>.</p>"
    return page("Authorization server", f"{intro}<ul>{links}</ul>")
