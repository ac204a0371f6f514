"""`sessions list` and `sessions revoke`: the session API of a running sidecar, from the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import click

from sidecar.cli import common, inspecting


@click.group(short_help="List sessions of a running sidecar, or end one.")
def sessions() -> None:
    """Look at the sessions of a running sidecar, or end one."""


@sessions.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many to show.")
@common.config_option
@common.admin_options
@common.json_option
def list_sessions(limit: int, as_json: bool, **where: Any) -> None:
    """List sessions: metadata only, never tokens."""
    found = common.running(**where).asked("GET", f"/v1/sessions?limit={limit}")["sessions"]
    if as_json:
        common.echo_json(found)
    elif found:
        click.echo("\n".join(inspecting.table([_row(session) for session in found])))
    else:
        click.echo("no sessions")


def _row(session: dict[str, Any]) -> dict[str, str]:
    times = {name: _time(session[name]) for name in ("created", "last_used", "expires_at")}
    providers = ", ".join(_provider(one) for one in session["providers"])
    subject = inspecting.shown(session["subject"]) if session["subject"] else ""
    return {"session": session["identifier"], "subject": subject, **times, "tokens": providers}


def _provider(one: dict[str, Any]) -> str:
    left: float = one["seconds_left"]
    state = f"{left:.0f} s left" if left > 0 else "expired"
    return f"{one['provider']}: {state}{', can be renewed' if one['has_refresh_token'] else ''}"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@sessions.command()
@click.argument("session")
@common.config_option
@common.admin_options
def revoke(session: str, **where: Any) -> None:
    """Revoke the tokens of SESSION (its id; - reads it from standard input) and delete it."""
    identifier = quote(common.secret_argument(session) or "", safe="")
    common.running(**where).asked("DELETE", f"/v1/sessions/{identifier}")
    click.echo("revoked")
