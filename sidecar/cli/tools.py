"""`keygen`, `demo`, `version`: commands that need no configuration."""

from __future__ import annotations

import platform
import sys

import click

from sidecar import __version__
from sidecar.build import is_compiled
from sidecar.cli import common


@click.command()
def keygen() -> None:
    """Print a new key for store.keys.

    To rotate, put the new key first and keep the old one until everything has been written again.
    """
    from sidecar.credentials.vault import generate_key

    click.echo(generate_key())


@click.command(short_help="Show the sidecar at work.")
@click.option("--once", is_flag=True, help="Tell the story and end: 0 where everything came out as it should, else 1.")
def demo(once: bool) -> None:
    """Show the sidecar at work with an authorization server, an API and a legacy application of its own."""
    from sidecar.demo import run

    sys.exit(run(once=once))


@click.command()
@common.json_option
def version(as_json: bool) -> None:
    """Print the version, and whether the forwarding path is compiled."""
    python, compiled = platform.python_version(), is_compiled()
    if as_json:
        common.echo_json({"version": __version__, "python": python, "compiled": compiled})
    else:
        click.echo(f"sidecar {__version__} (Python {python}{', compiled' if compiled else ''})")
