"""The status page: one HTML document without scripts, from values to text.

Every value is escaped here and nowhere else. The policy allows this page its own style and nothing more.
"""

from __future__ import annotations

import base64
import hashlib
import time
from html import escape
from string import Template
from typing import TYPE_CHECKING

from sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.admin.state import Readiness, Status

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 72rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.bad { font-weight: 700; }
"""  # noqa: E501 - a style sheet's line
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5">
<title>sidecar: $state</title>
<style>$style</style>
</head>
<body>
<h1>sidecar $version</h1>
<p>$summary</p>
$error
<main>
$sections
</main>
</body>
</html>
""")
_POLICY = f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; {_POLICY}; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

Row = tuple[object, ...]


def render(status: Status, readiness: Readiness, now: float | None = None) -> str:
    """Return the page. `now` is in seconds since the epoch."""
    at = time.time() if now is None else now
    error = status["configuration_error"]
    return _PAGE.substitute(
        state="ready" if readiness.ready else "not ready",
        style=_STYLE,
        version=escape(__version__),
        summary=_summary(status, readiness, at),
        error=f'<p class="bad">The configuration file is refused: {escape(error)}</p>' if error else "",
        sections="\n".join(_sections(status, readiness, at)),
    )


def span(seconds: float | None) -> str:
    """Return a length of time for reading: `59 s`, `12 min`, `3 h 20 min`, `2 d`."""
    if seconds is None:
        return "none"
    whole = max(0, int(seconds))
    if whole < 120:  # noqa: PLR2004
        return f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    if minutes < 120:  # noqa: PLR2004
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d"  # noqa: PLR2004


def _summary(status: Status, readiness: Readiness, now: float) -> str:
    parts = [
        "Ready" if readiness.ready else '<span class="bad">Not ready</span>',
        f"up {span(now - status['started_at'])}",
        f"configuration {escape(status['configuration'])}",
        f"store {escape(status['store'])}",
    ]
    if status["sessions"] is not None:
        parts.append(f"{status['sessions']} session{'' if status['sessions'] == 1 else 's'}")
    if readiness.tokens_last is not None:
        parts.append(f"valid tokens last {span(readiness.tokens_last)} without the provider")
    return " · ".join(parts)


def _sections(status: Status, readiness: Readiness, now: float) -> Iterable[str]:
    yield _table("Dependencies", ("name", "state", "detail"), _checks(readiness))
    columns = ("route", "matches", "upstream", "as", "provider", "scope", "requests", "refused")
    yield _table("Routes", columns, _routes(status))
    providers = [(p["name"], p["address"], p["state"], p["detail"]) for p in status["providers"]]
    yield _table("Authorization servers", ("name", "address", "state", "detail"), providers)
    refusals = [(f"{span(now - r['at'])} ago", r["route"] or "none", r["code"]) for r in status["refusals"]]
    yield _table("Latest refusals", ("when", "route", "code"), refusals)


def _checks(readiness: Readiness) -> list[Row]:
    return [(name, check.state, check.detail) for name, check in readiness.checks.items()]


def _routes(status: Status) -> list[Row]:
    return [
        (
            route["name"], route["match"], route["upstream"], route["as_"], route["provider"], route["scope"],
            route["requests"], route["refusals"],
        )
        for route in status["routes"]
    ]  # fmt: skip


def _table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    if not rows:
        return f"<section><h2>{title}</h2><p>None.</p></section>"
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<section><h2>{title}</h2><div class="scroll" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"
    )
