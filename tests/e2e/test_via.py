"""Via: put on where it is configured, and how a loop through several hops is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.program import BOTH, whole

if TYPE_CHECKING:
    from pathlib import Path

URL = "http://stats.internal/a"


@pytest.mark.parametrize(("via", "lines"), [("", [b"1.0 first"]), ("edge-1", [b"1.0 first", b"1.1 edge-1"])])
async def test_via_configured_or_not_is_added_after_the_others_or_left_alone(
    tmp_path: Path, via: str, lines: list[bytes]
) -> None:
    """[HD-09] The received version and our pseudonym go on as a line of their own; without a pseudonym nothing does."""
    async with whole(tmp_path, BOTH, more=f"via: '{via}'" if via else "") as run:
        reply = await run.ask(URL, [("Via", "1.0 first")])
        (seen,) = run.seen
    assert reply.status == 200
    assert seen.all(b"via") == lines
    assert reply.all("via") == ([f"1.1 {via}"] if via else [])


async def test_via_with_our_pseudonym_is_a_loop(tmp_path: Path) -> None:
    """[HD-09, HD-10] What has come through us before ends here, and the upstream sees nothing."""
    async with whole(tmp_path, BOTH, more="via: edge-1") as run:
        reply = await run.ask(URL, [("Via", "1.1 other, 1.1 edge-1")])
        assert (reply.status, reply.code) == (508, "loop")
        assert not run.seen
