"""Sockets by which several processes listen at one address: the system spreads connections over them."""

import errno
import socket
from collections.abc import Sequence


def reserved(host: str, port: int) -> tuple[int, Sequence[socket.socket]]:
    """Keep an address for processes that begin and end, without listening; the port, where 0 asks for a free one.

    Raises OSError where somebody listens there.
    """
    addresses = _addresses(host, port)
    for address in addresses:
        _bound(address, is_shared=False).close()  # which others that share would not prevent
    kept = [_bound(addresses[0])]
    port = kept[0].getsockname()[1]
    kept += [_bound((family, (place[0], port, *place[2:]))) for family, place in addresses[1:]]
    return port, kept


def listeners(host: str, port: int) -> list[socket.socket]:
    """Of this process, at an address that is reserved."""
    return [_bound(address) for address in _addresses(host, port)]


_Address = tuple[int, tuple[object, ...]]


def _addresses(host: str, port: int) -> list[_Address]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), place) for family, _, _, _, place in found))


def _bound(address: _Address, *, is_shared: bool = True) -> socket.socket:
    family, place = address
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(place)
        if not is_shared:
            made.listen(1)
        made.setblocking(False)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"somebody listens at {place[0]} port {place[1]} already") from None
        raise
    return made
