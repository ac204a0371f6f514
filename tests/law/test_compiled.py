"""What is compiled, and that the tests run what they were asked to run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sidecar.build import is_compiled
from soak.processes import environ
from tests.support.same_sidecar import SAME_SIDECAR

ROOT = Path(__file__).parents[2]
ASKED = bool(os.environ.get("COMPILED"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]


@pytest.mark.parametrize("given", [dict(os.environ), SAME_SIDECAR, environ()], ids=["inherited", "tests", "soak"])
def test_what_is_tested_is_compiled_where_that_was_asked_for(given: dict[str, str]):
    """`make test COMPILED=1`, for the tests' own process and for those that they and the soak programs start."""
    command = [sys.executable, "-m", "sidecar", "version", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=30, check=True, env=given)
    assert json.loads(done.stdout)["compiled"] is is_compiled() is ASKED


def test_nobody_else_says_where_a_process_finds_the_sidecar():
    """`SAME_SIDECAR` does; these add to it, and the last one starts no sidecar."""
    adding = {"tests/support/canary_processes.py", "tests/wire/test_workers.py", "tests/law/test_compiled.py"}
    files = (path for folder in ("fuzz", "soak", "tests") for path in (ROOT / folder).rglob("*.py"))
    found = {str(path.relative_to(ROOT)) for path in files if "PYTHONPATH" in path.read_text()}
    assert found == {"tests/support/same_sidecar.py", *adding}


def test_what_is_compiled_is_there_and_is_the_forwarding_path():
    """All of it in one group, so that what it calls of itself are calls in C."""
    assert sorted(MODULES) == MODULES
    assert all((ROOT / module).is_file() for module in MODULES)
    here = {f"sidecar/wire/{name}.py" for name in ("downstream", "exchange", "framing", "head", "body", "upstream")}
    assert here < set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_compiled_module_has_no_coroutine(module: str):
    """Through a compiled one every exception would be a warning too, from Python 3.12 on: see `wire/awaiting.py`."""
    tree = ast.parse((ROOT / module).read_text())
    assert not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))


_MADE_UP = """
import os, sys, tempfile, types
from pathlib import Path
mypyc, setuptools = sys.modules["mypyc.build"], sys.modules["setuptools"] = (types.ModuleType("m"), types.ModuleType("s"))
mypyc.mypycify = lambda *_sources, target_dir, **_how: sys.exit(os.makedirs(target_dir) or "the sources are wrong")
setuptools.Distribution = None
import hatch_build
hatch_build._compile(Path.cwd(), [])
"""


def test_a_build_that_fails_leaves_nothing_in_the_temporary_directory(tmp_path):
    """What is compiled is made in a place of its own, which goes with the process that builds."""
    command = [sys.executable, "-c", _MADE_UP]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment)
    assert done.stderr == "the sources are wrong\n"
    assert list(tmp_path.iterdir()) == []
