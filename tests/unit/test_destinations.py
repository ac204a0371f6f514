"""Addresses that may be dialled, and what the system's resolver makes of disguised ones."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from sidecar.wire import destinations
from sidecar.wire.names import look_up

METADATA = {
    "aws": "169.254.169.254", "aws-ipv6": "fd00:ec2::254", "aws-ecs": "169.254.170.2", "aws-eks": "169.254.170.23",
    "aws-eks-ipv6": "fd00:ec2::23", "gcp-ipv6": "fd20:ce::254", "azure-wire": "168.63.129.16",
    "alibaba": "100.100.100.200", "oracle-ipv6": "fd00:c1::a9fe:a9fe", "oracle-classic": "192.0.0.192",
    "openstack-ipv6": "fe80::a9fe:a9fe", "mapped": "::ffff:169.254.169.254", "compatible": "::169.254.169.254",
    "translated": "::ffff:0:169.254.169.254", "nat64": "64:ff9b::a9fe:a9fe", "nat64-local": "64:ff9b:1::169.254.169.254",
    "nat64-alibaba": "64:ff9b::6464:64c8", "6to4": "2002:a9fe:a9fe::1", "isatap": "2001:db8::5efe:a9fe:a9fe",
    "isatap-global": "2001:db8::200:5efe:169.254.169.254", "teredo": "2001:0:a9fe:a9fe::1",
}  # fmt: skip


@pytest.mark.parametrize("text", METADATA.values(), ids=[f"SS-03-{name}" for name in METADATA])
def test_metadata_address_in_any_form_is_known(text: str):
    """Each cloud's address of instance credentials, plain or inside an IPv6 address that carries it."""
    assert destinations.is_metadata(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["169.254.169.253", "8.8.8.8", "64:ff9b::808:808", "2606:4700::1111", "127.0.0.1"])
def test_other_address_is_no_metadata_address(text: str):
    """Neighbours and ordinary addresses are left alone."""
    assert not destinations.is_metadata(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "127.8.9.10", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.1.1", "0.0.0.0",
     "255.255.255.255", "224.0.0.1", "::", "::1", "::2", "fe80::1", "fec0::1", "fd00::1", "ff02::1", "::ffff:10.0.0.1",
     "64:ff9b::10.0.0.1", "64:ff9b:1::1.1.1.1", "2002:7f00:1::1", "2002:a00:1::", "2001:db8::1",
     "2002:101:101::1", "192.0.0.8",
     "::ffff:0:127.0.0.1", "::127.0.0.1", "2606:4700::5efe:192.168.0.1"],
)  # fmt: skip
def test_address_that_is_private_in_any_reading_is_not_public(text: str):
    """[SS-06] Loopback, link-local, private, multicast, unspecified, and IPv6 that carries one of them."""
    assert not destinations.is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_address_of_the_internet_is_public(text: str):
    """What carries a public address is as public as that."""
    assert destinations.is_public(ipaddress.ip_address(text))


OWN = frozenset([("127.0.0.1", 8080), ("0.0.0.0", 8081), ("127.0.0.1", 8081), ("::1", 8081), ("::", 8082)])


@pytest.mark.parametrize(
    ("text", "port", "own"),
    [("127.0.0.1", 8080, True), ("0.0.0.0", 8080, True), ("::", 8080, True), ("::ffff:127.0.0.1", 8080, True),
     ("127.0.0.2", 8080, False), ("127.0.0.1", 8090, False), ("127.9.9.9", 8081, True), ("192.0.2.1", 8081, False),
     ("::1", 8082, True), ("::ffff:127.0.0.1", 8082, True), ("2001:db8::1", 8082, False)],
)  # fmt: skip
def test_own_listener_is_known_by_every_address_that_leads_to_it(text: str, port: int, own: bool):
    """[SS-02] A listener on every address is reached by all addresses of this machine, also by odd loopback ones."""
    assert destinations.is_own(ipaddress.ip_address(text), port, OWN) is own


def test_own_listener_on_every_address_is_known_by_the_address_of_an_interface():
    """[SS-02] The machine's own name leads there as well; nothing has to list the interfaces."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no route, so no address of its own")
        address = probe.getsockname()[0]
    assert destinations.is_own(ipaddress.ip_address(address), 8081, OWN)


DISGUISED = {
    "decimal": "2852039166", "hex": "0xa9fea9fe", "octal": "0251.0376.0251.0376", "mixed": "0xa9.254.0251.0xfe",
    "short": "169.254.43518", "shorter": "169.16689662", "hex-parts": "0xA9.0xFE.0xA9.0xFE",
}  # fmt: skip


@pytest.mark.parametrize("text", DISGUISED.values(), ids=[f"SS-03-{name}" for name in DISGUISED])
def test_number_that_the_resolver_takes_for_a_metadata_address_is_judged_as_that(text: str):
    """What counts is what would be dialled: the resolver's reading is the one that is judged."""
    try:
        found = look_up(text)
    except OSError:
        return  # this resolver knows no such spelling: nothing can be dialled
    assert all(destinations.is_metadata(ipaddress.ip_address(one.address)) for one in found)


UNICODE = {"fullwidth": "１６９.254.169.254", "circled": "①⑥⑨.254.169.254", "ideographic-dots": "169。254。169。254"}  # noqa: RUF001


@pytest.mark.parametrize("text", UNICODE.values(), ids=[f"SS-03-{name}" for name in UNICODE])
def test_unicode_spelling_that_resolves_is_judged_by_its_address(text: str):
    """Requests bring ASCII only and the configuration refuses these; if one came here, its address would be judged."""
    try:
        found = look_up(text)
    except (OSError, UnicodeError):
        return
    assert all(destinations.is_metadata(ipaddress.ip_address(one.address)) for one in found)
