"""Asks the system's resolver for a name's addresses, in threads of its own. Judges none."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

from mcp_gateway.core.errors import GatewayError

_MOST = 64
"""Look-ups of everybody at once."""


class Resolver:
    """Bounded by what still runs: the system cannot be told to give a look-up up, and a name's own server may be slow.

    A thread each, and none of asyncio's own few: metrics, payments and other look-ups would wait for such a server.
    """

    def __init__(self, most_of_one: int, look_up: Callable[[str], list[str]] | None = None) -> None:
        """`look_up` waits for the addresses of a name; the system's where none is given."""
        self._most_of_one = most_of_one
        self._look_up = look_up or addresses_of
        self._running: Counter[str] = Counter()

    async def __call__(self, host: str, account_id: str) -> list[str]:
        """The addresses of a name, or none. Raises GatewayError `overloaded`."""
        if self._running[account_id] >= self._most_of_one or self._running.total() >= _MOST:
            raise _overloaded()
        loop = asyncio.get_running_loop()
        told: asyncio.Future[list[str]] = loop.create_future()

        def look_up() -> None:
            addresses = self._look_up(host)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._tell, told, account_id, addresses)

        try:
            Thread(target=look_up, name="resolver", daemon=True).start()
        except RuntimeError:
            raise _overloaded() from None  # the system has no thread left
        self._running[account_id] += 1
        return await told

    def _tell(self, told: "asyncio.Future[list[str]]", account_id: str, addresses: list[str]) -> None:
        self._running[account_id] -= 1
        if not self._running[account_id]:
            del self._running[account_id]
        if not told.done():
            told.set_result(addresses)


def _overloaded() -> GatewayError:
    return GatewayError("overloaded", "Too many names are being looked up at the moment; try again soon.")


def addresses_of(host: str) -> list[str]:
    """In the order in which they are to be tried. The final dot keeps the system from adding its own domains."""
    try:
        found = socket.getaddrinfo(f"{host}.", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
