"""Where secrets stand in the tree: found by walking it along the models of `schema`.

What stands under an unknown key may be a misspelt secret, and a scalar where a mapping with secrets is expected a
misplaced one: both are hidden. A scalar of references alone is not: it names the secret, it is not it.
"""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from sidecar.config.kinds import Reads
from sidecar.config.reading import Mapping, Node, Scalar
from sidecar.config.references import harmless
from sidecar.model import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def secrets(node: Node, kind: Any) -> Iterator[Scalar]:
    """Yield the scalars that must not be shown; `kind` is the annotation of what `node` should be, None if unknown."""
    if isinstance(node, Scalar):
        if (kind is None or _holds_secrets(kind)) and not harmless(node.text):
            yield node
        return
    inner: Callable[[Any], Any] = (lambda _step: kind) if kind is not None and _is_secret(kind) else _below(kind)
    if isinstance(node, Mapping):
        for key, entry in node.entries.items():
            yield from secrets(entry, inner(key))
    else:
        for item in node.items:
            yield from secrets(item, inner(0))


@cache
def _below(kind: Any) -> Callable[[Any], Any]:
    models = [option for option in _options(kind) if isinstance(option, type) and issubclass(option, BaseModel)]
    if models:
        return lambda key: next((known[key] for known in map(_members, models) if key in known), None)
    many = next((option for option in _options(kind) if get_origin(option) in {list, dict}), None)
    if many is not None:
        return lambda _step: get_args(many)[-1]
    reads = next((option for option in _options(kind) if get_origin(option) is Annotated), None)
    return lambda _step: reads


_MEMBERS: dict[type[BaseModel], dict[str, Any]] = {}


def _members(model: type[BaseModel]) -> dict[str, Any]:
    """Return the annotations of a model by the keys of the file."""
    if model not in _MEMBERS:
        _MEMBERS[model] = {
            field.alias or name: Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            for name, field in model.model_fields.items()
        }
    return _MEMBERS[model]


def _options(kind: Any) -> Iterator[Any]:
    """Yield the members of a union, or the one kind itself."""
    if get_origin(kind) in {Union, UnionType}:
        for option in get_args(kind):
            yield from _options(option)
    elif kind is not None:
        yield kind


@cache
def _is_secret(kind: Any) -> bool:
    for option in _options(kind):
        if option is Secret or any(isinstance(mark, Reads) and mark.secret for mark in get_args(option)[1:]):
            return True
    return False


@cache
def _holds_secrets(kind: Any) -> bool:
    """Whether a scalar where `kind` is expected may be a secret in the wrong place."""
    for option in _options(kind):
        if isinstance(option, type) and issubclass(option, BaseModel):
            if any(_holds_secrets(member) for member in _members(option).values()):
                return True
        elif get_origin(option) in {list, dict} and _holds_secrets(get_args(option)[-1]):
            return True
    return _is_secret(kind)
