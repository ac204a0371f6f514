"""Compiles the forwarding path into the wheel, where HATCH_BUILD_HOOKS_ENABLE=1 asks for it (docs/decisions/0009).

Needs a C compiler and Python's headers; what else it needs it asks for. Without the variable the wheel is pure Python.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# a sidecar's memory counts as often as there are applications: nobody calls in by name, nobody unwinds
_SMALL = ["-fvisibility=hidden", "-fno-asynchronous-unwind-tables"]
# mypyc sees this package only: what it makes does not depend on what else is installed
_MYPY = ("--config-file=", "--no-site-packages", "--ignore-missing-imports", f"--cache-dir={os.devnull}")


class Compiled(BuildHookInterface[Any]):
    """Turns the `modules` of its configuration into extension modules, which stand beside their sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the installation is editable: it would go on to run what the sources were once."""
        if version == "editable":
            return
        made = _compile(Path(self.root), self.config["modules"])
        for module in made.rglob("*.so"):
            build_data["force_include"][str(module)] = str(module.relative_to(made))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compile(root: Path, modules: list[str]) -> Path:
    """Compile in one group, so that calls between the modules are C's; return the directory of what was made."""
    from mypyc.build import mypycify  # noqa: PLC0415 - there only where something is compiled
    from setuptools import Distribution  # noqa: PLC0415

    into = Path(tempfile.mkdtemp(prefix="compiled-"))
    atexit.register(shutil.rmtree, into)  # what was made is packed after this, unless it cannot be made
    os.chdir(root)  # mypyc takes the modules' names from the paths
    version = f"--python-version={sys.version_info.major}.{sys.version_info.minor}"
    extensions = mypycify(
        [*_MYPY, version, *modules], opt_level="2", debug_level="0", group_name="sidecar", target_dir=str(into / "c")
    )
    for extension in extensions:
        extension.extra_compile_args += _SMALL
    command = Distribution({"name": "sidecar", "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(into / "made"), str(into / "objects")
    command.ensure_finalized()
    command.run()
    return into / "made"
