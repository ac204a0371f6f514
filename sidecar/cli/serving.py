"""`run` and `healthcheck`: the commands of whoever operates the sidecar."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

import click

from sidecar.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.config.apart import Reading


@click.command()
@common.config_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="SIDECAR_LOG_LEVEL",
    help="The least important lines to write.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    show_default=True,
    envvar="SIDECAR_LOG_FORMAT",
    help="JSON lines, or text for people; auto: text on a terminal.",
)
def run(config: Path | None, log_level: str, log_format: str) -> None:
    """Run the sidecar until SIGTERM.

    SIGTERM stops accepting, finishes what is in flight and exits 0. SIGHUP, or a change of the file, reloads the
    configuration: all of it or nothing.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # one that comes too soon asks for what is read anyway
    from sidecar.config.apart import Reading

    gc.disable()  # imports make nothing but what stays: looking through it again and again is a sixth of a start
    path = common.find(config)
    reading = Reading(path, os.environ)  # first of all: it goes on while the rest is imported

    from sidecar import logs

    sink = logs.configure(log_level, log_format, environ=os.environ, stream=sys.stderr)  # type: ignore[arg-type]
    try:
        code = _served(path, reading)
    finally:
        sink.close()
    sys.exit(code)


def _served(path: Path, reading: Reading) -> int:
    from sidecar import app, config
    from sidecar.errors import SealError, StoreBrokenError, StoreUnavailableError

    gc.enable()
    try:
        return app.run(path, os.environ, reading)
    except config.ConfigError as error:
        common.refuse(error)
    except (StoreBrokenError, StoreUnavailableError, SealError) as error:
        common.fail(f"the store cannot be used: {error}")
    except OSError as error:
        common.fail(f"cannot start: {error.strerror or type(error).__name__}")


@click.command()
@common.config_option
@click.option("--admin", metavar="URL", envvar="SIDECAR_ADMIN", help="Admin listener. Default: the configuration's.")
@click.option("--ready", is_flag=True, help="Ask whether it is ready (/readyz), not only alive (/healthz).")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True, help="Seconds.")
def healthcheck(config: Path | None, admin: str | None, ready: bool, timeout: float) -> None:
    """Ask the running sidecar whether it is alive. For a container's HEALTHCHECK.

    A configuration file that has become invalid does not make a running sidecar unhealthy.
    """
    url = admin or _address(config)
    try:
        answer = common.Admin(url, None).ask("GET", "/readyz" if ready else "/healthz", timeout=timeout)
    except common.UnreachableError as error:
        common.fail(str(error))
    if not common.is_success(answer):
        common.fail(f"the sidecar at {url} answered {answer.status}")
    click.echo("ready" if ready else "alive")


def _address(given: Path | None) -> str:
    from sidecar import config

    path = given or next((place for place in common.PLACES if place.is_file()), None)
    bind = config.admin_bind(path, os.environ) if path else None
    return common.url_of(bind) if bind else common.DEFAULT_ADMIN
