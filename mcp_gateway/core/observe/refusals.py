"""What is refused, for the operator: counted by code, and once a minute a line that names who is refused most.

Addresses are no labels of a metric, since anybody can have as many as he likes. Holds so many for a minute at most.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

logger = logging.getLogger(__name__)

_INTERVAL_S = 60.0
_MOST_ADDRESSES = 10_000
_NAMED = 5
_BAD_KEYS = frozenset({"invalid_api_key", "revoked_api_key", "expired_api_key"})


class Refusals:
    """Those of this minute."""

    def __init__(self, count: Callable[[str], None], counted_as: Callable[[str], str]) -> None:
        """`count` is told each code; `counted_as` says which addresses are one."""
        self._count = count
        self._counted_as = counted_as
        self._by_address: Counter[str] = Counter()
        self._bad_keys: Counter[str] = Counter()
        self._total = 0

    def note(self, code: str, address: str) -> None:
        """One request was refused: by a code of ours, or by one of few names that the MCP door has for others."""
        self._count(code)
        self._total += 1
        counted = self._counted_as(address)
        if counted not in self._by_address and len(self._by_address) == _MOST_ADDRESSES:
            return
        self._by_address[counted] += 1
        if code in _BAD_KEYS:
            self._bad_keys[counted] += 1

    async def watch(self) -> None:
        """Tell of each minute in which something was refused."""
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self.tell()

    def tell(self) -> None:
        """Log what was refused since the last call, if anything, and begin anew."""
        if self._total:
            most = ", ".join(map(self._words, self._by_address.most_common(_NAMED)))
            bad = self._bad_keys.total()
            logger.warning("%d requests were refused in a minute, %d for their keys: %s", self._total, bad, most)
        self._total = 0
        self._by_address.clear()
        self._bad_keys.clear()

    def _words(self, counted: tuple[str, int]) -> str:
        address, count = counted
        bad = self._bad_keys[address]
        return f"{count} from {address}" + (f" ({bad} for their keys)" if bad else "")
