"""Which addresses are the public internet's, by the registries of special ones. Pure.

The tables are written out since what `ipaddress` calls global differs between versions of Python.
https://www.iana.org/assignments/iana-ipv4-special-registry, https://www.iana.org/assignments/iana-ipv6-special-registry
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_SPECIAL_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; a cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's virtual server, which only its machines reach
        "169.254.0.0/16",  # link-local; most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_UNICAST = IPv6Network("2000::/3")
"""All that is given out of IPv6: loopback, mapped, unique local, link-local and multicast addresses are outside."""
_SPECIAL_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_LOW_32 = 2**32 - 1


def is_public(address: str) -> bool:
    """Whether anybody on the internet reaches the same machine by it; False for what is no address."""
    try:
        read = ip_address(address)
    except ValueError:
        return False
    return _is_public_ipv4(read) if isinstance(read, IPv4Address) else _is_public_ipv6(read)


def _is_public_ipv4(address: IPv4Address) -> bool:
    return not any(address in network for network in _SPECIAL_IPV4)


def _is_public_ipv6(address: IPv6Address) -> bool:
    if address.scope_id is not None:
        return False
    if address in _NAT64:  # how a machine without IPv4 reaches the IPv4 address in it
        return _is_public_ipv4(IPv4Address(int(address) & _LOW_32))
    return address in _UNICAST and not any(address in network for network in _SPECIAL_IPV6)
