"""What the programs of the soak share: their options, their summary line, their exit code."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from typing import TYPE_CHECKING, Any

from sidecar.build import is_compiled
from soak import canary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NICE = 10
"""The priority of everything that a program starts, in all."""


def options(description: str, **defaults: Any) -> argparse.Namespace:
    """Read the command line: `--seed`, `--store`, and one option for each default, of its type."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn at random")
    parser.add_argument("--store", choices=("sqlite", "redis"), default="sqlite", help="what the instances share")
    for name, (default, meaning) in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=meaning)
    return parser.parse_args()


def main(run: Callable[[argparse.Namespace], Awaitable[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    """Run a program, print its figures as one line of JSON, exit 1 where any of `failures` is not empty.

    `compiled` among them says whether it is the image's sidecar that was measured.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 16384)), hard))
    os.nice(max(0, NICE - os.nice(0)))
    began = time.monotonic()
    figures = asyncio.run(run(arguments))
    figures["seconds"] = round(time.monotonic() - began, 1)
    if canary.FOLDER:
        figures["canary"] = {name: canary.found[name] for name in ("secrets", "files")}
        figures["failures"]["secrets_shown"] = canary.found["hits"]
    failures = {name: value for name, value in figures.pop("failures").items() if value}
    told = {"ok": not failures, "compiled": is_compiled(), **figures}
    print(json.dumps(told | ({"failures": failures} if failures else {})), flush=True)
    sys.exit(1 if failures else 0)


def progress(text: str) -> None:
    """Say how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)
