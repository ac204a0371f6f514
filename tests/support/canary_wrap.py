"""Listening to calls: functions that are told of the calls of others, before or after them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def before(owner: Any, name: str, note: Callable[..., object]) -> None:
    """Call `note` with the arguments of each call of `owner.name`, before it."""
    old = getattr(owner, name)

    @functools.wraps(old)
    def call(*args: Any, **named: Any) -> Any:
        note(*args, **named)
        return old(*args, **named)

    setattr(owner, name, call)


def after(owner: Any, name: str, note: Callable[..., object]) -> None:
    """Call `note` with the result of each call of `owner.name`, and its arguments."""
    old = getattr(owner, name)

    @functools.wraps(old)
    def call(*args: Any, **named: Any) -> Any:
        result = old(*args, **named)
        note(result, *args, **named)
        return result

    setattr(owner, name, call)


def after_await(owner: Any, name: str, note: Callable[..., object]) -> None:
    """Call `note` with the awaited result of each call of `owner.name`, and its arguments."""
    old = getattr(owner, name)

    @functools.wraps(old)
    async def call(*args: Any, **named: Any) -> Any:
        result = await old(*args, **named)
        note(result, *args, **named)
        return result

    setattr(owner, name, call)
