"""Which addresses may be dialled: pure judgements of addresses, whatever name led to them.

An IPv6 address can carry an IPv4 one that a translator or tunnel on the way takes out of it (RFC 4291, 3056, 4380,
6052, 8215, 5214): it is judged as both. Names are never judged, only what they resolve to, so no spelling of a number
and no alphabet makes a difference.
"""

from __future__ import annotations

import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Where clouds keep instance credentials: reachable by every program on the machine, so never by way of this one.
METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254", "fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fe80::a9fe:a9fe",  # most clouds
        "169.254.170.2", "169.254.170.23", "fd00:ec2::23",  # containers at AWS
        "168.63.129.16",  # Azure's wire server
        "100.100.100.200", "100.96.0.96", "169.254.0.23", "192.0.0.192", "169.254.42.42", "fd00:42::42",
    )
)  # fmt: skip

_LOW_32_BITS = tuple(
    ipaddress.IPv6Network(text)
    for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")
)
# Beside what `ipaddress` knows; the second row is what only later releases of Python know, so that all judge alike.
_NOT_GLOBAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "fec0::/10",
        "64:ff9b:1::/48", "2002::/16", "192.0.0.0/24",
    )
)  # fmt: skip
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def readings(address: Address) -> tuple[Address, ...]:
    """Return the address and the IPv4 addresses that it carries."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    found: list[Address] = [address]
    number = int(address)
    low = ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    if any(address in network for network in _LOW_32_BITS) or (number >> 32) & 0xFFFF_FFFF in _ISATAP:
        found.append(low)
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return tuple(found)


def is_metadata(address: Address) -> bool:
    """Say whether a cloud's credentials are there."""
    return any(one in METADATA for one in readings(address))


def is_public(address: Address) -> bool:
    """Say whether an address is one of the internet's, in each of its readings."""
    return all(
        one.is_global and not one.is_multicast and not any(one in network for network in _NOT_GLOBAL)
        for one in readings(address)
    )


def is_own(address: Address, port: int, own: frozenset[tuple[str, int]]) -> bool:
    """Say whether a listener among `own` (host and port as bound) is there; "0.0.0.0" and "::" are all of our own."""
    bound = [host for host, at in own if at == port]
    if not bound:
        return False
    found = readings(address)
    if any(one.is_unspecified or str(one) in bound for one in found):
        return True
    everywhere = any(ipaddress.ip_address(host).is_unspecified for host in bound)
    return everywhere and any(_is_here(one) for one in found)


def _is_here(address: Address) -> bool:
    """Say whether an address is of this machine: only such ones can be bound to."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
