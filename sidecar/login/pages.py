"""The sign-in's few pages: readable without a script or a picture, every inserted text escaped, under a strict CSP.

Knows no OAuth. The forms' policy lets a sign-out lead on to the authorization server, since browsers apply
`form-action` to the redirects that answer a form.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from string import Template

_STYLE = """
:root{color-scheme:light dark;font:1.05rem/1.5 system-ui,sans-serif}
body{max-width:34rem;margin:4rem auto;padding:0 1.25rem}
h1{font-size:1.5rem;margin-bottom:.25rem}
button{font:inherit;padding:.6rem 1.2rem;border:2px solid #0b57d0;border-radius:.5rem;background:#0b57d0;color:#fff}
button:focus-visible,a:focus-visible{outline:3px solid #f9ab00;outline-offset:2px}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_PAGE = Template(
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>$title</title>'
    '<meta name="viewport" content="width=device-width,initial-scale=1"><style>'
    + _STYLE
    + "</style></head><body><main><h1>$title</h1>$body</main></body></html>"
)


def headers(*, forms: bool = False) -> dict[str, str]:
    """Return the header lines of a page. `forms`: it holds one, whose answer may lead anywhere over https."""
    action = "'self' https: http://localhost:* http://127.0.0.1:*" if forms else "'none'"
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'; "
        f"form-action {action}"
    )
    # same-origin, not no-referrer: with that, browsers send `Origin: null` even to ourselves.
    referrer = "same-origin" if forms else "no-referrer"
    return {"Content-Security-Policy": policy, "Referrer-Policy": referrer, "X-Frame-Options": "DENY"}


def trouble(title: str, text: str, again: str | None) -> str:
    """Return the page of something that went wrong; `again` is the address of another try."""
    link = f'<p><a href="{escape(again)}">Try again</a></p>' if again else ""
    return _page(title, f'<p role="alert">{escape(text)}</p>{link}')


def home(subject: str | None, *, signed_in: bool) -> str:
    """Return the page at the root of the sign-in listener, which only a browser without a proxy in front comes to."""
    who = f" as <strong>{escape(subject)}</strong>" if subject else ""
    told = f"You are signed in{who}." if signed_in else "You are not signed in."
    link = '<a href="/oauth2/logout">Sign out</a>' if signed_in else '<a href="/oauth2/login">Sign in</a>'
    return _page(
        "Signed in" if signed_in else "Sign in",
        f"<p>{told} {link}</p>"
        "<p>Your application is not at this address yet: its proxy sends it everything but /oauth2/.</p>",
    )


def confirm(subject: str | None, return_to: str) -> str:
    """Return the page that asks whether to sign out."""
    who = f" as <strong>{escape(subject)}</strong>" if subject else ""
    return _page(
        "Sign out",
        f"<p>You are signed in{who}.</p>"
        '<form method="post" action="/oauth2/logout">'
        f'<input type="hidden" name="return_to" value="{escape(return_to)}">'
        "<button>Sign out</button></form>",
    )


def _page(title: str, body: str) -> str:
    return _PAGE.substitute(title=escape(title), body=body)
