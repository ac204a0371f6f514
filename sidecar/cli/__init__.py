"""The command line: what is typed, what is printed, and the exit code (0 done, 1 failed, 2 usage or configuration).

Decides nothing about requests. Libraries are imported where a command needs them, so that `--help` and `version` answer
at once. A failure is one line on stderr, never a traceback, and never the text of an exception that nobody foresaw.
"""

from __future__ import annotations

import sys
import traceback

import click

from sidecar import __version__
from sidecar.cli import inspecting, keys, serving, sessions, tools

_EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage or a configuration that is refused."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG)
@click.version_option(__version__, message="sidecar %(version)s")
def cli() -> None:
    """Put the right OAuth bearer token on a legacy application's requests."""


for command in (
    serving.run,
    inspecting.check,
    inspecting.explain,
    inspecting.routes,
    inspecting.schema,
    sessions.sessions,
    keys.keys,
    tools.keygen,
    tools.demo,
    serving.healthcheck,
    tools.version,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line of this process."""
    try:
        cli.main(prog_name="sidecar")
    except Exception as error:  # noqa: BLE001 - the last line: its type and place are told, its text may hold anything
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = "/".join(frame.filename.split("/")[-2:])
        click.echo(f"error: {type(error).__name__} at {place}:{frame.lineno}; please report this", err=True)
        sys.exit(1)
