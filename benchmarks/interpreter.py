"""Which Python the figures are taken with: `python -m benchmarks.interpreter` prints one that has the project.

Builds of one version differ: a distribution's and the image's are made with profile-guided optimisation, what a version
manager compiles mostly is not. Where the running build is of the latter kind and the distribution has the same version,
the project is installed for that one as well, from the same lock.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.command import enter
from benchmarks.install import NotAvailableError, carry_out, pip_install
from benchmarks.machine import DISTRIBUTION, optimised
from benchmarks.places import BUILD, ROOT
from benchmarks.progress import say

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def _of_the_distribution() -> Path | None:
    """Return the distribution's Python of the running version, where it can make a venv."""
    python = DISTRIBUTION / "bin" / f"python{_VERSION}"
    if not python.exists():
        return None
    return None if subprocess.run([python, "-c", "import ensurepip"], check=False).returncode else python


def _with_the_project(python: Path) -> Path:
    """Return the Python of a venv that `python` made, with everything that the locks name."""
    venv = BUILD / f"venv-python{_VERSION}"
    inside, ready, lock = venv / "bin" / "python", venv / ".ready", ROOT / "requirements-dev.lock"
    if ready.exists() and ready.stat().st_mtime > lock.stat().st_mtime:
        return inside
    pip = pip_install(inside)
    for step in (
        [str(python), "-m", "venv", "--clear", str(venv)],
        [*pip, "--require-hashes", "-r", str(lock)],
        [*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
    ):
        carry_out(step, f"the project for {python}")
    ready.touch()
    return inside


def main() -> int:
    """Print the path of the Python to use; what was found goes to standard error."""
    own = Path(sys.executable)
    better = None if optimised() else _of_the_distribution()
    if better is not None:
        say(f"this Python was built without optimisation: measuring with {better} (see docs/performance.md)")
        try:
            own = _with_the_project(better)
        except NotAvailableError as why:
            say(f"measuring with it after all: {why}")
    elif not optimised():
        say("this Python was built without optimisation: the sidecar's figures will be worse (see docs/performance.md)")
    print(own)
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
