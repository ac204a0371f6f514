"""`sessions list` and `sessions revoke`: the session API of a running sidecar, from the command line."""

from __future__ import annotations

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
        rows = [{name: inspecting.shown(value) for name, value in session.items()} for session in found]
        click.echo("\n".join(inspecting.table(rows)))
    else:
        click.echo("no sessions")


@sessions.command()
@click.argument("session")
@common.config_option
@common.admin_options
def revoke(session: str, **where: Any) -> None:
    """Revoke the tokens of SESSION (its id; - reads it from standard input) and delete it."""
    identifier = quote(common.secret_argument(session) or "", safe="")
    common.running(**where).asked("DELETE", f"/v1/sessions/{identifier}")
    click.echo("revoked")
