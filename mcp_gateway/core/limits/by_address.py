"""How often something may be asked from one address in a minute, which nobody has to show a key for. In memory."""

from collections.abc import Callable
from math import ceil

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.use import MINUTE_S

_SITE_FACTOR = 10
"""Of a /48 of IPv6, of whose 65,536 networks one customer has them all."""
_MOST = 100_000


class ByAddress:
    """Counts by clock minute; `what` is what the message says there were too many of."""

    def __init__(self, what: str, most: int, now_s: Callable[[], float]) -> None:
        self._what = what
        self._most = most
        self._now_s = now_s
        self._counts: dict[str, int] = {}
        self._minute = -1

    def count(self, address: str, site: str | None = None) -> None:
        """Count one from an address, and from the site around it. Raises GatewayError `requests_per_minute`."""
        minute = int(self._now_s()) // MINUTE_S
        if minute != self._minute:
            self._minute, self._counts = minute, {}
        counted = {address: self._most} | ({} if site is None else {site: _SITE_FACTOR * self._most})
        is_full = any(self._counts.get(place, 0) >= most for place, most in counted.items())
        if is_full or len(self._counts) >= _MOST:
            wait_s = max(1, ceil((minute + 1) * MINUTE_S - self._now_s()))
            message = f"Too many {self._what} from this address; wait before the next one."
            raise GatewayError("requests_per_minute", message, retry_after_s=wait_s)
        for place in counted:
            self._counts[place] = self._counts.get(place, 0) + 1
