"""The command line: output, exit codes, and that the documentation names every command and option."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from sidecar import __version__
from sidecar.admin import AdminState, Check, Readiness, make_application, serving
from sidecar.cli import cli
from sidecar.cli.common import url_of
from sidecar.cli.inspecting import lines_of, table
from sidecar.credentials.sessions import ProviderInfo, SessionInfo
from sidecar.model import Secret
from sidecar.settings import Address
from tests.support.same_sidecar import SAME_SIDECAR

ROOT = Path(__file__).parents[2]
TOKEN = "admin-token-0123456789"
SECRET = "client-secret-canary"
FIVE_LINES = """\
providers:
  idp: {issuer: "https://login.example.com", client_id: legacy-app, client_secret: "${CLIENT_SECRET}"}
routes:
  - {match: {host: stats.internal}, upstream: "https://stats.example.com", as: app, scope: stats.read}
  - {match: {host: profiles.internal, methods: [GET]}, upstream: "https://profiles.example.com/v2", as: user, scope: [b, a]}
"""


SESSION = SessionInfo(
    identifier="h1",
    created=0.0,
    last_used=60.0,
    expires_at=86400.0,
    subject=None,
    providers=(ProviderInfo("idp", scopes=("a",), seconds_left=59.7, has_refresh_token=True, generation=3),),
)


class OneSession:
    """Sessions with one session, `s/1`."""

    def __init__(self) -> None:
        self.there = True

    async def put(self, session_id, provider, response):
        raise NotImplementedError

    async def info(self, session_id):
        raise NotImplementedError

    async def all(self, limit):
        return [SESSION][: limit if self.there else 0]

    async def delete(self, session_id):
        found, self.there = self.there and session_id == "s/1", self.there and session_id != "s/1"
        return found


class Running(NamedTuple):
    state: AdminState
    address: Address

    @property
    def url(self) -> str:
        return url_of(self.address)


@contextmanager
def _running(address: Address):
    """Serve an admin listener from a thread, as a sidecar beside the command line."""
    state = AdminState(
        sessions=OneSession(),
        readiness=lambda: Readiness(ready=False, checks={"store": Check("failing")}),
        metrics_text=bytes,
        status=dict,
        explain=lambda method, url, session, headers: {
            "route": "stats", "asked": [method, url], "session_known": session == "s/1", "headers": headers,
        },
        token=Secret(TOKEN),
    )  # fmt: skip
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[Address] = []

    async def serve():
        async with serving(make_application(state), address) as used:
            found.append(used)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(5)
        yield Running(state, found[0])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
        loop.close()


@pytest.fixture
def admin():
    """Run an admin listener on a free port."""
    with _running(Address("127.0.0.1", 0)) as found:
        yield found


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Stand in an empty folder with an environment of our own."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SIDECAR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIENT_SECRET", SECRET)
    return tmp_path


@pytest.fixture
def file(here):
    """Stand in a folder with a good sidecar.yaml."""
    path = here / "sidecar.yaml"
    path.write_text(FIVE_LINES)
    return path


def _call(*arguments, stdin=None):
    result = CliRunner().invoke(cli, arguments, input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


# -- check, routes, schema -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["sidecar.yaml"], []], ids=["named", "found"])
@pytest.mark.usefixtures("file")
def test_check_good_file_prints_one_line(arguments):
    """A good configuration is one line with its numbers, and exit code 0."""
    result = _call("check", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "sidecar.yaml: OK: 2 routes, 1 provider, 1 listener, 2 session sources, 0 apps\n"


def test_check_broken_file_prints_every_problem_and_ends_with_2(file):
    """All problems are shown with their places at once."""
    file.write_text(
        FIVE_LINES.replace("as: app", "as: nobody").replace("match: {host: profiles", "mach: {host: profiles")
    )
    result = _call("check", "sidecar.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert re.search(r"^sidecar\.yaml:4:\d+: ", result.stderr, re.MULTILINE)
    assert re.search(r"^sidecar\.yaml:5:\d+: ", result.stderr, re.MULTILINE)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("by", ["option", "variable", "argument"])
def test_check_finds_the_file_as_other_commands_do(file, by, monkeypatch):
    """`-c` and SIDECAR_CONFIG name the file, as everywhere; an argument goes before them."""
    other = file.rename(file.parent / "other.yaml")
    if by == "variable":
        monkeypatch.setenv("SIDECAR_CONFIG", str(other))
    named = {"option": ["-c", str(other)], "variable": [], "argument": ["-c", "nowhere.yaml", str(other)]}[by]
    result = _call("check", *named)
    assert (result.exit_code, result.stdout.startswith(f"{other}: OK")) == (0, True), result.output


def test_check_warns_and_still_is_ok(file):
    """What deserves a second look is said on stderr; the file is good all the same."""
    text = FIVE_LINES.replace('"https://stats.example.com"', '"http://stats.example.com", insecure: true')
    file.write_text(text)
    result = _call("check")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ")


def test_check_json_tells_the_same_to_programs(file):
    """--json has ok, problems with places, and the same exit codes."""
    result = _call("check", "--json")
    assert (result.exit_code, json.loads(result.stdout)["ok"]) == (0, True)
    file.write_text("rotes: []\n")
    result = _call("check", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"]) == (2, False)
    assert {"file", "line", "column", "key", "message", "hint"} == set(told["problems"][0])


@pytest.mark.parametrize("command", [["check"], ["routes"], ["explain", "GET", "http://a/", "--offline"], ["run"]])
def test_missing_configuration_names_the_places(command):
    """Without a file anywhere, the places that were looked at are named; exit code 2."""
    if Path("/etc/sidecar/sidecar.yaml").exists():
        pytest.skip("this machine has a configuration of its own")
    result = _call(*command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no configuration file")
    assert result.stderr.count("\n") == 1


def test_config_from_the_environment_is_found(file, monkeypatch):
    """SIDECAR_CONFIG names the file where -c does not."""
    moved = file.rename(file.with_name("other.yaml"))
    monkeypatch.setenv("SIDECAR_CONFIG", str(moved))
    assert _call("routes").exit_code == 0


@pytest.mark.usefixtures("file")
def test_routes_is_a_table():
    """The table has a heading and a line per route, and no column that is empty throughout."""
    lines = _call("routes").stdout.splitlines()
    assert lines[0].split() == ["NAME", "MATCH", "UPSTREAM", "AS", "PROVIDER", "GRANT", "SCOPE"]
    assert "GET profiles.internal/" in lines[2]
    assert "https://profiles.example.com/v2" in lines[2]
    assert lines[2].endswith("a b")


@pytest.mark.usefixtures("file")
def test_routes_json_is_a_list():
    """--json gives the same rows as objects."""
    told = json.loads(_call("routes", "--json").stdout)
    assert [(row["as"], row["grant"]) for row in told] == [("app", "client_credentials"), ("user", "session")]


def test_schema_is_json():
    """The schema is one JSON document."""
    result = _call("schema")
    assert result.exit_code == 0
    assert "routes" in json.loads(result.stdout)["properties"]


# -- explain, sessions -----------------------------------------------------------------------------------------------


def test_explain_asks_the_running_sidecar(admin, monkeypatch):
    """Where a sidecar is running its answer is shown, with the session id read from standard input."""
    monkeypatch.setenv("SIDECAR_ADMIN_TOKEN", TOKEN)
    question = [
        "explain",
        "get",
        "http://stats.internal/x",
        "--session",
        "-",
        "-H",
        "Accept: a:b",
        "--admin",
        admin.url,
    ]
    result = _call(*question, "--json", stdin="s/1\n")
    assert json.loads(result.stdout) == {
        "source": "the running sidecar",
        "route": "stats",
        "asked": ["GET", "http://stats.internal/x"],
        "session_known": True,
        "headers": [["Accept", "a:b"]],
    }
    assert "the running sidecar" in _call(*question, stdin="s/1\n").stdout


def test_explain_with_a_wrong_token_fails(admin):
    """A refusal by the running sidecar is told, not papered over with the file."""
    result = _call("explain", "GET", "http://stats.internal/", "--admin", admin.url)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the sidecar answered 401: ")


@pytest.mark.parametrize("header", ["no colon", ": v", ""])
def test_explain_odd_header_is_wrong_usage(header):
    """A header line without a name is exit code 2."""
    assert _call("explain", "GET", "http://a/", "-H", header).exit_code == 2


def test_sessions_are_listed_and_revoked(admin, here, monkeypatch):
    """A session is listed without its id, revoked by its id, and gone."""
    monkeypatch.setattr(
        "sidecar.admin.sessions._log", logging.getLogger()
    )  # the sidecar's log is no part of the answer
    token = here / "token"
    token.write_text(TOKEN + "\n")
    where = ["--admin", admin.url, "--token-file", str(token)]
    (told,) = json.loads(_call("sessions", "list", "--json", *where).stdout)
    assert (told["identifier"], told["providers"][0]["generation"]) == ("h1", 3)
    heading, line = _call("sessions", "list", *where).stdout.splitlines()
    assert heading.split() == ["SESSION", "CREATED", "LAST_USED", "EXPIRES_AT", "TOKENS"]
    assert line.endswith(
        "1970-01-01T00:00:00Z  1970-01-01T00:01:00Z  1970-01-02T00:00:00Z  idp: 60 s left, can be renewed"
    )
    assert _call("sessions", "revoke", "other", *where).exit_code == 1
    assert _call("sessions", "revoke", "-", *where, stdin="s/1\n").stdout == "revoked\n"
    assert _call("sessions", "list", *where).stdout == "no sessions\n"


def test_admin_is_found_in_the_configuration(admin, file):
    """Address and token come from the file where no option names them."""
    file.write_text(FIVE_LINES + f"admin: {{bind: '{admin.address}', token: {TOKEN}}}\n")
    assert _call("sessions", "list").exit_code == 0


def test_a_file_that_cannot_be_read_names_the_way_without_it(here):
    """Whose environment lacks the secrets can still ask the running sidecar, and is told how."""
    (here / "sidecar.yaml").write_text(FIVE_LINES.replace("CLIENT_SECRET", "NOT_IN_THIS_SHELL"))
    result = _call("sessions", "list")
    assert result.exit_code == 2
    assert "NOT_IN_THIS_SHELL is not set" in result.stderr
    assert result.stderr.endswith("such as --admin http://127.0.0.1:8081\n")


def test_admin_on_a_unix_socket_is_reached(tmp_path):
    """unix:PATH reaches an admin listener on a socket."""
    with _running(Address(path=str(tmp_path / "a.sock"))) as found:
        assert _call("healthcheck", "--admin", found.url).stdout == "alive\n"


@pytest.mark.parametrize(
    "url", ["ftp://a", "http://", "http://a:b", "localhost:1", "http://h:1/path", "http://bücher..:1"]
)
def test_admin_of_an_odd_form_is_wrong_usage(url):
    """An address that is no address is exit code 2 and one line."""
    result = _call("sessions", "list", "--admin", url)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("token", [b"\xff\xfe", b"one\ntwo\n", "tökén".encode()])
def test_token_file_that_holds_no_token_is_wrong_usage(admin, here, token):
    """Exit code 2, and the file is named, not what it holds."""
    (here / "token").write_bytes(token)
    result = _call("sessions", "list", "--admin", admin.url, "--token-file", "token")
    assert (result.exit_code, result.stderr) == (2, "error: the admin token in token is not one line of ASCII text\n")


@pytest.mark.parametrize("command", [["sessions", "list"], ["explain", "GET", "http://a/"]])
@pytest.mark.parametrize("body", [b"<html>", b"[1]", b""])
def test_somebody_else_at_the_admin_address_is_one_line(command, body):
    """Another server that says yes to everything is told from a sidecar."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        answer = threading.Thread(target=_answer_once, args=(other, body))
        answer.start()
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        result = _call(*command, "--admin", url)
        answer.join()
    told = f"error: what answers at {url} is not a sidecar's admin listener\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", told)


def _answer_once(server, body):
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass


def test_nobody_at_the_admin_address_is_one_line():
    """No running sidecar is exit code 1."""
    result = _call("sessions", "list", "--admin", f"http://127.0.0.1:{_closed_port()}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"error: no sidecar answers at http://127\.0\.0\.1:\d+ \(Connection refused\)\n", result.stderr)


# -- healthcheck -------------------------------------------------------------------------------------------------------


def test_healthcheck_tells_alive_from_ready(admin):
    """Alive is 0; not ready is 1."""
    assert _call("healthcheck", "--admin", admin.url).exit_code == 0
    result = _call("healthcheck", "--ready", "--admin", admin.url)
    assert (result.exit_code, result.stderr) == (1, f"error: the sidecar at {admin.url} answered 503\n")


def test_healthcheck_of_nobody_is_1():
    """A sidecar that does not answer is unhealthy."""
    assert _call("healthcheck", "--admin", f"http://127.0.0.1:{_closed_port()}").exit_code == 1


def test_healthcheck_of_a_silent_listener_ends_in_time():
    """A sidecar that accepts and says nothing is unhealthy after the time-out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = _call("healthcheck", "--timeout", "0.2", "--admin", f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert result.exit_code == 1
    assert "no answer in time" in result.stderr


def test_healthcheck_uses_the_address_of_the_file(admin, file):
    """The address comes from the configuration."""
    file.write_text(FIVE_LINES + f"admin: {{bind: '{admin.address}'}}\n")
    assert _call("healthcheck").exit_code == 0


@pytest.mark.parametrize(
    "mistake",
    ["rotes: []", "store: {keys: ['${NOT_IN_THIS_SHELL}']}", "limits: {headers: 64k}", "admin: {bind: 127.0.0.1:1}"],
    ids=["unknown key", "missing secret", "bad value", "duplicate key"],
)
def test_healthcheck_finds_the_address_in_a_file_that_has_become_invalid(mistake, admin, file):
    """A mistake made while it runs is refused by the reload; a probe that failed for it would end the sidecar."""
    file.write_text(FIVE_LINES + f"admin: {{bind: '{admin.address}'}}\n{mistake}\n")
    assert _call("check").exit_code == 2
    assert _call("healthcheck").exit_code == 0


# -- run -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def runnable(file):
    """Stand in a folder whose configuration can be run: free ports, a store in memory, no need of many descriptors."""
    more = ("listeners: [{bind: '127.0.0.1:0'}]", "admin: {bind: '127.0.0.1:0'}", "store: {url: 'memory:'}")
    file.write_text(FIVE_LINES + "\n".join([*more, "limits: {connections: 100}"]) + "\n")
    return file


@contextmanager
def _process(*arguments):
    command = [sys.executable, "-m", "sidecar", *arguments]
    environ = os.environ | SAME_SIDECAR
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=lambda found: found.name)
@pytest.mark.usefixtures("runnable")
def test_run_until_a_signal_ends_with_0(stop):
    """[LC-01] An idle sidecar logs JSON lines on stderr, stops when told and exits 0."""
    with _process("run") as process:
        first = json.loads(process.stderr.readline())
        process.send_signal(stop)
        out, rest = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    events = [first["event"], *(json.loads(line)["event"] for line in rest.splitlines())]
    assert events == ["started", "stopping", "stopped"]


def _spoil_port(file):
    taken = socket.create_server(("127.0.0.1", 0))
    file.write_text(
        file.read_text().replace(
            "listeners: [{bind: '127.0.0.1:0'", f"listeners: [{{bind: '127.0.0.1:{taken.getsockname()[1]}'"
        )
    )
    return taken


def _spoil_admin_port(file):
    taken = socket.create_server(("127.0.0.1", 0))
    file.write_text(
        file.read_text().replace("admin: {bind: '127.0.0.1:0'", f"admin: {{bind: '127.0.0.1:{taken.getsockname()[1]}'")
    )
    return taken


def _spoil_store(file):
    store = file.with_name("broken.db")
    store.write_bytes(b"this is no database" * 100)
    store.chmod(0o600)
    file.write_text(file.read_text().replace("memory:", f"sqlite:{store}"))


def _spoil_configuration(file):
    file.write_text(file.read_text().replace("as: app", "as: nobody"))


@pytest.mark.parametrize(
    ("spoil", "code", "begins"),
    [
        pytest.param(
            _spoil_port,
            1,
            r"error: cannot start: cannot listen on 127\.0\.0\.1:\d+: Address already in use",
            id="listener's port taken",
        ),
        pytest.param(
            _spoil_admin_port,
            1,
            r"error: cannot start: cannot listen on 127\.0\.0\.1:\d+: Address already in use",
            id="admin port taken",
        ),
        pytest.param(_spoil_store, 1, "error: the store cannot be used: ", id="ST-05 store broken"),
        pytest.param(_spoil_configuration, 2, "sidecar.yaml:4:", id="CF-01 configuration refused"),
    ],
)
def test_run_that_cannot_start_says_why(runnable, spoil, code, begins):
    """Whatever stops the start is told in plain words on stderr, with its exit code and without a traceback."""
    with spoil(runnable) or nullcontext(), _process("run") as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    assert re.match(begins, err), err
    assert "Traceback" not in err
    if code == 1:
        assert err.count("\n") == 1


def test_explain_without_a_running_sidecar_answers_from_the_file(runnable):
    """Where no sidecar answers, the file says what would happen; the client secret is not in it."""
    result = _call("explain", "GET", "http://stats.internal/x", "--json", "-c", str(runnable))
    told = json.loads(result.stdout)
    assert (told["source"], told["route"]) == ("the configuration file", "stats.internal")
    assert result.stderr.startswith("note: no sidecar answers at ")
    assert SECRET not in result.output


@pytest.mark.parametrize("by", ["option", "variable"])
def test_explain_asks_the_named_sidecar_alone(runnable, by, monkeypatch):
    """A listener that was named and does not answer is a failure: the file may say something else than what runs."""
    named = ("--admin", "unix:/nowhere/at/all.sock")
    if by == "variable":
        monkeypatch.setenv("SIDECAR_ADMIN", named[1])
    result = _call("explain", "GET", "http://a/", "-c", str(runnable), *(named if by == "option" else ()))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: no sidecar answers at unix:/nowhere/at/all.sock (No such file or directory); "
        "the file is asked by --offline\n"
    )


# -- small tools, and the whole ------------------------------------------------------------------------------------------


def test_keygen_makes_a_new_key_each_time():
    """Two keys are never the same, and each is one line."""
    keys = {_call("keygen").stdout for _ in range(3)}
    assert len(keys) == 3
    assert all(re.fullmatch(r"sidecar-k1\.[\w-]{48}\n", key) for key in keys)


def test_version_is_fast_and_needs_no_libraries():
    """`version` imports neither aiohttp nor pydantic nor redis."""
    code = (
        "import sys; sys.argv = ['sidecar', 'version', '--json']\n"
        "from sidecar.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('aiohttp', 'pydantic', 'redis', 'yaml', 'authlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True, cwd=ROOT
    )
    told, _, modules = done.stdout.rpartition("}\n")
    assert json.loads(told + "}")["version"] == __version__
    assert modules == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["--version"], 0), ([], 2), (["nothing"], 2), (["check", "--nothing"], 2), (["sessions"], 2)],
    ids=str,
)
def test_process_ends_with_its_exit_code(arguments, code):
    """`python -m sidecar` ends 0 for help and 2 for wrong usage, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments], capture_output=True, text=True, timeout=20, check=False, cwd=ROOT
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


def test_unforeseen_failure_is_one_line_without_its_text():
    """[LK-06] A defect ends with 1 and says its type and place, not its text."""
    code = (
        "import sys; sys.argv = ['sidecar', 'version']\n"
        "import sidecar.cli.tools as tools\n"
        "def broken(): raise RuntimeError('canary')\n"
        "tools.version.callback = lambda **_: broken()\n"
        "from sidecar.__main__ import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False, cwd=ROOT
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: RuntimeError at ")
    assert "canary" not in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_problems_are_coloured_on_a_terminal_unless_no_color(tmp_path, environ, coloured):
    """Colours go to terminals only, and NO_COLOR switches them off."""
    (tmp_path / "sidecar.yaml").write_text("rotes: []\n")
    controller, terminal = os.openpty()
    base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "SIDECAR_CONFIG")}
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "check", str(tmp_path / "sidecar.yaml")],
        stderr=terminal, stdout=subprocess.DEVNULL, timeout=20, check=False, cwd=ROOT, env=base | environ,
    )  # fmt: skip
    os.close(terminal)
    written = os.read(controller, 10_000)
    os.close(controller)
    assert (done.returncode, b"\x1b[" in written) == (2, coloured)


def _commands(command, path=("sidecar",)):
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _commands(child, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = list(_commands(cli))


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_command_and_its_options_are_documented(name, command):
    """docs/cli.md has a heading for each command and names each of its options there, and no other."""
    sections = re.split(r"^## ", (ROOT / "docs" / "cli.md").read_text(), flags=re.MULTILINE)
    (section,) = [section for section in sections if section.startswith(f"`{name}`")]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`(-\w|--[\w-]+)", rows.replace("|", " ")))
    existing = {
        option for parameter in command.params if isinstance(parameter, click.Option) for option in parameter.opts
    }
    assert documented == existing
    assert command.help


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_option_has_help(name, command):
    """--help says something about each option."""
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option)), name


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        (Address("127.0.0.1", 8081), "http://127.0.0.1:8081"),
        (Address("0.0.0.0", 80), "http://127.0.0.1:80"),
        (Address("::", 80), "http://[::1]:80"),
        (Address("::1", 80), "http://[::1]:80"),
        (Address(path="/run/a.sock"), "unix:/run/a.sock"),
    ],
    ids=str,
)
def test_listener_is_reached_from_its_own_machine(bind, url):
    """An address for listening becomes one for calling."""
    assert url_of(bind) == url


def test_explanation_is_readable():
    """Nested values are indented, names aligned, and control characters harmless."""
    told = {
        "route": "a\x1b[2J",
        "token": {"state": "fresh", "left": 3.5},
        "removed": ["Cookie"],
        "session": None,
        "sent": True,
        "scopes": [],
    }
    assert lines_of(told) == [
        "route:   a\\x1b[2J",
        "token:",
        "  state: fresh",
        "  left:  3.5",
        "removed:",
        "  Cookie",
        "session: none",
        "sent:    yes",
        "scopes:  none",
    ]


def test_table_leaves_out_empty_columns():
    """A column without a value is not shown, a missing value is a dash."""
    assert table([{"a": "1", "b": "", "c": ""}, {"a": "", "b": "", "c": "22"}]) == ["A  C", "1  -", "-  22"]


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]
