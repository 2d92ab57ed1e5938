"""How often a password may be tried: of one user, and from one address. Knows neither users nor passwords.

All in memory and without awaits, so that a thousand tries at once count as a thousand.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from math import ceil
from secrets import token_bytes

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.use import MINUTE_S

_FREE_FAILURES = 5
_LONGEST_WAIT_S = 15 * 60.0
_MOST_DOUBLINGS = 10
"""After which a wait is the longest."""
_FORGOTTEN_AFTER_S = 4 * _LONGEST_WAIT_S
_PER_ADDRESS_A_MINUTE = 20
_PER_SITE_A_MINUTE = 200
"""Of a /48 of IPv6, of whose 65,536 networks one customer has them all."""
_MOST = 100_000


@dataclass(slots=True)
class _Failures:
    """In a row: how many, and when the last was."""

    count: int = 0
    last_at_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Twice as long after each failure beyond the first few; never for good, else anybody could lock a user out."""
        if self.count < _FREE_FAILURES:
            return 0.0
        doublings = min(self.count - _FREE_FAILURES, _MOST_DOUBLINGS)
        return self.last_at_s + min(float(1 << doublings), _LONGEST_WAIT_S) - now_s


class SignIns:
    """Counts tries by name, whether there is such a user or not, and by address.

    An address from which a name has come in before has a count of its own for that name: whoever tries elsewhere, each
    time that a wait is over, keeps nobody out there.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        """By name or a familiar hash, the one that failed the longest ago first."""
        self._familiar: OrderedDict[str, None] = OrderedDict()
        """Hashes of names with the addresses from which they have come in, the latest last."""
        self._hash_key = token_bytes(16)
        self._tries: dict[str, int] = {}
        """By address and by site, in this minute."""
        self._minute = -1

    def count_address(self, address: str, site: str | None = None) -> None:
        """Count one try from an address, and from the site around it. Raises GatewayError `too_many_sign_ins`."""
        minute = int(self._now_s()) // MINUTE_S
        if minute != self._minute:
            self._minute, self._tries = minute, {}
        counted = {address: _PER_ADDRESS_A_MINUTE} | ({} if site is None else {site: _PER_SITE_A_MINUTE})
        is_full = any(self._tries.get(place, 0) >= most for place, most in counted.items())
        if is_full or len(self._tries) >= _MOST:
            raise _too_many((minute + 1) * MINUTE_S - self._now_s())
        for place in counted:
            self._tries[place] = self._tries.get(place, 0) + 1

    def begin(self, name: str, address: str) -> None:
        """Count a try as a failure until it is known to be none. Raises GatewayError `too_many_sign_ins`."""
        now_s, counted = self._now_s(), self._counted(name, address)
        failures = self._failures.pop(counted, None)
        if failures is None or now_s - failures.last_at_s > _FORGOTTEN_AFTER_S:
            failures = _Failures()
        self._failures[counted] = failures
        if (wait_s := failures.wait_s(now_s)) > 0:
            raise _too_many(wait_s)
        failures.count += 1
        failures.last_at_s = now_s
        if len(self._failures) > _MOST:
            self._failures.popitem(last=False)

    def succeed(self, name: str, address: str) -> None:
        """The password was right: forget the failures that counted against it, and know the address from now on."""
        self._failures.pop(self._counted(name, address), None)
        hashed = self._hashed(name, address)
        self._familiar.pop(hashed, None)
        self._familiar[hashed] = None
        if len(self._familiar) > _MOST:
            self._familiar.popitem(last=False)

    def _counted(self, name: str, address: str) -> str:
        hashed = self._hashed(name, address)
        return hashed if hashed in self._familiar else name

    def _hashed(self, name: str, address: str) -> str:
        """Which tells nobody who came in from where."""
        shown = f"{address} {name}".encode(errors="backslashreplace")
        return blake2b(shown, key=self._hash_key, digest_size=16).hexdigest()


def _too_many(wait_s: float) -> GatewayError:
    message = "Too many tries to sign in; wait before the next one."
    return GatewayError("too_many_sign_ins", message, retry_after_s=max(1, ceil(wait_s)))
