"""Durations in seconds, sizes in bytes, counts and switches, from the text of a scalar. Pure."""

from __future__ import annotations

import re
from typing import Literal

from sidecar.config.problems import Misfit, near

_NUMBER = re.compile(r"((?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,9})?)[ ]?([A-Za-z]*)\Z")
_ZERO = re.compile(r"0[0-9]")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
LONGEST = 366 * 86400.0
LARGEST = 2**40
MOST = 10**9
DURATION = "a duration such as 500ms, 2s, 5m or 1h"
SIZE = "a size such as 512, 64KiB, 64KB or 1MiB"
RATE = "a number of bytes a second such as 16 or 1KiB, or 0"
COUNT = "a whole number above 0, such as 100"
SWITCH = "true or false"
MOST_WORKERS = 256
WORKERS = f"auto or a number from 1 to {MOST_WORKERS}"


def duration(text: str) -> float:
    """Return seconds: `500ms`, `2s`, `5m`, `1h`, `7d`, a plain number is seconds. More than 0."""
    found = _NUMBER.match(text)
    if not found or found[2] not in _SECONDS:
        raise Misfit(hint=_octal(text) or "one number and one unit: ms, s, m, h or d; a plain number is seconds")
    return _within(float(found[1]) * _SECONDS[found[2]], LONGEST, DURATION)


def size(text: str) -> int:
    """Return bytes: `64KiB` is 65536, `64KB` is 64000, a plain number is bytes. More than 0, and whole."""
    found = _NUMBER.match(text)
    if not found or found[2].lower() not in _BYTES:
        raise Misfit(hint=_octal(text) or "a plain number is bytes; units are KiB, MiB, GiB and KB, MB, GB")
    exact = float(found[1]) * _BYTES[found[2].lower()]
    if exact != int(exact):
        raise Misfit(hint="this is not a whole number of bytes")
    return int(_within(exact, LARGEST, SIZE))


def rate(text: str) -> int:
    """Return bytes a second, as `size` reads them; 0 for any."""
    return 0 if text == "0" else size(text)


def count(text: str) -> int:
    """Return a whole number, more than 0."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,11}", text):
        raise Misfit(hint=_octal(text))
    if int(text) == 0:
        raise Misfit
    return int(_within(int(text), MOST, COUNT))


def workers(text: str) -> int | Literal["auto"]:
    """Return `auto`, or a number from 1 to `MOST_WORKERS`."""
    if text == "auto":
        return "auto"
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MOST_WORKERS:
        raise Misfit(hint="one for each CPU is enough: write auto")
    return int(text)


def _octal(text: str) -> str:
    """Say what is wrong with `0100`: 64 to a reader of YAML 1.1, 100 to others."""
    return "a number does not begin with 0: some readers take it for an octal one" if _ZERO.match(text) else ""


def _within(value: float, most: float, what: str) -> float:
    if value <= 0:
        raise Misfit(f"expected {what}, and more than 0")
    if value > most:
        raise Misfit(f"expected {what}, and not that large")
    return value


def switch(text: str) -> bool:
    """Return the truth of `true` and `false`, as YAML 1.2 spells them."""
    found = {"true": True, "false": False}.get(text.lower() if text in _SPELLINGS else "")
    if found is None:
        old = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text.lower())
        raise Misfit(hint=f"YAML 1.2 spells it {old}" if old else near(text, ["true", "false"]))
    return found


_SPELLINGS = frozenset(["true", "True", "TRUE", "false", "False", "FALSE"])
