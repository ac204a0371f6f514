"""One input of the fuzzer: what a caller does, and what the upstreams do. Saved as JSON, so that it can be replayed."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Step = bytes | str
"""Bytes that arrive, or an event: "eof", "reset", "turn" (let everything settle), "wait" (longer than any deadline),
"slow" (stop reading) and "read" (read on)."""


class Answer(NamedTuple):
    """What an upstream does about one request: at its `head`, or at its `end`, it sends these pieces."""

    at: str
    steps: tuple[Step, ...]


class Case(NamedTuple):
    """`answers` are taken in turn by whatever request reaches an upstream; then the upstreams echo."""

    caller: tuple[Step, ...]
    answers: tuple[Answer, ...] = ()
    slow_upstream: bool = False

    @property
    def sent(self) -> bytes:
        """All bytes of the caller, whether they were delivered or not."""
        return b"".join(step for step in self.caller if isinstance(step, bytes))

    def dump(self) -> str:
        document = {
            "caller": [_shown(step) for step in self.caller],
            "answers": [{"at": answer.at, "steps": [_shown(step) for step in answer.steps]} for answer in self.answers],
            "slow_upstream": self.slow_upstream,
        }
        return json.dumps(document, indent=1)


def load(path: Path) -> Case:
    """Read a case that was saved."""
    document = json.loads(path.read_text("utf-8"))
    return Case(
        tuple(_read(step) for step in document["caller"]),
        tuple(Answer(one["at"], tuple(_read(step) for step in one["steps"])) for one in document["answers"]),
        document["slow_upstream"],
    )


def _shown(step: Step) -> dict[str, str]:
    return {"bytes": step.decode("latin-1")} if isinstance(step, bytes) else {"event": step}


def _read(step: dict[str, str]) -> Step:
    return step["bytes"].encode("latin-1") if "bytes" in step else step["event"]


def collected(found: Iterator[str]) -> list[str]:
    """Return what a judge finds wrong, an exception that escapes included: that is what is being looked for."""
    try:
        return list(found)
    except Exception:  # noqa: BLE001 - whatever escapes
        return ["an exception escaped:\n" + traceback.format_exc()]
