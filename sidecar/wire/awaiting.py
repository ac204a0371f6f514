"""How the forwarding path waits: its compiled modules have no coroutine of their own, and hand their work to this one.

A compiled coroutine passes exceptions on by a form of `throw` that Python 3.12 deprecates: each refusal of an upstream
that was waited for would be a warning as well, and where warnings are errors an `internal` instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
E = TypeVar("E", bound=Exception)


async def settle(
    work: Callable[[], Awaitable[T]], take: Callable[[T], None], fail: Callable[[E], None], *expected: type[E]
) -> None:
    """Give what `work` brings to `take`, and what is `expected` of its exceptions to `fail`; others are raised."""
    try:
        result = await work()
    except expected as error:
        fail(error)
    else:
        take(result)
