"""Where a request really comes from, past the proxies that are trusted; and what an address counts as."""

import logging
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

from mcp_gateway.core.networks import address_of
from mcp_gateway.core.text import shown

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""For a peer that has none, as of a Unix domain socket."""
_MOST_HOPS = 32
"""Proxies that are looked past; a caller may write as many as a head holds."""
_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052."""
_MOST_TOLD = 10
"""Peers that the log names; anybody may send what a proxy sends."""


class AddressReader:
    """Reads the client's address: the socket's peer, or the right-most untrusted one of X-Forwarded-For."""

    def __init__(self, trusted_proxies: Iterable[str]) -> None:
        self._trusted = tuple(ip_network(proxy, strict=False) for proxy in trusted_proxies)
        self._told: set[str] = set()
        """Peers that the log has named."""

    def read(self, peer: tuple[str, int] | None, forwarded_for: bytes | None) -> str:
        """`forwarded_for` is the header's value, all of them joined by commas."""
        address = peer[0] if peer else UNKNOWN
        if forwarded_for is None:
            return address
        if not self.is_trusted(address):
            self.tell_of_stranger(address)
            return address
        for hop in reversed(forwarded_for.decode("latin-1").rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            text = _without_port(hop.strip()).partition("%")[0]  # a zone means something to the proxy's own host alone
            if address_of(text) is None:
                return address
            address = text
            if not self.is_trusted(text):
                break
        return address

    def tell_of_stranger(self, peer: str) -> None:
        """Log, once a peer, that it forwards for others and is not believed, since nobody may have meant it so."""
        if peer in self._told or len(self._told) == _MOST_TOLD or self.is_trusted(peer):
            return
        self._told.add(peer)
        logger.warning(
            "%s sends the headers of a proxy and is not believed: all behind it count as one guest, and none as this "
            'machine. If it is your proxy, set trusted_proxies = ["%s"]',
            shown(peer),
            shown(peer),
        )

    def is_shared(self, address: str) -> bool:
        """Whether many clients may stand behind an address: a trusted proxy, and loopback while none is named."""
        if self._trusted:
            return self.is_trusted(address)
        parsed = address_of(address)
        return parsed is None or parsed.is_loopback

    def is_trusted(self, text: str) -> bool:
        address = address_of(text)
        return address is not None and any(address in network for network in self._trusted)


def counted_as(address: str) -> str:
    """What limits count an address as: itself, or its /64 for IPv6 (one household has 2^64 of them).

    An IPv6 address that a tunnel or translator made of an IPv4 address counts as that: whoever has the one has a whole
    /48 of the others (6to4), or shares a /64 with strangers (Teredo, NAT64).
    """
    parsed = address_of(address)
    if isinstance(parsed, IPv6Address):
        parsed = _embedded(parsed) or parsed
    if isinstance(parsed, IPv6Address):
        return _network(parsed, 64)
    return address if parsed is None else str(parsed)


def site_of(counted: str) -> str | None:
    """The /48 around a /64 from `counted_as`, which is what one customer of a network is given; None for others."""
    return _network(IPv6Address(counted[:-3]), 48) if counted.endswith("/64") else None


def _network(address: IPv6Address, bits: int) -> str:
    host_bits = 128 - bits
    return f"{IPv6Address(int(address) >> host_bits << host_bits)}/{bits}"


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or (address.teredo[1] if address.teredo else None)


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
