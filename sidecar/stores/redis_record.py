"""What stands in Redis for a record, and the scripts that read and change it in one step.

A record is one string: a head of fixed width in ASCII, then the sealed value. Beside it a tombstone outlives it and
keeps its last version. Times in a head are this program's, never those of the Redis host; how long Redis keeps a key is
told as a duration. Pure: it must not know a connection.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import NamedTuple

from sidecar.errors import StoreBrokenError
from sidecar.stores.contract import TOMBSTONE_LIFE, Record

FORMAT = "s1"
VERSION_DIGITS, TIME_DIGITS, WRITE_CHARS, CRC_CHARS, SEAL_CHARS = 19, 14, 16, 8, 8
FIELDS = len(FORMAT) + VERSION_DIGITS + TIME_DIGITS + WRITE_CHARS + CRC_CHARS
HEAD = FIELDS + SEAL_CHARS
"""The fields are format, version, expiry, write id and CRC-32 of the value; the seal is made of them and the key."""
NEVER = "0" * TIME_DIGITS
LARGEST = 8 * 2**20
LOG_KEPT = 1000
BROKEN = -1


class Script(NamedTuple):
    """A Lua script and its SHA-1, by which Redis knows it."""

    text: str
    sha: str


def script(text: str) -> Script:
    """Return a script from its text."""
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


# KEYS: record, tombstone, and the log where it is on the same node. ARGV: expected version or '', now, write id,
# channel, announcement, life of a tombstone in ms; and for put: version, whole record, life in ms ('' for ever).
# Digits of the same number compare as text: versions are greater than what a Lua number holds.
_LOOK = f"""
local kind, grave = redis.call('TYPE', KEYS[1]).ok, redis.call('TYPE', KEYS[2]).ok
if (kind ~= 'none' and kind ~= 'string') or (grave ~= 'none' and grave ~= 'string') then return {BROKEN} end
local live, last = '', ''
if grave == 'string' then
  local stone = redis.call('GET', KEYS[2])
  if string.sub(stone, {VERSION_DIGITS + 1}) == ARGV[3] then return 1 end
  last = string.sub(stone, 1, {VERSION_DIGITS})
end
if kind == 'string' then
  local head = redis.call('GETRANGE', KEYS[1], 0, {HEAD - 1})
  local seal = redis.sha1hex(KEYS[1] .. string.sub(head, 1, {FIELDS}))
  if string.sub(head, 1, 2) ~= '{FORMAT}' or string.sub(head, {FIELDS + 1}) ~= string.sub(seal, 1, {SEAL_CHARS}) then
    return {BROKEN}
  end
  local version, ends = string.sub(head, 3, 21), string.sub(head, 22, 35)
  if string.sub(head, 36, 51) == ARGV[3] then return 1 end
  if ends == '{NEVER}' or ends > ARGV[2] then live = version end
  if version > last then last = version end
end
"""

_ANNOUNCE = f"""
redis.call('PUBLISH', ARGV[4], ARGV[5])
if KEYS[3] then redis.call('XADD', KEYS[3], 'MAXLEN', {LOG_KEPT}, '*', 'change', ARGV[5]) end
"""

PUT = script(f"""{_LOOK}
if live ~= ARGV[1] or ARGV[7] <= last then return 0 end
{_ANNOUNCE}
if ARGV[9] == '' then
  redis.call('SET', KEYS[1], ARGV[8])
  redis.call('DEL', KEYS[2])
  return 1
end
local life = tonumber(ARGV[9])
if life > 0 then redis.call('SET', KEYS[1], ARGV[8], 'PX', ARGV[9]) else redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[2], ARGV[7] .. ARGV[3], 'PX', string.format('%.0f', math.max(life, 0) + ARGV[6]))
return 1
""")

DELETE = script(f"""{_LOOK}
if live == '' or (ARGV[1] ~= '' and live ~= ARGV[1]) then return 0 end
{_ANNOUNCE}
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[2], live .. ARGV[3], 'PX', ARGV[6])
return 1
""")

GET = script(f"""
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return false end
if kind ~= 'string' or redis.call('STRLEN', KEYS[1]) > {LARGEST + HEAD} then return {BROKEN} end
return redis.call('GET', KEYS[1])
""")


def digits(number: int, width: int) -> str:
    """Return `number` with leading zeros."""
    return f"{number:0{width}}"


def milliseconds(seconds: float) -> str:
    """Return a time since the epoch as a head has it: never the text for "no time", whatever the time."""
    return digits(int(min(max(seconds * 1000, 1), 10**TIME_DIGITS - 1)), TIME_DIGITS)


def whole(
    key: str, value: bytes, version: int, expires_at: float | None, now: float, write: str
) -> tuple[bytes | str, ...]:
    """Return what `PUT` takes after what `arguments` returns: the version, what is stored in `key`, its life."""
    ends = NEVER if expires_at is None else milliseconds(expires_at)
    fields = f"{FORMAT}{digits(version, VERSION_DIGITS)}{ends}{write}".encode() + _crc(value)
    life = "" if expires_at is None else str(int(min(max((expires_at - now) * 1000, 0), 10**TIME_DIGITS)))
    return digits(version, VERSION_DIGITS), fields + _seal(key, fields) + value, life


def arguments(expected: int | None, now: float, write: str, channel: str, announcement: str) -> tuple[str, ...]:
    """Return what both scripts take first. `write` marks this write, so that one that is sent twice is done once."""
    wanted = "" if expected is None else digits(expected, VERSION_DIGITS)
    return (wanted, milliseconds(now), write, channel, announcement, str(int(TOMBSTONE_LIFE * 1000)))


def read(key: str, stored: bytes, now: float) -> Record | None:
    """Return the record in `stored`, None where it has expired; `StoreBrokenError` unless it is whole and `key`'s."""
    fields, seal, value = stored[:FIELDS], stored[FIELDS:HEAD], stored[HEAD:]
    if not fields.startswith(FORMAT.encode()) or seal != _seal(key, fields) or not fields.endswith(_crc(value)):
        raise StoreBrokenError("a record in Redis is damaged or not ours")
    version, ends = fields[2 : 2 + VERSION_DIGITS], fields[2 + VERSION_DIGITS :][:TIME_DIGITS].decode()
    expires_at = None if ends == NEVER else int(ends) / 1000
    return None if ends != NEVER and ends <= milliseconds(now) else Record(value, int(version), expires_at)


def _seal(key: str, fields: bytes) -> bytes:
    return hashlib.sha1(key.encode() + fields, usedforsecurity=False).hexdigest()[:SEAL_CHARS].encode()


def _crc(value: bytes) -> bytes:
    return b"%08x" % zlib.crc32(value)
