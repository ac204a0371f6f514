"""Via: put on where it is configured, and how a loop through several hops is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.program import BOTH, whole

if TYPE_CHECKING:
    from pathlib import Path

GET = ("GET", "http://stats.internal/a")


@pytest.mark.parametrize(("via", "lines"), [("", ["1.0 first"]), ("edge-1", ["1.0 first", "1.1 edge-1"])])
async def test_via_configured_or_not_is_added_after_the_others_or_left_alone(
    tmp_path: Path, via: str, lines: list[str]
) -> None:
    """[HD-09] The received version and our pseudonym go on as a line of their own; without a pseudonym nothing does."""
    async with whole(tmp_path, BOTH, more=f"via: '{via}'\n" if via else "") as run:
        reply = await run.ask(*GET, [("Via", "1.0 first")])
        seen = run.upstream.requests[-1]
    assert reply.status == 200
    assert [value.decode() for name, value in seen.headers if name.lower() == b"via"] == lines
    assert reply.all("via") == ([f"1.1 {via}"] if via else [])


async def test_via_with_our_pseudonym_is_a_loop(tmp_path: Path) -> None:
    """[HD-09, HD-10] What has come through us before ends here, and the upstream sees nothing."""
    async with whole(tmp_path, BOTH, more="via: edge-1\n") as run:
        reply = await run.ask(*GET, [("Via", "1.1 other, 1.1 edge-1")])
        seen = list(run.upstream.requests)
    assert (reply.status, reply.code) == (508, "loop")
    assert not seen
