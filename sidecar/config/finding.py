"""What a rule returns and may ask: the vocabulary of the rules on a configuration. Values only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sidecar.config.sections import Entry, Parsed

if TYPE_CHECKING:
    from sidecar.config.reading import Path
    from sidecar.model import Secret
    from sidecar.stores.contract import Place

BEYOND = "write `insecure: true` where the network between is trusted, such as a compose network"


class Finding(NamedTuple):
    """What a rule found. `key` places it at the key, `found` appends what stands there."""

    path: Path
    message: str
    hint: str = ""
    key: bool = False
    found: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """The questions that rules may ask of this machine, and the store kinds of this program."""

    is_file: Callable[[str], bool]
    is_folder: Callable[[str], bool]
    place: Callable[[str], Place]  # of the store, by its URL; ValueError says what is wrong with it
    check_key: Callable[[Secret], object]  # ValueError says what is wrong with a store key
    tls_fault: Callable[[str | None, str | None, str | None], str]  # of ca, cert, key: which is of no use, or nothing
    store_kinds: tuple[str, ...]


Rule = Callable[[Parsed, World], Iterator[Finding]]


def bad_keys(entry: Entry) -> frozenset[str]:
    """Return the keys that were given and could not be read."""
    read = {
        field.alias or name
        for name, field in type(entry.model).model_fields.items()
        if name in entry.model.model_fields_set
    }
    return entry.given - read


def spot(entry: Entry) -> str:
    """Return `routes[3]`, to point at another entry."""
    return f"{entry.path[0]}[{entry.path[1]}]"
