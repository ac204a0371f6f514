"""What the supervisor and a worker say to each other: JSON objects, each with its length before it, on a socket pair.

The supervisor takes nothing but JSON from a worker, who reads what strangers send. Decides nothing.
"""

from __future__ import annotations

import json
from typing import Any

_LENGTH = 4
Message = dict[str, Any]


def pack(message: Message) -> bytes:
    """Return a message as it is sent."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return len(body).to_bytes(_LENGTH, "big") + body


class Unpacker:
    """Puts messages together from what arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that `data` completes; `ValueError` for what is none."""
        self._buffer += data
        found: list[Message] = []
        while len(self._buffer) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._buffer[:_LENGTH], "big")
            if len(self._buffer) < end:
                break
            found.append(json.loads(self._buffer[_LENGTH:end]))
            del self._buffer[:end]
        return found
