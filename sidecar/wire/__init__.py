"""HTTP/1.1 on asyncio protocols: bytes to messages and back. Knows no tokens."""
