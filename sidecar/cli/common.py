"""What several commands need: the configuration file, its problems, and the running sidecar's admin listener."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

if TYPE_CHECKING:
    from sidecar.model import Secret
    from sidecar.settings import Address, Settings

PLACES = (Path("sidecar.yaml"), Path("/etc/sidecar/sidecar.yaml"))
DEFAULT_ADMIN = "http://127.0.0.1:8081"
WITHOUT_FILE = f"a running sidecar is asked without its file by --admin URL, such as --admin {DEFAULT_ADMIN}"
CONFIGURATION, FAILED = 2, 1
NO_CONTENT = 204
TIMEOUT = 5.0  # seconds that an answer of the admin listener may take


def config_option(command: Any) -> Any:
    """Add `-c FILE` to a command."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="SIDECAR_CONFIG",
        help="Configuration file. Default: sidecar.yaml here, then /etc/sidecar/sidecar.yaml.",
    )(command)


def admin_options(command: Any) -> Any:
    """Add `--admin URL` and `--token-file FILE` to a command."""
    command = click.option(
        "--token-file",
        type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="File with the admin token. Default: SIDECAR_ADMIN_TOKEN, then the configuration's.",
    )(command)
    return click.option(
        "--admin",
        metavar="URL",
        envvar="SIDECAR_ADMIN",
        help="Admin listener, http://HOST:PORT or unix:PATH. Default: the configuration's.",
    )(command)


def json_option(command: Any) -> Any:
    """Add `--json` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def secret_argument(given: str | None) -> str | None:
    """Return an argument that other users of the machine should not see in the list of processes: `-` reads a line."""
    return sys.stdin.readline().rstrip("\r\n") if given == "-" else given


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print one line on stderr and end with `code`."""
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


def find(given: Path | None) -> Path:
    """Return the configuration file to use; end with code 2 where there is none."""
    if given is not None:
        return given
    for place in PLACES:
        if place.is_file():
            return place
    fail(f"no configuration file: name one with -c, or make {' or '.join(map(str, PLACES))}", CONFIGURATION)


def load(path: Path, advice: str = "") -> Settings:
    """Return the configuration; print all its problems, and `advice`, and end with code 2 where it has any."""
    from sidecar import config

    try:
        return config.load(path, os.environ)
    except config.ConfigError as error:
        refuse(error, advice)


def refuse(error: Any, advice: str = "") -> NoReturn:
    """Print the problems of a configuration (a `ConfigError`) and `advice` on stderr and end with code 2."""
    from sidecar import config

    click.echo(config.render(error, colour=colour(sys.stderr)), err=True)
    if advice:
        click.echo(advice, err=True)
    sys.exit(CONFIGURATION)


def colour(stream: Any) -> bool:
    """Whether text for `stream` is coloured: on a terminal, unless NO_COLOR says no (no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR")


def echo_json(value: Any) -> None:
    """Print `value` as JSON for programs and people."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


class Answer(NamedTuple):
    """What the admin listener said: a status, and its JSON."""

    status: int
    body: Any


class UnreachableError(Exception):
    """Nobody answers at the admin listener's address."""


class Admin(NamedTuple):
    """The admin listener of a running sidecar: `http://HOST:PORT` or `unix:PATH`, and its token."""

    url: str
    token: Secret | None

    def ask(self, method: str, path: str, body: Any = None, timeout: float = TIMEOUT) -> Answer:
        """Send a request; raise `UnreachableError` where nobody answers, end the command where the address is odd."""
        from sidecar.cli import asking

        return asking.ask(self, method, path, body, timeout)

    def asked(self, method: str, path: str, body: Any = None) -> Any:
        """Return the JSON of a successful answer; end the command with one line otherwise."""
        try:
            answer = self.ask(method, path, body)
        except UnreachableError as error:
            fail(str(error))
        return self.meant(answer) if is_success(answer) else fail(told(answer))

    def meant(self, answer: Answer) -> Any:
        """Return the JSON of a successful answer; end the command where no sidecar gives such a one."""
        if answer.status != NO_CONTENT and not isinstance(answer.body, dict):
            fail(f"what answers at {self.url} is not a sidecar's admin listener")
        return answer.body


def running(admin: str | None, token_file: Path | None, config: Path | None) -> Admin:
    """Return the admin listener that the options, the environment or the configuration name."""
    from sidecar.model import Secret

    token = os.environ.get("SIDECAR_ADMIN_TOKEN")
    if token_file is not None:
        token = token_file.read_bytes().rstrip(b"\r\n").decode("latin-1")
    if token and not (token.isascii() and token.isprintable()):
        fail(f"the admin token{f' in {token_file}' if token_file else ''} is not one line of ASCII text", CONFIGURATION)
    if admin is not None:
        return Admin(admin, Secret(token) if token else None)
    settings = load(find(config), WITHOUT_FILE)
    return Admin(url_of(settings.admin.bind), Secret(token) if token else settings.admin.token)


def url_of(bind: Address) -> str:
    """Return where a listener is reached that listens at `bind`, from the same machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(bind.host, bind.host)  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    return f"unix:{bind.path}" if bind.path else f"http://{shown}:{bind.port}"


def is_success(answer: Answer) -> bool:
    """Whether the listener did what it was asked."""
    return 200 <= answer.status < 300  # noqa: PLR2004


def told(answer: Answer) -> str:
    """Return one line that says why the listener refused."""
    detail = answer.body.get("detail") if isinstance(answer.body, dict) else None
    return f"the sidecar answered {answer.status}: {detail or 'no reason given'}"
