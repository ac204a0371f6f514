"""The three doors: a new grant, caller or store is one file and one registry line, and then the whole program has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = Path(__file__).parent / "examples"


def test_new_kind_of_each_door_registered_works_from_the_file_to_the_upstream(tmp_path: Path) -> None:
    """A caller, a grant and a store that the program has never heard of serve a request, and only for the right key."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.law.examples.driver", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["answers"] == {"number-7": 200, "number-8": 401, "": 401}
    assert told["grants"] == ["client_credentials"]


@pytest.mark.parametrize(
    ("example", "door"), [("house_header", "caller"), ("errand_grant", "grant"), ("drawer_store", "store")]
)
def test_door_has_an_example_and_its_heading_in_the_docs(example: str, door: str) -> None:
    """Who wants to add a kind finds a working file and a paragraph that says where the line goes."""
    guide = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    assert (EXAMPLES / f"{example}.py").is_file()
    assert f"### Adding a {door}" in guide
    assert f"tests/law/examples/{example}.py" in guide
