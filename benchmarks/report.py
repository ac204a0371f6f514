"""Turns samples into tables: medians over the rounds, their spread, ratios to Envoy and Go, and the goals.

`python -m benchmarks.report FILE` prints the report of an earlier run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

REFERENCES = ("envoy", "go")


@dataclass(frozen=True, slots=True)
class Case:
    """All rounds of one proxy at one size over one kind of upstream connection."""

    tls: bool
    size: int
    peer: str
    samples: tuple[Sample, ...]

    def typical(self, name: str) -> float:
        return float(median(getattr(sample, name) for sample in self.samples))

    def spread(self, name: str) -> tuple[float, float]:
        found = [getattr(sample, name) for sample in self.samples]
        return min(found), max(found)

    @property
    def failures(self) -> int:
        return sum(sample.failures for sample in self.samples)


@dataclass(frozen=True, slots=True)
class Report:
    """A whole run. `missing` holds, under "plain" and "tls", who was not measured and the reason."""

    machine: dict[str, str]
    settings: dict[str, Any]
    titles: dict[str, str]
    versions: dict[str, str]
    missing: dict[str, dict[str, str]]
    cases: tuple[Case, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        raw = json.loads(text)
        cases = (Case(**(item | {"samples": tuple(Sample(**one) for one in item["samples"])})) for item in raw["cases"])
        return cls(**(raw | {"cases": tuple(cases)}))


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    head = list(heads)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *[list(row) for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def digits(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size_name(size: int) -> str:
    """`170 B`, `64 KiB`, `1 MiB`."""
    for factor, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def ratio(case: Case, reference: Case, name: str) -> float:
    """The median over the rounds of the quotient within one round, which a machine that drifts disturbs least."""
    pairs = zip(case.samples, reference.samples, strict=True)
    return float(median(getattr(ours, name) / getattr(theirs, name) for ours, theirs in pairs))


def _ratio(case: Case, reference: Case | None, name: str) -> str:
    return f"{ratio(case, reference, name):.2f}x" if reference else "-"


def _row(case: Case, title: str, references: Mapping[str, Case]) -> list[str]:
    low, high = case.spread("cpu_us")
    if case.failures:
        kinds = ", ".join(dict.fromkeys(sample.kinds for sample in case.samples if sample.kinds))
        return [title, f"failed: {kinds}", *["-"] * (len(HEADS) - 2)]
    return [
        title,
        f"**{digits(case.typical('cpu_us'))}**",
        f"{digits(low)}-{digits(high)}",
        *(_ratio(case, references.get(name), "cpu_us") for name in REFERENCES),
        f"{case.typical('rps'):,.0f}",
        digits(case.typical("p50_ms")),
        digits(case.typical("p99_ms")),
        _ratio(case, references.get("envoy"), "p99_ms"),
        f"{case.typical('rss') / 2**20:.0f}",
    ]


HEADS = ("proxy", "CPU µs/request", "min-max", *(f"to {name}" for name in ("Envoy", "Go")))
HEADS += ("requests/s", "p50 ms", "p99 ms", "p99 to Envoy", "RSS MiB")


def _section(report: Report, *, tls: bool, size: int) -> str:
    cases = {case.peer: case for case in report.cases if case.tls is tls and case.size == size}
    references = {name: cases[name] for name in REFERENCES if name in cases and not cases[name].failures}
    rows = [_row(case, report.titles[name], references) for name, case in cases.items()]
    rows += [
        [report.titles[name], f"not measured: {why}"] for name, why in report.missing["tls" if tls else "plain"].items()
    ]
    rows = [row + [""] * (len(HEADS) - len(row)) for row in rows]
    return f"### {size_name(size)}, {'TLS' if tls else 'plain HTTP'} to the upstream\n\n{table(HEADS, rows)}\n"


GOALS = (
    ("at 170 bytes no more CPU than Envoy", False, 170, "cpu_us", "envoy", 1.0),
    ("at 170 bytes 0.6 of Envoy's CPU (aim)", False, 170, "cpu_us", "envoy", 0.6),
    ("at 170 bytes a p99 no worse than Envoy's", False, 170, "p99_ms", "envoy", 1.0),
    ("at 170 bytes a third of aiohttp's CPU", False, 170, "cpu_us", "aiohttp", 1 / 3),
    ("at 64 KiB no more CPU than Go", False, 65536, "cpu_us", "go", 1.0),
    ("at 1 MiB no more CPU than Go", False, 1 << 20, "cpu_us", "go", 1.0),
    ("over TLS at 170 bytes 1.2 of Envoy's CPU", True, 170, "cpu_us", "envoy", 1.2),
)


def _goals(report: Report) -> Iterator[str]:
    """The goals of the sidecar with `as: user` that this run can judge."""
    cases = {(case.tls, case.size, case.peer): case for case in report.cases if not case.failures}
    for words, tls, size, name, reference, most in GOALS:
        ours, theirs = cases.get((tls, size, "sidecar-user")), cases.get((tls, size, reference))
        if ours and theirs:
            found = ratio(ours, theirs, name)
            yield f"- {'met' if found <= most else 'NOT met'}: {words}: {found:.2f}x (at most {most:.2f}x)"


def markdown(report: Report) -> str:
    """The report as Markdown."""
    facts = [f"{name}: {value}" for name, value in {**report.machine, **report.settings}.items()]
    versions = [f"{report.titles[name]}: {version}" for name, version in report.versions.items()]
    sections = [
        _section(report, tls=kind == "tls", size=size) for kind in report.missing for size in report.settings["sizes"]
    ]
    return "\n".join(["; ".join(facts), "", "; ".join(versions), "", *sections, *_goals(report)])


if __name__ == "__main__":
    print(markdown(Report.from_json(Path(sys.argv[1]).read_text())))
