"""Which module may see what: the rooms that decide see no world, and each foreign library has its own room."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "sidecar").rglob("*.py"))
}

WORLD = frozenset(
    ["asyncio", "socket", "ssl", "sqlite3", "subprocess", "threading", "time", "os", "signal", "random", "secrets",
     "aiohttp", "redis", "httptools", "uvloop", "yaml", "pydantic", "click", "watchfiles", "structlog", "logging"]
)  # fmt: skip
DECIDING = (
    "sidecar.errors", "sidecar.model", "sidecar.settings", "sidecar.message", "sidecar.target", "sidecar.routing",
    "sidecar.headers", "sidecar.replay", "sidecar.callers", "sidecar.grants", "sidecar.oauth",
    "sidecar.credentials.lifecycle", "sidecar.credentials.session_record", "sidecar.credentials.session_codec",
    "sidecar.login.flow", "sidecar.login.return_to", "sidecar.login.cookies", "sidecar.login.pages",
)  # fmt: skip
ROOMS = {
    "yaml": ("sidecar.config",),
    "pydantic": ("sidecar.config",),
    "httptools": ("sidecar.wire",),
    "authlib": ("sidecar.oauth", "sidecar.demo"),
    "joserfc": ("sidecar.oauth", "sidecar.demo"),
    "sqlite3": ("sidecar.stores",),
    "redis": ("sidecar.stores",),
    "aiohttp": ("sidecar.login", "sidecar.demo"),
    "click": ("sidecar.cli", "sidecar.__main__"),
    "prometheus_client": (),
    "watchfiles": (),
    "uvloop": ("sidecar.process",),
    "cryptography": ("sidecar.credentials.vault", "sidecar.demo"),
}
BLIND = {  # what a part must not know of at all, even as a type
    "sidecar.wire": ("sidecar.credentials", "sidecar.oauth", "sidecar.grants", "sidecar.stores", "sidecar.callers"),
    "sidecar.stores": ("sidecar.model", "sidecar.credentials", "sidecar.wire", "sidecar.oauth"),
    "sidecar.oauth": ("sidecar.stores", "sidecar.wire", "sidecar.credentials"),
    "sidecar.callers": ("sidecar.wire", "sidecar.credentials", "sidecar.stores", "sidecar.oauth"),
}


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


@cache
def imported(module: str, *, types: bool) -> frozenset[str]:
    """Return what a module imports, by full name; `types` adds what only type checkers see."""
    tree = ast.parse(MODULES[module].read_text("utf-8"))
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if not types and id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(_from(node))
    return frozenset(names)


def _from(node: ast.ImportFrom) -> set[str]:
    """`from sidecar import logs` names a module, `from sidecar.errors import Refusal` a thing in one."""
    submodules = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
    return submodules or {node.module or ""}


def reached(module: str) -> frozenset[str]:
    """Return the modules of ours that importing `module` imports, itself included."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in MODULES and name not in seen:
            seen.add(name)
            todo += imported(name, types=False)
    return frozenset(seen)


@pytest.mark.parametrize("module", [module for module in MODULES if within(module, DECIDING)])
def test_invariant_08_deciding_module_imports_no_world(module: str) -> None:
    """What decides has no window: no loop, socket, clock, environment or library that has one, not even indirectly."""
    seen = {
        f"{name} imports {foreign}"
        for name in reached(module)
        for foreign in imported(name, types=False)
        if foreign.split(".")[0] in WORLD
    }
    assert not seen


@pytest.mark.parametrize("library", ROOMS)
def test_library_used_lives_in_its_room(library: str) -> None:
    """A foreign library is imported in its own part of the house only, types included."""
    users = {
        module for module in MODULES if any(name.split(".")[0] == library for name in imported(module, types=True))
    }
    assert {module for module in users if not within(module, ROOMS[library])} == set()


@pytest.mark.parametrize("part", BLIND)
def test_part_knows_nothing_of_what_is_not_its_business(part: str) -> None:
    """The wire knows no tokens, the stores know no secrets, and so on: not even as types."""
    seen = {
        f"{module} imports {name}"
        for module in MODULES
        if within(module, (part,))
        for name in imported(module, types=True)
        if within(name, BLIND[part])
    }
    assert not seen


def test_deprecated_authlib_jose_is_never_imported() -> None:
    """authlib.jose is deprecated for joserfc."""
    assert not [m for m in MODULES if any(n.startswith("authlib.jose") for n in imported(m, types=True))]
