"""The demo's drawing: columns, marks, widths, and no credential on the screen."""

from __future__ import annotations

import io

import pytest

from sidecar.demo.heads import fingerprint, shown
from sidecar.demo.layout import Check, Row, Scene, Style, rows, scene, style

SCENE = Scene(
    "A title",
    "An introduction that is long enough to be wrapped on a narrow screen, and says nothing else.",
    [
        "GET http://a.test/x HTTP/1.1",
        "Host: a.test",
        "Cookie: theme=dark; sidecar_session=" + "s" * 60,
        "Connection: close",
    ],
    ["GET /x HTTP/1.1", "Host: a.test", "Cookie: theme=dark", "Authorization: Bearer <token 123456>"],
    [Check("right → so", right=True), Check("wrong " * 30, right=False)],
)


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [40, 60, 76, 80, 100])
@pytest.mark.parametrize("compare", [True, False])
def test_scene_fits_the_width(width: int, compare: bool) -> None:
    """No line is longer than the screen, in two columns or one below the other."""
    drawn = Scene(SCENE.title, SCENE.intro, SCENE.left, SCENE.right, SCENE.checks, compare=compare)
    assert max(len(line) for line in scene(Style(width), 1, drawn)) <= width


def test_scene_marks_what_went_came_and_changed() -> None:
    """Equal names share a row; the marks tell removed, added and changed lines."""
    assert [row.mark for row in rows(SCENE.left, SCENE.right)] == ["~", "", "~", "-+", "-+"]
    assert list(rows(["A: 1", "B: 2"], ["B: 2", "C: 3"])) == [
        Row("A: 1", "", "-+"),
        Row("B: 2", "B: 2", ""),
        Row("", "C: 3", "-+"),
    ]
    text = "\n".join(scene(Style(), 1, SCENE))
    assert "+ Authorization: Bearer <token 123456>" in text
    assert "- Connection: close" in text
    assert "✓ right → so" in text
    assert "✗ wrong" in text


def test_scene_without_unicode_is_ascii() -> None:
    """A screen that cannot show marks gets words."""
    text = "\n".join(scene(Style(unicode=False), 1, SCENE))
    assert text.isascii()
    assert "ok right -> so" in text
    assert "FAILED wrong" in text


@pytest.mark.parametrize(
    ("out", "environ", "expected"),
    [
        (io.StringIO(), {}, Style(100, colour=False)),
        (Screen(), {}, Style(80, colour=True)),
        (Screen(), {"NO_COLOR": "1"}, Style(80, colour=False)),
        (Screen(), {"NO_COLOR": ""}, Style(80, colour=True)),
        (Screen(), {"TERM": "dumb"}, Style(80, colour=False)),
        (io.TextIOWrapper(io.BytesIO(), encoding="latin-1"), {}, Style(100, colour=False, unicode=False)),
        (io.TextIOWrapper(io.BytesIO(), encoding="UTF-8"), {}, Style(100, colour=False, unicode=True)),
    ],
    ids=["pipe", "terminal", "no-color", "empty no-color", "dumb", "latin-1", "utf-8"],
)
def test_style_follows_stream_and_environment(out: io.StringIO, environ: dict[str, str], expected: Style) -> None:
    """Colours on a terminal alone, and marks where the encoding has them."""
    assert style(out, environ, 80) == expected


def test_colour_is_the_only_difference_it_makes() -> None:
    """A coloured scene says the same as a plain one."""
    coloured = "\n".join(scene(Style(colour=True), 1, SCENE))
    assert "\x1b[32m+ Authorization" in coloured
    assert "\x1b" not in "\n".join(scene(Style(), 1, SCENE))


@pytest.mark.parametrize("name", ["Authorization", "authorization", "Proxy-Authorization"])
def test_head_is_shown_without_its_credential(name: str) -> None:
    """The fingerprint stands where the token stood; everything else as it came."""
    head = f"GET / HTTP/1.1\r\nHost: a\r\n{name}: Bearer the.real.token\r\nX: Bearer y\r\n\r\n".encode()
    lines = shown(head)
    assert lines == [
        "GET / HTTP/1.1",
        "Host: a",
        f"{name}: Bearer <token {fingerprint('the.real.token')}>",
        "X: Bearer y",
    ]
