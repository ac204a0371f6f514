"""What is shipped beside the code: examples that load, a schema that is current, a page that names every key."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar.config import json_schema, load
from sidecar.config.reading import LOADER

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "config").rglob("*.yaml"))
ENVIRON = {
    name: f"value-of-{name}"
    for name in ("ADMIN_TOKEN", "BILLING_KEY", "CLIENT_SECRET", "LEGACY_KEY", "PARTNER_SECRET", "REPORTS_KEY", "STAFF_SECRET")
} | {"API_URL": "https://api.example.com"}  # fmt: skip


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_shipped_configuration_loads(example: Path, tmp_path: Path) -> None:
    """Every example is valid as it stands, given its variables and files, and is YAML for other tools as well."""
    copy = shutil.copy(example, tmp_path)
    (tmp_path / "secrets").mkdir(mode=0o700)
    for name in ("admin-token", "client-secret"):
        (tmp_path / "secrets" / name).write_text("secret-in-a-file\n")
    assert load(copy, ENVIRON).routes
    assert isinstance(yaml.load(example.read_text(), Loader=LOADER), dict)  # noqa: S506 - CSafeLoader


def test_smallest_configuration_has_five_lines() -> None:
    """The promise of the documentation: provider and two routes in five lines."""
    lines = (ROOT / "config/examples/five-line.yaml").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) == 5


def test_shipped_schema_is_current() -> None:
    """`config/sidecar.schema.json` is what the models say; `sidecar schema` writes it anew."""
    assert json.loads((ROOT / "config/sidecar.schema.json").read_text()) == json_schema()


def _keys(schema: dict[str, Any], part: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    part = {**schema["$defs"][part["$ref"].rsplit("/", 1)[1]], **part} if "$ref" in part else part
    for name, below in part.get("properties", {}).items():
        full = f"{path}.{name}" if path else name
        yield full, below
        yield from _keys(schema, below, full)
    for one in part.get("anyOf", ()):
        yield from _keys(schema, one, path)
    if isinstance(part.get("items"), dict):
        yield from _keys(schema, part["items"], f"{path}[]")
    if isinstance(part.get("additionalProperties"), dict):
        yield from _keys(schema, part["additionalProperties"], f"{path}.*")


KEYS = dict(_keys(json_schema(), json_schema()))


def test_schema_describes_every_key_and_closes_every_mapping() -> None:
    """An editor shows a text for each key, and marks unknown ones."""
    assert len(KEYS) > 80
    assert [key for key, part in KEYS.items() if not part.get("description")] == []
    made = json_schema()
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all(part["additionalProperties"] is False for part in (made, *made["$defs"].values()))
    assert "null" not in json.dumps(made)


@pytest.mark.parametrize("key", KEYS)
def test_key_is_documented(key: str) -> None:
    """`docs/configuration.md` names every key of the schema by its path."""
    assert f"`{key}`" in (ROOT / "docs/configuration.md").read_text()


def test_documented_default_is_the_schemas() -> None:
    """The page and the program agree on defaults."""
    rows = re.findall(
        r"^\| `([^`]+)` \| [^|]+ \| `([^`]+)` \|", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE
    )
    told = {key: default for key, default in rows if "default" in KEYS[key] and not key.startswith("callers.session")}
    assert len(told) > 20
    same = {key: {"60s": "60s", "5m": "300s"}.get(default, default) for key, default in told.items()}
    assert same == {
        key: str(KEYS[key]["default"]).lower() if isinstance(KEYS[key]["default"], bool) else str(KEYS[key]["default"])
        for key in told
    }


@pytest.mark.parametrize(
    "pattern", sorted(set(re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', json.dumps(json_schema()))))
)
def test_schema_pattern_is_valid_and_allows_references(pattern: str) -> None:
    """Where the schema has a pattern, there is a way to write `${…}`."""
    rule = re.compile(json.loads(pattern))
    assert rule.search("${NAME}") or not rule.search("${")


def test_import_is_light() -> None:
    """`sidecar check` needs no HTTP library and no event loop to read a file."""
    code = (
        "import sidecar.config, sys; print(*sorted({'aiohttp', 'watchfiles', 'authlib', 'redis'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == ""
