"""Log lines: their shape, what is kept out of them, and that nobody waits for them."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import warnings
from pathlib import Path

import pytest
import structlog

from sidecar import logs
from sidecar.log_text import LONGEST, scrub
from sidecar.model import Secret

ROOT = Path(__file__).parents[2]
EVENT = re.compile(
    r"""(?:_log\.(?:debug|info|warning|error)|(?<![.\w])tell)\(\s*"([a-z_]+)", *[a-z_]+=|_log\.[a-z]+\("([a-z_]+)"\)"""
)
CANARY = "canary-7f3a9c51d2"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnktN2YzYTljNTFkMiJ9.c2lnbmF0dXJlLWNhbmFyeQ"


class Log:
    """A pipe that stands for stderr, and what was written to it."""

    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w")
        self.sink: logs.Sink | None = None

    def open(self, level="info", style="json", environ=None):
        self.sink = logs.configure(level, style, environ=environ or {}, stream=self.stream)
        return structlog.get_logger()

    def text(self) -> str:
        self.sink.close()
        self.stream.close()
        return self.drain().decode()

    def drain(self) -> bytes:
        with os.fdopen(self.reader, "rb") as reader:
            self.reader = -1
            return reader.read()

    def close_reader(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
            self.reader = -1

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log():
    """Give a log to one test, and put the logging of the process back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    given = Log()
    yield given
    if given.sink is not None:
        given.sink.close()
    given.stream.close()
    given.close_reader()
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def test_line_is_one_json_object(log):
    """A line has time, level and event, then what was given."""
    log.open().info("started", listeners=["127.0.0.1:8080"], routes=2, ok=True, share=0.5, none=None)
    (line,) = log.lines()
    assert list(line)[:3] == ["time", "level", "event"]
    assert line["time"].endswith("Z")
    assert (line["level"], line["event"], line["listeners"]) == ("info", "started", ["127.0.0.1:8080"])
    assert (line["routes"], line["ok"], line["share"], line["none"]) == (2, True, 0.5, None)


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_hides_what_is_below_it(log, level, shown):
    """Lines below the level are not written."""
    logger = log.open(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("x")
    assert len(log.lines()) == shown


@pytest.mark.parametrize(
    "name",
    ["token", "access_token", "refresh_token", "id_token", "client_secret", "password", "authorization", "Cookie", "Set-Cookie",
     "session", "session_id", "code", "code_verifier", "client_assertion", "api_key", "X-Api-Key", "key", "DPoP"],
)  # fmt: skip
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_member_with_a_telling_name_is_blanked(log, name, nested):
    """[LK-00] A member whose name says credential is blanked, at any depth."""
    event = {"given": [{name: CANARY}]} if nested else {name: CANARY}
    log.open().info("x", **event)
    text = log.text()
    assert CANARY not in text
    assert "[redacted]" in text


def test_code_of_a_refusal_is_no_secret(log):
    """`code` is kept where it is a row of the table of refusals."""
    log.open().info("refused", code="login_required")
    assert log.lines()[0]["code"] == "login_required"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {CANARY}",
        f"authorization: bearer  {CANARY}",
        f"DPoP {CANARY}",
        f"Basic {CANARY}",
        f"https://user:{CANARY}@login.example.com/token",
        f"https://{CANARY}@login.example.com/token",
        f"/callback?code={CANARY}&x=1",
        f"grant_type=refresh_token&refresh_token={CANARY}",
        f"client_secret={CANARY}",
        f'{{"access_token": "{CANARY}"}}',
        f"{{'refresh_token': '{CANARY}'}}",
        f"('assertion', '{CANARY}')",
        f"(b'client_secret', b'{CANARY}')",
        f"Cookie: a=b; sidecar_session={CANARY}",
        f"got {JWT} from it",
    ],
)
def test_credential_of_a_known_shape_is_blanked_in_any_text(log, text):
    """[LK-07] Text that slipped through with a credential in it loses it."""
    logger = log.open()
    logger.info(text, detail=text, more=[text], deep={"a": text})
    logging.getLogger("foreign").warning("%s", text)
    written = log.text()
    assert CANARY not in written
    assert JWT not in written


@pytest.mark.parametrize(
    "text", ["GET /items?page=2 of 7", "https://api.example.com/a@b", "basic facts", "12:30:01", "a.b.c"]
)
def test_ordinary_text_is_left_alone(text):
    """The last line of defence does not eat ordinary words."""
    assert scrub(text) == text


def test_secret_and_foreign_objects_show_their_type_only(log):
    """A value that is no plain data is never written by its repr."""
    log.open().info("x", a=Secret(CANARY), b=CANARY.encode(), c=RuntimeError(CANARY), d={"e": {Secret(CANARY)}})
    (line,) = log.lines()
    assert (line["a"], line["b"], line["c"], line["d"]) == (
        "<Secret>",
        "<bytes>",
        "<RuntimeError>",
        {"e": ["<Secret>"]},
    )


def test_exception_tells_type_and_places_but_not_its_text(log):
    """[LK-06] The text of an exception may quote anything, so it stays out; where it went is told."""
    logger = log.open()
    try:
        _fail()
    except RuntimeError as error:
        logger.exception("failed")
        logger.error("again", exc_info=error)  # noqa: TRY400 - the other way to name an exception
    text = log.text()
    assert CANARY not in text
    for line in map(json.loads, text.splitlines()):
        assert line["exception"] == "RuntimeError"
        assert line["trace"][-1].endswith(" _fail")


def _fail():
    raise RuntimeError(CANARY)


@pytest.mark.parametrize("name", ["aiohttp.server", "aiohttp.access", "asyncio", "authlib.oauth2", "redis", "anything"])
@pytest.mark.parametrize("level", ["debug", "error"])
def test_other_libraries_show_warnings_and_worse_only(log, name, level):
    """[LK-09] At any level of ours, other libraries' chatter, which may quote anything, is not written."""
    log.open(level)
    logger = logging.getLogger(name)
    logger.debug("chatter %s", CANARY)
    logger.info("chatter %s", CANARY)
    logger.error("Task exception was never retrieved\nfuture: <Task exception=%s>", CANARY)
    (line,) = log.lines()
    assert (line["logger"], line["event"]) == (name, "Task exception was never retrieved")


def test_own_standard_logger_keeps_its_members(log):
    """What a module of ours says beside the event is written, scrubbed; what a library adds is not."""
    log.open("info")
    logging.getLogger("sidecar.stores").warning("store_failing", extra={"reason": "Redis: Error", "token": CANARY})
    logging.getLogger("redis").warning("gone", extra={"reason": CANARY})
    own, other = log.lines()
    assert (own["event"], own["reason"]) == ("store_failing", "Redis: Error")
    assert "reason" not in other
    assert CANARY not in str([own, other])


def test_own_standard_logger_has_our_level(log):
    """A module of ours that uses the standard library's logging is heard at our level, named and scrubbed."""
    log.open("info")
    logger = logging.getLogger("sidecar.credentials")
    logger.debug("hidden")
    logger.info("renewed at %s", f"https://{CANARY}@login.example.com/")
    (line,) = log.lines()
    assert (line["level"], line["event"]) == ("info", "renewed at https://[redacted]@login.example.com/")


def test_warning_of_python_goes_the_same_way(log):
    """warnings.warn becomes a line, not text between lines."""
    log.open()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert log.lines()[0]["logger"] == "py.warnings"


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "evil",
    [
        "a\r\nb",
        "a\nlevel=error",
        "\x1b[2J\x1b]0;x\x07",
        "\u202eabc",
        "\u2066x",
        "\u2028",
        "\x85",
        "\x7f",
        "\x00",
        "\ud800",
        "\ufeff",
        "\u200b",
    ],
    ids=ascii,
)
def test_text_cannot_leave_its_line(log, style, evil):
    """[LK-17] Line ends, terminal and reading-direction characters are escaped: one record, one line."""
    logs_line = f"/path{evil}/end"
    log.open(style=style).info(logs_line, path=logs_line, **{f"n{evil}": 1})
    text = log.text()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert not any(character in text[:-1] for character in evil if not character.isprintable())
    if style == "json" and "\ud800" not in evil:
        assert json.loads(text)["path"] == logs_line


def test_long_text_is_cut(log):
    """A text of a megabyte becomes a line of a few kilobytes."""
    log.open().info("x", path="a" * 2**20)
    assert len(log.lines()[0]["path"]) == LONGEST + 1


def test_huge_number_is_still_a_line(log):
    """A number beyond 64 bits does not lose the line."""
    log.open().info("x", number=2**70)
    assert log.lines()[0]["number"] == str(2**70)


def test_console_is_readable(log):
    """The console style is one plain line, without colours where there is no terminal."""
    log.open(style="console").warning("provider away", provider="idp", retry=[1, 2])
    text = log.text()
    assert text[13:].startswith("warning provider away  provider=idp  retry=[1,2]")
    assert "\x1b" not in text


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)])
def test_terminal_gets_the_console_style_and_no_color_is_respected(environ, coloured):
    """On a terminal lines are for people; NO_COLOR switches colours off."""
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        sink = logs.configure(environ=environ, stream=stream)
        structlog.get_logger().info("started")
        sink.close()
        written = os.read(controller, 1000)
    os.close(controller)
    assert b"started" in written
    assert (b"\x1b[32m" in written) is coloured


def test_blocked_reader_costs_lines_and_no_time(log):
    """[OV-08] When the pipe is full, lines are dropped and counted; whoever logs goes on at once."""
    sink = logs.Sink(log.stream.fileno(), size=100)
    began = time.monotonic()
    for _ in range(2000):
        sink.write(b"x" * 1023 + b"\n")
    assert time.monotonic() - began < 2
    assert sink.dropped >= 1000
    drained = threading.Thread(target=log.drain)
    drained.start()
    sink.close(5)
    log.stream.close()
    drained.join(5)
    assert not drained.is_alive()


def test_closed_reader_costs_lines_and_no_error(log):
    """A log whose reader is gone is counted, not raised."""
    sink = logs.Sink(log.stream.fileno())
    log.close_reader()
    sink.write(b"x\n")
    sink.close(5)
    assert sink.dropped == 1
    log.stream.close()


def test_blocked_reader_does_not_hold_up_the_end(log):
    """Closing waits only so long for a reader that does not read."""
    sink = logs.Sink(log.stream.fileno(), size=10)
    for _ in range(200):
        sink.write(b"x" * 2000)
    began = time.monotonic()
    sink.close(0.2)
    assert time.monotonic() - began < 2
    drained = threading.Thread(target=log.drain)
    drained.start()
    sink.close(5)
    log.stream.close()
    drained.join(5)
    assert not drained.is_alive()


def test_access_line_holds_no_query(log):
    """[LK-12] The access line names the request without its query."""
    log.open()
    logs.access(
        request_id="r1", method="GET", path=f"/a?access_token={CANARY}", route="stats", status=200, seconds=0.0012345678
    )
    (line,) = log.lines()
    assert (line["event"], line["path"], line["seconds"], line["status"]) == ("request", "/a", 0.001235, 200)


def test_access_line_holds_no_credential_that_the_request_brought(log):
    """[LK-12] A token in the path or as request id is blanked; what is left of the line stays."""
    log.open()
    logs.access(request_id=JWT, method="GET", path=f"/a/{JWT}/b", route="stats", status=200, seconds=0.001)
    logs.access(request_id="r", method="GET", path="/a/access_token=abcdefgh", route="stats", status=200, seconds=0.001)
    first, second = log.lines()
    assert (first["request_id"], first["path"]) == ("[redacted]", "/a/[redacted]/b")
    assert second["path"] == "/a/access_token=[redacted]"


def test_access_line_is_not_written_above_its_level(log):
    """A log of warnings has no lines of requests."""
    log.open("warning")
    logs.access(request_id="r", method="GET", path="/a", route="stats", status=200, seconds=0.001)
    assert log.lines() == []


def test_access_line_on_the_console_is_one_line_too(log):
    """The console style shows the same members, and no control character that a path brought."""
    log.open(style="console")
    logs.access(request_id="r", method="GET", path="/a\x1b[2J", route="stats", status=200, seconds=0.001)
    text = log.text()
    assert text.count("\n") == 1
    assert "request  request_id=r  method=GET  path=/a\\u001b[2J  route=stats  status=200" in text


def test_lines_of_a_burst_are_all_written_in_their_order(log):
    """Lines that come faster than they are written go out together, whole and in order."""
    sink = logs.Sink(log.stream.fileno())
    read = []
    drained = threading.Thread(target=lambda: read.append(log.drain()))
    drained.start()
    for number in range(5000):
        sink.write(b"%d " % number + b"x" * (number % 300) + b"\n")
    sink.close(10)
    log.stream.close()
    drained.join(10)
    assert sink.dropped == 0
    assert [line.split()[0] for line in read[0].splitlines()] == [b"%d" % number for number in range(5000)]


def test_documentation_names_every_event() -> None:
    """[LG-01] docs/logs.md has a row for each, and for no other."""
    written = {"request"}
    for module in (ROOT / "sidecar").rglob("*.py"):
        if "demo" not in module.parts:
            written |= {one or other for one, other in EVENT.findall(module.read_text())}
    told = re.findall(r"^\| (`[^|]+`) \| [a-z]", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE)
    assert {event for names in told for event in re.findall("`([a-z_]+)`", names)} == written
