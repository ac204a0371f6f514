"""Prometheus's text format (version 0.0.4): from names and numbers to lines. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OF_LABELS = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})
_OF_HELP = str.maketrans({"\\": "\\\\", "\n": "\\n"})


def heading(name: str, kind: str, text: str) -> str:
    """Return the two lines that stand before a metric's samples."""
    return f"# HELP {name} {text.translate(_OF_HELP)}\n# TYPE {name} {kind}\n"


def sample(name: str, labels: Sequence[str], values: Sequence[str], number: float) -> str:
    """Return one line."""
    pairs = ",".join(f'{label}="{value.translate(_OF_LABELS)}"' for label, value in zip(labels, values, strict=True))
    return f"{name}{{{pairs}}} {float(number)}\n" if pairs else f"{name} {float(number)}\n"


def histogram(
    name: str, labels: Sequence[str], values: Sequence[str], cumulative: Iterable[tuple[str, float]], total: float
) -> str:
    """Return the lines of one histogram; `cumulative` are upper bounds, +Inf last, each with its count."""
    counts = list(cumulative)
    lines = [sample(f"{name}_bucket", (*labels, "le"), (*values, bound), count) for bound, count in counts]
    ends = sample(f"{name}_count", labels, values, counts[-1][1]) + sample(f"{name}_sum", labels, values, total)
    return "".join(lines) + ends
