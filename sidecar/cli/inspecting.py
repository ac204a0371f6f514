"""`check`, `explain`, `routes`, `schema`: what the configuration says and what would happen, without doing it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.settings import Route, Settings


@click.command(short_help="Check a configuration file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), required=False)
@common.config_option
@common.json_option
def check(file: Path | None, config: Path | None, as_json: bool) -> None:
    """Check a configuration FILE and show everything that is wrong with it.

    Without FILE: the one that other commands would use.
    """
    path = common.find(file or config)
    if as_json:
        _check_as_json(path)
        return
    settings = common.load(path)
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{path}: OK: {summary(settings)}")


def _check_as_json(path: Path) -> None:
    from sidecar import config

    try:
        settings = config.load(path, os.environ)
    except config.ConfigError as error:
        members = ("file", "line", "column", "key", "message", "hint")
        problems = [{name: getattr(problem, name) for name in members} for problem in error.problems]
        common.echo_json({"ok": False, "problems": problems, "warnings": []})
        sys.exit(common.CONFIGURATION)
    common.echo_json({"ok": True, "problems": [], "warnings": list(settings.warnings)})


def summary(settings: Settings) -> str:
    """Return the numbers of what is configured, for one line."""
    counted = {
        "route": len(settings.routes),
        "provider": len(settings.providers),
        "listener": len(settings.listeners),
        "session source": len(settings.sessions),
        "app": len({app.app for app in settings.apps}),
    }
    told = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in counted.items()]
    if settings.workers != 1:
        from sidecar.workers import cpus

        here = f" ({cpus.usable()} here)" if settings.workers == "auto" else ""
        told.append(f"workers: {settings.workers}{here}")
    return ", ".join(told)


@click.command(short_help="Tell what would happen to a request.")
@click.argument("method")
@click.argument("url")
@click.option("--session", metavar="ID", help="Session id of the caller; - reads it from standard input.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header line; repeatable.")
@click.option("--offline", is_flag=True, help="Explain from the file, even where a sidecar is running.")
@common.config_option
@common.admin_options
@common.json_option
def explain(
    *, method: str, url: str, session: str | None, headers: tuple[str, ...], offline: bool, as_json: bool, **where: Any
) -> None:
    """Tell what would happen to a request: route, caller, grant, scopes, token state, what would be sent.

    Nothing is sent, and the token is never shown. Asks the running sidecar where there is one, else the file; with
    --admin it asks that sidecar alone.
    """
    question = {
        "method": method.upper(),
        "url": url,
        "session": common.secret_argument(session),
        "headers": [_header(line) for line in headers],
    }
    source, answer = _offline(question, where) if offline else _explained(question, where)
    result = {"source": source, **answer}
    if as_json:
        common.echo_json(result)
    else:
        click.echo("\n".join(lines_of(result)))


def _explained(question: dict[str, Any], where: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Ask the running sidecar; where the file alone says that there is one, and there is none, ask the file."""
    admin = common.running(**where)
    try:
        answer = admin.ask("POST", "/v1/explain", question)
    except common.UnreachableError as error:
        if where["admin"] is not None:
            common.fail(f"{error}; the file is asked by --offline")
        click.echo(f"note: {error}", err=True)
        return _offline(question, where)
    if not common.is_success(answer):
        common.fail(common.told(answer))
    return "the running sidecar", admin.meant(answer)


def _offline(question: dict[str, Any], where: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    settings = common.load(common.find(where["config"]))

    from sidecar import app

    return "the configuration file", app.explain(settings, *question.values())


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise click.UsageError("-H takes 'NAME: VALUE'")
    return name.strip(), value.strip()


def lines_of(value: dict[str, Any], indent: str = "") -> list[str]:
    """Return `value` as lines for people, names aligned, nested values below their name."""
    width = max((len(name) for name in value), default=0)
    lines = []
    for name, item in value.items():
        label = name.replace("_", " ")
        if isinstance(item, dict) and item:
            lines += [f"{indent}{label}:", *lines_of(item, indent + "  ")]
        elif isinstance(item, (list, tuple)) and item:
            lines += [f"{indent}{label}:", *(f"{indent}  {shown(one)}" for one in item)]
        else:
            lines.append(f"{indent}{label + ':':{width + 2}}{shown(item)}")
    return lines


def shown(value: Any) -> str:
    """Return `value` as one line that no terminal can take for a command."""
    words = {None: "none", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, (list, tuple, dict)):
        parts = [f"{name}: {shown(item)}" for name, item in value.items()] if isinstance(value, dict) else value
        return " ".join(shown(part) for part in parts) or "none"
    text = str(value) if value != "" else "none"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@click.command(short_help="List the routes.")
@common.config_option
@common.json_option
def routes(config: Path | None, as_json: bool) -> None:
    """List the routes of the configuration, in the order of the file."""
    found = [row_of(route) for route in common.load(common.find(config)).routes]
    if as_json:
        common.echo_json(found)
    elif found:
        click.echo("\n".join(table(found)))


def row_of(route: Route) -> dict[str, str]:
    """Return one line of the table of routes."""
    match, spec = route.match, route.spec
    host = (match.host or "*") + (f":{match.port}" if match.port else "")
    return {
        "name": route.name,
        "match": " ".join([*([",".join(sorted(match.methods))] if match.methods else []), host + match.path]),
        "upstream": f"{route.upstream}{route.base_path}",
        "as": route.as_,
        "provider": route.provider or "",
        "grant": route.grant or "",
        "scope": " ".join(sorted(spec.scopes)) if spec else "",
        "audience": spec.audience if spec else "",
        "allow": " ".join(sorted(route.allow)) if route.allow is not None else "",
    }


def table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Return aligned lines with a heading, without the columns that are empty in every row."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    cells = [[name.upper() for name in columns], *([row[name] or "-" for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


@click.command(short_help="Print the JSON Schema of the configuration.")
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from sidecar import config

    common.echo_json(config.json_schema())
