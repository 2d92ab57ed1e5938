"""Addresses, and networks of them in CIDR notation. An IPv4 address that is written as an IPv6 one is the IPv4 one."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network

from mcp_gateway.core.text import shown

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Networks = tuple[Network, ...]

MAX_NETWORKS = 32
"""Of one key."""
_MAPPED_BITS = 96
"""Before the IPv4 address in an IPv6 one that is mapped (RFC 4291, 2.5.5.2)."""


def address_of(text: str) -> Address | None:
    """None for what is no address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def network_of(text: str) -> Network:
    """Of an address or a network with the length of its prefix. Raises ValueError that says what to write."""
    plain = text.strip()
    _, slash, prefix = plain.partition("/")
    if "%" in plain or (slash and not prefix.isdigit()):  # a zone means something to one host alone
        raise ValueError(_unread(plain))
    try:
        network = ip_network(plain, strict=False)
    except ValueError:
        raise ValueError(_unread(plain)) from None
    if slash and ip_address(plain.partition("/")[0]) != network.network_address:
        raise ValueError(f"'{shown(plain)}' names an address within a network; the network is '{network}'")
    return _plain(network)


def networks_of(texts: Iterable[str]) -> Networks:
    """Each of them once. Raises ValueError as `network_of`."""
    return tuple(dict.fromkeys(network_of(text) for text in texts))


@lru_cache(1024)
def networks_in(stored: str) -> Networks:
    """Of words between spaces, as `networks_as_words` writes them; many keys may have the same."""
    return tuple(ip_network(word) for word in stored.split())


def networks_as_words(networks: Networks) -> str:
    return " ".join(map(str, networks))


def are_within(networks: Networks, most: Networks) -> bool:
    """Whether each of these lies in the others, which may stand side by side for it."""
    whole: Networks = (
        *collapse_addresses(network for network in most if isinstance(network, IPv4Network)),
        *collapse_addresses(network for network in most if isinstance(network, IPv6Network)),
    )
    return all(any(_is_in(network, one) for one in whole) for network in networks)


def _is_in(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)


def _plain(network: Network) -> Network:
    """What maps IPv4 is that."""
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _unread(text: str) -> str:
    return f"'{shown(text)}' is no network; write one as '203.0.113.0/24', '2001:db8::/32' or a single address"
