"""The file as text: encodings, sizes, bombs, either loader, and anything else that could be in it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from sidecar.config import ConfigError, load, reading, render
from tests.support.config import ENVIRON, IDP, ROUTE, problems, settings, write

if TYPE_CHECKING:
    from collections.abc import Iterator

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 10)}]\n" for n in range(9)
)


@pytest.fixture(params=["c", "python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Either of PyYAML's loaders."""
    if request.param == "c" and not yaml.__with_libyaml__:
        pytest.skip("this PyYAML has no libyaml")
    monkeypatch.setattr(reading, "LOADER", yaml.CSafeLoader if request.param == "c" else yaml.SafeLoader)
    return str(request.param)


@pytest.mark.parametrize(
    ("data", "place", "message"),
    [
        (b"", (1, 1), "the file is empty"),
        (b"# nothing\n", (1, 1), "the file is empty"),
        (b"\xef\xbb\xbfunmatched: forward\n", (1, 1), "byte order mark"),
        ("unmatched: forward".encode("utf-16"), (1, 1), "byte order mark"),
        (b"unmatched: forward\nvia: \xff\n", (2, 6), "not UTF-8"),
        ("é: 1\nvia: é\x07\n".encode(), (2, 7), "control character U+0007"),
        (b"via: 'a\n  b", (2, 4), "not valid YAML"),
        (b"routes:\n\t- a\n", (2, 1), "not valid YAML"),
        (b"a: [" + b"[" * 100_000, (1, 36), "nested more than"),
        (b"a: " + b"{a: " * 100_000, (1, None), "nested more than"),
        (BOMB.encode(), (None, None), "aliases expanded"),
        (b"x: \xc3\xa9\nvia: *\xc3\xa9\n", (2, None), ""),
    ],
    ids=[
        "empty",
        "comment",
        "BOM",
        "UTF-16",
        "latin-1",
        "control",
        "unclosed",
        "tab",
        "deep-list",
        "deep-map",
        "alias-bomb",
        "odd-alias",
    ],
)
def test_unreadable_file_is_one_clear_problem(
    data: bytes, place: tuple[int | None, int | None], message: str, loader: str, tmp_path: Path
) -> None:
    """[CF-01] One problem, at its place, quickly, with either loader."""
    began = time.process_time()
    [problem] = problems(tmp_path, data)
    assert time.process_time() - began < 10, loader
    assert message in problem.message
    assert place[0] in (None, problem.line)
    assert place[1] in (None, problem.column)


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    """[CF-01] More than 10 MiB is no configuration."""
    [problem] = problems(tmp_path, b"# " + b"x" * reading.LARGEST)
    assert "larger than 10 MiB" in problem.message


def test_missing_file_is_a_problem(tmp_path: Path) -> None:
    """No traceback for a wrong path, a folder, or a name that no system takes."""
    for path in (tmp_path / "no.yaml", tmp_path, "a\0b"):
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert "the file cannot be read" in render(caught.value)


def test_either_loader_reads_the_same(loader: str, tmp_path: Path) -> None:
    """Values and places do not depend on libyaml."""
    made = settings(tmp_path, IDP + ROUTE + "via: |-\n  a\naccess_log: ${X:-true}\n")
    assert (made.via, made.access_log) == ("a", True), loader
    text = (
        IDP + "routes:\n  - match:\n      host: 'ä é'\n    upstream: \"https://a\\u00e9/\"\n    as: [a, b]\n  -\nvia:\n"
    )
    found = [(problem.line, problem.column, problem.key) for problem in problems(tmp_path, text)]
    assert found == [(5, 13, "routes[0].match.host"), (7, 9, "routes[0].as"), (8, 4, "routes[1]"), (9, 5, "via")], (
        loader
    )


def test_aliases_work(tmp_path: Path) -> None:
    """One set of limits for two routes; a problem in it stands at its place, once."""
    text = "routes:\n  - {match: {host: a}, upstream: https://a, as: none, timeout: &t {idle: %s}}\n  - {match: {host: b}, upstream: https://b, as: none, timeout: *t}\n"
    assert [route.timeout.idle for route in settings(tmp_path, text % "5s").routes] == [5.0, 5.0]
    found = problems(tmp_path, text % "${NO_SUCH}")
    assert len(found) == 1


def test_two_thousand_routes_load_quickly(tmp_path: Path) -> None:
    """The whole road, positions included, in CPU time; the bound is generous for slow machines."""
    route = "  - match: {{host: h{0}.internal, path: /api}}\n    upstream: https://h{0}.example.com\n    as: user\n    scope: [a, b]\n"
    path = write(tmp_path, IDP + "routes:\n" + "".join(route.format(n) for n in range(2000)))
    load(path, ENVIRON)
    began = time.process_time()
    assert len(load(path, ENVIRON).routes) == 2000
    assert time.process_time() - began < 2


WHOLE = (Path(__file__).parents[2] / "config/sidecar.yaml").read_text()
PIECES = ["\t", "\n", "  ", ":", "- ", "{", "}", "[", "]", "*a", "&a ", "!!x ", "|", ">", "'", '"', "#", "? ", "<<: ", "${", "}", "${A}", "$$", "${file:/}", "null", "~", "\x00", "\u2028", "é", "0", "-1", "1e999", "routes", "as", "---\n", "...\n", "%YAML 1.1\n", "\\", "*", "[key]", "login:", "%", "@"]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """Return the shipped configuration with a few pieces put in, cut out or moved."""
    text = WHOLE
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 30))
        piece = draw(st.sampled_from(PIECES) | st.text(max_size=5))
        text = text[:at] + piece + text[at + cut :]
    return text


def outcome(path: Path, environ: dict[str, str]) -> str:
    """Return what a person sees of loading; anything but problems gets through as an exception."""
    try:
        return repr(load(path, environ))
    except ConfigError as error:
        return render(error)


@given(text=mutated())
@bounded(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_loading_raises_nothing_but_configuration_errors(text: str) -> None:
    """Whatever stands in the file: settings, or problems that can be shown."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), text.encode("utf-8", "surrogatepass"))
        assert "canary" not in outcome(path, {"ADMIN_TOKEN": "t0p", "CLIENT_SECRET": "canary"})


VALUES = st.recursive(
    st.sampled_from(["''", "a", "1", "-1", "true", "~", "'[key]'", "https://a", "127.0.0.1:1", "${A}", "'${A'", "!!x y", '"\\0"', "sqlite:x", "memory:", "a b", "'*.'", "'[::1'", "/", "é", "'*'"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
    | st.dictionaries(st.sampled_from(["host", "path", "as", "match", "upstream", "provider", "params", "idp", "basic", "header", "key", "cookie", "allow", "bind", "url", "keys", "tls", "ca", "client_id", "session", "apps", "'[key]'"]), inner, max_size=4).map(
        lambda entries: "{" + ", ".join(f"{key}: {value}" for key, value in entries.items()) + "}"
    ),
    max_leaves=12,
)  # fmt: skip
SECTIONS = ["version", "listeners", "admin", "store", "callers", "providers", "routes", "unmatched", "tunnels", "destinations", "limits", "via", "login", "zzz"]  # fmt: skip


@given(sections=st.dictionaries(st.sampled_from(SECTIONS), VALUES, min_size=1, max_size=5))
@bounded(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_under_any_key_is_judged(sections: dict[str, str]) -> None:
    """No shape of value under any key gets past the checks as another exception."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "".join(f"{key}: {value}\n" for key, value in sections.items()))
        assert outcome(path, {})
