"""`sidecar demo`: tells the story scene by scene, checks each, and stays up for whoever wants to try by hand.

Prints and decides the exit code; what happens is in `scenes`, what it happens on in `stage`.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import signal
import textwrap
import time
from typing import TYPE_CHECKING, TextIO

from aiohttp import ClientError

from sidecar.demo.layout import Check, Scene, Style, scene, style
from sidecar.demo.scenes import SCENES
from sidecar.demo.stage import stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from sidecar.demo.stage import Stage


async def run(once: bool, out: TextIO) -> int:
    """Tell the story on `out`; return 0 where every fact was right, 1 otherwise.

    Without `once` everything stays up afterwards, until SIGINT or SIGTERM.
    """
    look = style(out, os.environ, shutil.get_terminal_size().columns)
    begun = time.monotonic()
    async with stage() as running:
        _print(look, out, _opening(look, running))
        scenes = [await _play(look, out, number, act, running) for number, act in enumerate(SCENES, 1)]
        _print(look, out, _ending(look, scenes, time.monotonic() - begun))
        if not once:
            _print(look, out, _by_hand(look, running))
            await _interrupted()
    return 0 if all(played.right_in_all for played in scenes) else 1


async def _play(
    look: Style, out: TextIO, number: int, act: Callable[[Stage], Awaitable[Scene]], running: Stage
) -> Scene:
    """Play one scene and print it; one that breaks off is shown as such and the next one follows."""
    try:
        played = await act(running)
    except (OSError, ClientError, http.client.HTTPException, ValueError, LookupError) as error:
        name = act.__name__.replace("_", " ")
        played = Scene(name.capitalize(), "", (), (), (Check(f"broken off: {type(error).__name__}", right=False),))
    _print(look, out, scene(look, number, played))
    return played


def _print(look: Style, out: TextIO, lines: Iterable[str]) -> None:
    out.write("".join(f"{look.plain(line)}\n" for line in lines))
    out.flush()


def _opening(look: Style, running: Stage) -> Iterator[str]:
    yield ""
    yield look.paint("A legacy application, an API that wants tokens, and the sidecar between them.", "bold")
    yield "All of it runs in this process, on loopback; nothing leaves the machine."
    yield ""
    yield "The sidecar's configuration:"
    yield ""
    yield from (look.paint(INDENT_YAML + line, "cyan") for line in running.five_lines.splitlines())
    yield ""
    yield from textwrap.wrap(
        "Read the columns as a difference: - did not reach the API, + was put there by the sidecar, ~ was changed. "
        "Tokens are shown as fingerprints.",
        look.width,
    )
    yield ""


INDENT_YAML = "   "


def _ending(look: Style, scenes: list[Scene], took: float) -> Iterator[str]:
    right = sum(played.right_in_all for played in scenes)
    colour = "green" if right == len(scenes) else "red"
    yield look.paint(f"{right} of {len(scenes)} steps as they should be, in {took:.1f} seconds.", colour, "bold")
    yield ""


def _by_hand(look: Style, running: Stage) -> Iterator[str]:
    alice, admin = running.sessions.get("alice", "ID"), f"http://{running.admin}"
    yield look.paint("Everything is still running. Try it by hand:", "bold")
    yield ""
    tries = (
        ("the application's own token", f"curl -x http://{running.proxy} http://stats.internal/stats"),
        (
            "alice, by HTTP_PROXY",
            f"curl -x http://{running.proxy} -b sidecar_session={alice} http://profiles.internal/profile",
        ),
        ("alice, by base URL", f"curl -H 'X-Session-Id: {alice}' http://{running.proxy}/profiles/profile"),
        ("nobody", f"curl -i -x http://{running.proxy} http://profiles.internal/profile"),
        ("revoke all tokens, then ask again", _fault(running, '{"revoke": "all"}')),
        ("break the authorization server", _fault(running, '{"status": 503}')),
        ("mend it", f"curl -X DELETE {running.server.issuer}/_faults"),
        ("end alice's refresh tokens, and her session with the next renewal", _fault(running, '{"kill": "alice"}')),
        ("how the sidecar is", f"curl {admin}/readyz"),
        ("sessions, never tokens", f"curl -H 'Authorization: Bearer {running.admin_token}' {admin}/v1/sessions"),
    )
    for purpose, command in tries:
        yield f"{INDENT_YAML}{look.paint('# ' + purpose, 'dim')}"
        yield f"{INDENT_YAML}{command}"
    yield ""
    yield f"The authorization server's front page: {running.server.issuer}/   The sidecar's: {admin}/"
    yield "Ctrl-C ends it."


def _fault(running: Stage, body: str) -> str:
    return f"curl {running.server.issuer}/_faults --json '{body}'"


async def _interrupted() -> None:
    """Return at the first SIGINT or SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
