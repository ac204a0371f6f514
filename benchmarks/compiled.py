"""The forwarding path compiled as in the image: `python -m benchmarks.compiled DIRECTORY` installs it there.

For the running Python. It takes a C compiler and Python's headers, which are got where they are missing. Whatever runs
with the variables of `environment(DIRECTORY)` then imports the compiled sidecar.
"""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import tempfile
from pathlib import Path

from benchmarks.install import NotAvailableError, carry_out, debian, pip_install
from benchmarks.machine import DISTRIBUTION
from benchmarks.places import ROOT
from benchmarks.progress import say

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def install(directory: Path) -> Path:
    """Make `directory` hold the package as it is now, compiled; return it. Raises NotAvailableError."""
    mark, now = directory / ".sources", _sources()
    if mark.exists() and mark.read_text() == now:
        return directory
    _get_compiler()
    say("compiling the forwarding path: a minute")
    with tempfile.TemporaryDirectory() as made:
        # not by pip: the last error that it tells of is its own, not why
        carry_out(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", made],
            "the compiled sidecar",
            HATCH_BUILD_HOOKS_ENABLE="1",
        )
        (wheel,) = Path(made).glob("*.whl")
        here = ["--no-deps", "--no-index", "--upgrade", "--target", str(directory), str(wheel)]
        carry_out([*pip_install(sys.executable), *here], "the compiled sidecar")
    mark.write_text(now)
    return directory


def environment(*places: Path) -> dict[str, str]:
    """What makes a Python import what is in these places, whatever is in its working directory."""
    return {"PYTHONPATH": os.pathsep.join(map(str, places)), "PYTHONSAFEPATH": "1"}


def _sources() -> str:
    """What the result depends on: the Python that compiles, and everything that is packed."""
    digest = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode())
    for path in (*sorted(ROOT.glob("sidecar/**/*.py")), ROOT / "hatch_build.py", ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _get_compiler() -> None:
    debian("gcc", "gcc")
    debian("libc6-dev", "/usr/include/stdio.h")
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if headers.exists():
        return
    if Path(sys.base_prefix) != DISTRIBUTION:
        raise NotAvailableError(f"{sys.executable} has no headers: {headers}")
    debian(f"python{_VERSION}-dev", str(headers))


def main() -> int:
    """Install into the directory that is named; 1 where that cannot be, with the reason."""
    if len(sys.argv) != 2:
        say("usage: python -m benchmarks.compiled DIRECTORY")
        return 2
    try:
        install(Path(sys.argv[1]).resolve())
    except NotAvailableError as why:
        say(f"cannot compile: {why}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
