"""How many connections of clients there are, in all and of each address, and which would be one too many.

An address is counted as limits count it (IPv6: its /64). A proxy's, which many clients share, has no cap of its own.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Literal

from mcp_gateway.core.identity.address import counted_as
from mcp_gateway.core.log_limit import LogLimit

logger = logging.getLogger(__name__)

Cap = Literal["all", "address"]


class Census:
    """Takes connections in and lets them go; `on_refused` is told by which cap one was not taken in."""

    def __init__(
        self,
        *,
        most: int,
        most_per_address: int,
        is_shared: Callable[[str], bool],
        on_refused: Callable[[Cap], None],
    ) -> None:
        self.count = 0
        self._most = most
        self._most_per_address = most_per_address
        self._is_shared = is_shared
        self._on_refused = on_refused
        self._by_address: Counter[str] = Counter()
        self._log = LogLimit(logger)

    def enter(self, address: str | None) -> bool:
        """Whether there is room for one more, which then counts until `leave`; None is the peer on a Unix socket."""
        if self.count >= self._most:
            return self._refuse("all", "max_connections", self._most)
        if address is not None and not self._is_shared(address):
            counted = counted_as(address)
            if self._by_address[counted] >= self._most_per_address:
                return self._refuse("address", "max_connections_per_address", self._most_per_address)
            self._by_address[counted] += 1
        self.count += 1
        return True

    def leave(self, address: str | None) -> None:
        self.count -= 1
        if address is not None and not self._is_shared(address):
            counted = counted_as(address)
            self._by_address[counted] -= 1
            if not self._by_address[counted]:
                del self._by_address[counted]

    def _refuse(self, cap: Cap, setting: str, most: int) -> bool:
        self._on_refused(cap)
        self._log.warning("connections are closed as they come: there are as many as %s allows, %d", setting, most)
        return False
