"""One value against its model: pydantic's findings become problems at their places, with a hint where a key belongs.

Reads shape alone, key by key: a value with bad keys is looked at without them. What keys mean together is `rules`.
"""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from sidecar.config import kinds, schema
from sidecar.config.kinds import BROKEN
from sidecar.config.problems import Misfit, either, near, quoted
from sidecar.config.reading import odd_space

if TYPE_CHECKING:
    from sidecar.config.document import Document
    from sidecar.config.reading import Path, Step

_PLAIN_MESSAGES = {
    "model_type": ("expected a mapping of keys", ""),
    "dict_type": ("expected a mapping", "write each on a line of its own below: `NAME: VALUE`"),
    "list_type": ("expected a list", ""),
    "too_short": ("expected at least one entry", "leave the key out for its default"),
}
_ASIDES = {
    "verify": "certificates are always verified; name your own authority by `ca`",
    "priority": "the exact host, then the longest path, then methods decide; the order of the file does not",
    "verify_ssl": "certificates are always verified; name your own authority by `tls: {ca: FILE}`",
    "log_level": "it is an option of the command: sidecar run --log-level",
}  # what people look for, and is not in the file


def value_of(document: Document, path: Path, kind: Any, value: Any) -> Any:
    """Return the value of a key, without its bad parts, None where nothing is left."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        bad = _report(document, path, kind, error)
    if not isinstance(value, dict) or None in bad:
        return None
    good = {key: item for key, item in value.items() if key not in bad}
    return _adapter(kind).validate_python(good)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _report(document: Document, path: Path, kind: Any, error: ValidationError) -> set[Step | None]:
    """Report every finding; return the first steps to what is bad, None for the whole."""
    bad: set[Step | None] = set()
    for finding in error.errors(include_url=False):
        steps = tuple(step for step in finding["loc"] if step != "[key]")
        bad.add(steps[0] if steps else None)
        place = (*path, *steps)
        misfit = finding.get("ctx", {}).get("error")
        if finding["type"] == "extra_forbidden":
            above = _model_at(kind, steps[:-2]) if len(steps) > 1 else None
            unknown(document, place, _model_at(kind, steps[:-1]), above)
        elif finding["input"] is BROKEN:
            continue
        elif isinstance(misfit, Misfit):
            on_key = "[key]" in finding["loc"]
            document.report(place, misfit.message, misfit.hint, key=on_key, found=not on_key)
        else:
            message, hint = _PLAIN_MESSAGES.get(finding["type"], (finding["msg"], ""))
            hint = hint or _shape_hint(finding, _model_at(kind, steps))
            document.report(place, message, hint, found=finding["type"] != "too_short")
    return bad


def _model_at(kind: Any, steps: tuple[Step, ...]) -> Any:
    """Return the model of a place, or None where there is none."""
    for step in steps:
        model = next(iter(_models(kind)), None)
        if model is not None and not isinstance(step, int):
            fields = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
            kind = fields.get(step)
    return next(iter(_models(kind)), None)


def _shape_hint(finding: Any, model: Any) -> str:
    if finding["type"] == "list_type":
        return "put it in brackets: […]" if isinstance(finding["input"], str) else ""
    return "" if model is None else f"its keys: {', '.join(keys_of(model))}"


def unknown(document: Document, path: Path, model: Any, above: Any = None) -> None:
    """Report a key that `model` does not have: where it belongs, what is near, or what there is."""
    known, word = keys_of(model), str(path[-1])
    misplaced = _elsewhere(word, path, model, above)
    hints = (odd_space(word), near(word, known, 0.85), _ASIDES.get(word), misplaced, _abroad(word), near(word, known))
    hint = next(filter(None, hints), None) or f"known here: {', '.join(known)}"
    document.report(path, "unknown key", hint, key=True)


def _elsewhere(word: str, path: Path, model: Any, above: Any) -> str:
    """Say where a key belongs that stands one level too high or too deep."""
    if above is not None and word in keys_of(above):
        return f"it belongs beside {quoted(str(path[-2]))}, one level up"
    below = [
        field.alias or name
        for name, field in model.model_fields.items()
        if any(word in keys_of(inner) for inner in _models(field.annotation))
    ]
    return f"it belongs below {either(below)}: indent it further" if below else ""


def _abroad(word: str) -> str:
    """Say where in the file there is a key of this name."""
    places = [place for place, name in _places(schema.File) if name == word]
    return f"there is {either(places)}" if places else ""


@cache
def _places(model: Any, above: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, field in model.model_fields.items():
        key = field.alias or name
        found.append((above + key, key))
        for inner in _models(field.annotation):
            found += _places(inner, f"{above}{key}{_ENTRY.get(_container(field.annotation), '')}.")
    return found


_ENTRY = {list: "[]", dict: ".NAME"}


def _container(annotation: Any) -> Any:
    return next((get_origin(option) for option in _options(annotation) if get_origin(option) in _ENTRY), None)


def keys_of(model: type[BaseModel]) -> list[str]:
    """Return the keys of a model as the file spells them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _options(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in {Union, UnionType}
    return get_args(annotation) if union else (annotation,)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a place may hold, those of the entries of a list or mapping included."""
    found = []
    for option in _options(annotation):
        inner = _options(get_args(option)[-1]) if get_origin(option) in _ENTRY else (option,)
        found += [one for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]
    return found


def named(document: Document, path: Path) -> bool:
    """Say whether the last step is a name that logs, metrics and other keys can use; report one that is not."""
    try:
        _adapter(kinds.Name).validate_python(path[-1])
    except ValidationError as error:
        misfit: Misfit = error.errors()[0]["ctx"]["error"]
        document.report(path, f"{misfit.message}, found {quoted(str(path[-1]))}", misfit.hint, key=True)
        return False
    return True
