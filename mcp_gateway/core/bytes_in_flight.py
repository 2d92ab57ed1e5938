"""The one budget of bytes that requests keep in memory: bodies, answers being collected, held frames, unread answers.

Knows owners and sizes, and nothing of what the bytes are. State changes only between awaits.
"""

import asyncio
import logging
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.log_limit import LogLimit

logger = logging.getLogger(__name__)

SMALL_BYTES = 64 * 1024
"""What a request keeps up to this size has a share of its own, so that large ones never lock out ordinary chats."""
STEP_BYTES = 256 * 1024
"""What grows without an announced length grows by this."""
OWNER_PART = 8
"""A caller has at most an eighth of the budget, and an address."""
GUESTS_PART = 4
"""All guests together have at most a quarter."""
SMALL_PART = 8
"""An eighth is for the small."""
_ALL = "all"
_GUESTS = "guests"
_MAX_WAITING = {_ALL: 1024, _GUESTS: 512}
_MAX_WAITING_OF_ONE = 64
"""Of one caller and of one address: whoever fills the line keeps nobody else from standing in it."""


class Owner(NamedTuple):
    """Whom bytes are counted for: a caller's subject, and the address that it calls from, unless many share it."""

    subject: str
    address: str | None
    is_guest: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what bounds it, the widest first."""
        own = (_ALL, _GUESTS, self.subject) if self.is_guest else (_ALL, self.subject)
        return own if self.address in (None, self.subject) else (*own, self.address)

    def is_apart_from(self, parts: Iterable[str]) -> bool:
        """Whether none of these bounds it."""
        return set(parts).isdisjoint(self.parts)


def largest_of(most_bytes: int) -> int:
    """What a single request may keep, out of a budget of so much."""
    return most_bytes - most_bytes // SMALL_PART


class BytesInFlight:
    """Grants room to reservations, in one share for small ones and in one for the others.

    No two can wait for each other for ever. What has an announced length takes all of its room before it takes any
    memory, so it never waits while it holds. What grows by steps does, but it stands in line before all that hold
    nothing, the oldest first, so that whatever is given back helps the oldest to its end. After `wait_s` in vain one
    gives up and gives back what it holds: of those that were begun the youngest, or all that wait for each other would
    give up together.
    """

    def __init__(self, most_bytes: int, *, counted_as: Callable[[str], str | None] = str, wait_s: float = 5.0) -> None:
        """`counted_as` tells what an address counts as; None for one that many callers share."""
        small_bytes = most_bytes // SMALL_PART
        self.small = Share(small_bytes, small_bytes // OWNER_PART, small_bytes // GUESTS_PART, wait_s)
        self.large = Share(largest_of(most_bytes), most_bytes // OWNER_PART, most_bytes // GUESTS_PART, wait_s)
        self._counted_as = counted_as
        self._made = 0

    def __repr__(self) -> str:
        return f"<BytesInFlight small={self.small!r} large={self.large!r}>"

    @property
    def used_bytes(self) -> int:
        return self.small.used_bytes + self.large.used_bytes

    def reservation(self, owner: Owner) -> "Reservation":
        """A reservation for an owner, of nothing yet."""
        self._made += 1
        address = None if owner.address is None else self._counted_as(owner.address)
        return Reservation(self, owner._replace(address=address), self._made)


class Reservation:
    """What one request keeps, or one connection has unread: leaving it as a context manager gives all of it back.

    An owner's only reservation may be larger than the owner's part: whatever is allowed to one request is possible.
    """

    __slots__ = ("_budget", "end", "number", "owner", "share", "size_bytes")

    def __init__(self, budget: BytesInFlight, owner: Owner, number: int) -> None:
        self._budget = budget
        self.owner = owner
        self.number = number
        self.size_bytes = 0
        self.share = budget.small
        self.end: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<Reservation {self.size_bytes}>"

    async def grow(self, size_bytes: int) -> None:
        """Take so much more, after a wait where there is no room. Raises GatewayError `overloaded`, taking nothing."""
        small, large = self._budget.small, self._budget.large
        is_small = self.share is small and self.size_bytes + size_bytes <= SMALL_BYTES
        if not ((is_small and small.take(self, size_bytes)) or large.take(self, size_bytes)):
            await (small if is_small else large).wait(self, size_bytes)

    def hold(self, size_bytes: int, end: Callable[[], object]) -> None:
        """Count so much more that is there already, since its client does not read it; and what was there before.

        Where that is too much, the owner with the most of what is held is ended: its largest is given back, and the
        `end` of it called.
        """
        self.end = end
        large = self._budget.large
        large.put(self, size_bytes)
        large.enforce(self)

    def let_go(self, size_bytes: int) -> None:
        """Give back so much that was held, and end it no more: its client reads again."""
        self.end = None
        self.share.let_go(self)
        self.shrink(size_bytes)

    def shrink(self, size_bytes: int) -> None:
        """Give back so much."""
        self.share.give(self, min(size_bytes, self.size_bytes))

    def release(self) -> None:
        """Give back everything; a second time does nothing."""
        if self.size_bytes:
            self.share.give(self, self.size_bytes)
            self.share = self._budget.small

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@dataclass(eq=False, slots=True)
class _Waiter:
    reservation: Reservation
    size_bytes: int
    is_served: bool = False
    has_left: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_begun(self) -> bool:
        return self.reservation.size_bytes > 0

    @property
    def rank(self) -> tuple[bool, int]:
        """What was begun goes first, then the oldest."""
        return not self.is_begun, self.reservation.number


class Share:
    """A part of the budget: what is used of it in all, by guests and by each owner, and the line of those that wait."""

    def __init__(self, most_bytes: int, owner_bytes: int, guests_bytes: int, wait_s: float) -> None:
        self._owner_bytes = owner_bytes
        self._bounds = {_ALL: most_bytes, _GUESTS: guests_bytes}
        self._wait_s = wait_s
        self._used: defaultdict[str, int] = defaultdict(int)
        self._line: list[_Waiter] = []
        self._waiting: Counter[str] = Counter()
        self._log = LogLimit(logger)
        self._is_move_due = False
        self._held: set[Reservation] = set()

    def __repr__(self) -> str:
        return f"<Share {self.used_bytes} of {self._bounds[_ALL]}, {len(self._line)} wait>"

    @property
    def used_bytes(self) -> int:
        return self._used.get(_ALL, 0)

    @property
    def waiting(self) -> int:
        return len(self._line)

    def take(self, reservation: Reservation, size_bytes: int) -> bool:
        """Let a reservation grow, into this share where it was in another; False where it has to wait."""
        if self._line or self._lacking(reservation, size_bytes):
            return False
        self.put(reservation, size_bytes)
        return True

    def take_unowned(self, size_bytes: int) -> bool:
        """Count bytes for nobody, such as a small body that has come whole: its request is about to get a place.

        False where there is no room. This spares what most requests are the price of a reservation.
        """
        used_bytes = self._used[_ALL] + size_bytes
        if self._line or used_bytes > self._bounds[_ALL]:
            return False
        self._used[_ALL] = used_bytes
        return True

    def give_unowned(self, size_bytes: int) -> None:
        self._used[_ALL] -= size_bytes
        if self._line:
            self._move_soon()

    async def wait(self, reservation: Reservation, size_bytes: int) -> None:
        """Wait in line, and grow. Raises GatewayError `overloaded`."""
        parts = reservation.owner.parts
        is_begun = reservation.size_bytes > 0  # and by that bounded
        if not is_begun and any(self._waiting[name] >= _MAX_WAITING.get(name, _MAX_WAITING_OF_ONE) for name in parts):
            raise _overloaded()
        self._waiting.update(parts)
        waiter = _Waiter(reservation, size_bytes)
        insort(self._line, waiter, key=lambda other: other.rank)
        self._move_soon()
        try:
            while waiter in self._line:
                await self._wait_once(waiter)
        except BaseException:
            self._leave(waiter)
            raise
        finally:
            self._waiting -= Counter(parts)
        if not waiter.is_served:
            raise _overloaded()

    def put(self, reservation: Reservation, size_bytes: int) -> None:
        """Count a reservation here, larger by so much, whatever room there is."""
        if reservation.share is not self:
            size_bytes += reservation.size_bytes
            reservation.release()
            reservation.share = self
        reservation.size_bytes += size_bytes
        for name in reservation.owner.parts:
            self._used[name] += size_bytes

    def give(self, reservation: Reservation, size_bytes: int) -> None:
        """Count a reservation smaller by so much; what is empty is ended no more."""
        reservation.size_bytes -= size_bytes
        for name in reservation.owner.parts:
            self._used[name] -= size_bytes
            if not self._used[name]:
                del self._used[name]
        if not reservation.size_bytes:
            self._held.discard(reservation)
        if self._line:
            self._move_soon()

    def let_go(self, held: Reservation) -> None:
        self._held.discard(held)

    def enforce(self, held: Reservation) -> None:
        """Note what is there already, and end the largest of the owner with the most until the rest fits."""
        self._held.add(held)
        while held.size_bytes and (lacking := self._lacking(held, 0)):
            largest = self._largest_within(lacking[0])
            self._log.warning("a connection is ended: its client leaves %d bytes unread", largest.size_bytes)
            end = largest.end
            largest.release()
            if end is not None:
                end()

    def _lacking(self, reservation: Reservation, size_bytes: int) -> list[str]:
        """The bounds that this would exceed; an owner's only reservation exceeds none but that of the whole share."""
        held_bytes = reservation.size_bytes if reservation.share is self else 0
        more_bytes = reservation.size_bytes - held_bytes + size_bytes
        return [
            name
            for name in reservation.owner.parts
            if self._used.get(name, 0) + more_bytes > self._bounds.get(name, self._owner_bytes)
            and (name == _ALL or self._used.get(name, 0) > held_bytes)
        ]

    def _largest_within(self, name: str) -> Reservation:
        """The largest that its client does not read, of the owner that has the most of such."""
        unread = [reservation for reservation in self._held if name in reservation.owner.parts]
        by_subject: defaultdict[str, int] = defaultdict(int)
        for reservation in unread:
            by_subject[reservation.owner.subject] += reservation.size_bytes
        return max(unread, key=lambda one: (by_subject[one.owner.subject], one.size_bytes))

    async def _wait_once(self, waiter: _Waiter) -> None:
        """Wait until it is served or given up; after `wait_s` one gives up, this or one behind it."""
        try:
            async with asyncio.timeout(self._wait_s):
                await waiter.has_left.wait()
        except TimeoutError:
            self._move()  # somebody may just have given back what this one wants
            if waiter in self._line:
                self._leave(self._youngest_like(waiter))

    def _youngest_like(self, waiter: _Waiter) -> _Waiter:
        """The last in line that was begun as well and wants what this one lacks; where there is none, this one."""
        lacking = self._lacking(waiter.reservation, waiter.size_bytes)
        for other in reversed(self._line[self._line.index(waiter) :]):
            if other.is_begun and not other.reservation.owner.is_apart_from(lacking):
                return other
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        """Out of the line; what was granted in the same moment goes back."""
        if waiter.is_served:
            waiter.reservation.shrink(waiter.size_bytes)
        elif waiter in self._line:
            self._line.remove(waiter)
            waiter.has_left.set()
            self._move_soon()

    def _move_soon(self) -> None:
        """Once in a turn of the loop, however much is given back in it."""
        if not self._is_move_due:
            self._is_move_due = True
            asyncio.get_running_loop().call_soon(self._move)

    def _move(self) -> None:
        """Serve those that wait, in order; nobody overtakes one that waits for the same."""
        self._is_move_due = False
        short: set[str] = set()
        left: list[_Waiter] = []
        for waiter in self._line:
            reservation = waiter.reservation
            lacking = self._lacking(reservation, waiter.size_bytes)
            if lacking or not reservation.owner.is_apart_from(short):
                short.update(lacking)
                left.append(waiter)
                continue
            self.put(reservation, waiter.size_bytes)
            waiter.is_served = True
            waiter.has_left.set()
        self._line = left


def _overloaded() -> GatewayError:
    return GatewayError("overloaded", "There is no room for a request of this size at the moment; try again soon.")
