"""What all tests share: the cases that a test covers are in its id.

A docstring that begins with `[SM-22, ID-08]` says which; so `pytest --collect-only -q` shows every case that is covered,
whether its test is a row of a table or stands alone.
"""

from __future__ import annotations

import re

import pytest

_CASE = r"[A-Z]{2,3}-[0-9]{2}"
_CASES = re.compile(rf"(?:\[{_CASE}(?:,? {_CASE})*\] ?)+")


@pytest.fixture
def _cases() -> None:
    """Carry the cases of a docstring into the test's id."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Put the cases that the docstring begins with into the id."""
    found = _CASES.match(metafunc.function.__doc__ or "")
    if found:
        metafunc.fixturenames.append("_cases")
        cases = " ".join(re.findall(_CASE, found[0]))
        metafunc.parametrize("_cases", [None], ids=[cases], indirect=True)
