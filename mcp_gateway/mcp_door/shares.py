"""Shares of what there is only so much of: who holds how many, and whose makes room once it is full.

Guests together have at most half. Every step takes constant time, whoever holds how many. Knows neither sessions nor
streams.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from mcp_gateway.core.caller import GUEST_ACCOUNT_ID, Caller
from mcp_gateway.core.config import McpSettings

_TRIES = 8
"""How many owners are looked at for one that can make room, where all hold about as many."""

Owner = tuple[str, str | None, str]


def owner_of(caller: Caller) -> Owner:
    """Whom a session belongs to: a key, a session of a user, or a guest's address."""
    return caller.account_id, caller.credential_id, caller.subject


def is_guest(owner: Owner) -> bool:
    return owner[0] == GUEST_ACCOUNT_ID


@dataclass(frozen=True, slots=True)
class Caps:
    """How many of something there may be at once: in all, of one key, of one guest's address."""

    total: int
    per_key: int
    per_guest_address: int

    @classmethod
    def of_sessions(cls, settings: McpSettings) -> "Caps":
        return cls(settings.max_sessions, settings.max_sessions_per_caller, settings.max_sessions_per_guest_address)

    def times(self, factor: int) -> "Caps":
        return Caps(self.total * factor, self.per_key * factor, self.per_guest_address * factor)

    def of(self, owner: Owner) -> int:
        return self.per_guest_address if is_guest(owner) else self.per_key

    @property
    def guests(self) -> int:
        return max(1, self.total // 2)

    @property
    def per_address(self) -> int:
        """Of all keys behind one address."""
        return self.per_key


class Full(Exception):
    """A cap is reached, and nothing can make room."""


class Tally:
    """How many each owner has of something that makes no room for others."""

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._by_owner: dict[Owner, int] = {}
        self._guests = 0
        self.total = 0

    def take(self, owner: Owner, count: int = 1) -> None:
        """Count so many more. Raises Full."""
        is_full = self._by_owner.get(owner, 0) + count > self._caps.of(owner) or self.total + count > self._caps.total
        if is_full or (is_guest(owner) and self._guests + count > self._caps.guests):
            raise Full
        self._add(owner, count)

    def give_back(self, owner: Owner, count: int = 1) -> None:
        self._add(owner, -count)

    def _add(self, owner: Owner, count: int) -> None:
        if has := self._by_owner.get(owner, 0) + count:
            self._by_owner[owner] = has
        else:
            self._by_owner.pop(owner, None)
        if is_guest(owner):
            self._guests += count
        self.total += count


class Member(Protocol):
    """Something that an owner holds. `address` is set where the keys behind an address have a share together."""

    owner: Owner
    address: str | None

    @property
    def is_busy(self) -> bool: ...


M = TypeVar("M", bound=Member)


class _Held(Generic[M]):
    """What one owner has, the longest unused first. Those that were found busy stand apart until they are used again,
    so that nobody looks at them twice.
    """

    __slots__ = ("busy", "members")

    def __init__(self) -> None:
        self.members: OrderedDict[M, None] = OrderedDict()
        self.busy: OrderedDict[M, None] | None = None

    def __len__(self) -> int:
        return len(self.members) + len(self.busy or ())

    def touch(self, member: M) -> None:
        if self.busy is not None:
            self.busy.pop(member, None)
        self.members[member] = None
        self.members.move_to_end(member)

    def discard(self, member: M) -> None:
        self.members.pop(member, None)
        if self.busy is not None:
            self.busy.pop(member, None)

    def idlest(self) -> M | None:
        """The longest unused that is not busy."""
        while self.members:
            member = next(iter(self.members))
            if not member.is_busy:
                return member
            del self.members[member]
            self.busy = self.busy if self.busy is not None else OrderedDict()
            self.busy[member] = None
        return None

    def first_busy(self) -> M | None:
        return next(iter(self.busy), None) if self.busy else None


class Owners(Generic[M]):
    """Owners by how many they hold, those that were not heard of for the longest first among equals."""

    def __init__(self) -> None:
        self._held: dict[Owner, _Held[M]] = {}
        self._owners_with: dict[int, OrderedDict[Owner, None]] = {}
        self._size = 0
        self.most = 0
        """How many the owner with the most has."""

    def __len__(self) -> int:
        return self._size

    def count(self, owner: Owner) -> int:
        held = self._held.get(owner)
        return 0 if held is None else len(held)

    def add(self, member: M) -> None:
        held = self._held.setdefault(member.owner, _Held())
        held.touch(member)
        self._size += 1
        self._rank(member.owner, len(held) - 1, len(held))

    def discard(self, member: M) -> None:
        held = self._held[member.owner]
        held.discard(member)
        self._size -= 1
        self._rank(member.owner, len(held) + 1, len(held))
        if not len(held):
            del self._held[member.owner]

    def touch(self, member: M) -> None:
        """Count as used now."""
        held = self._held[member.owner]
        held.touch(member)
        self._owners_with[len(held)].move_to_end(member.owner)

    def idlest_of(self, owner: Owner) -> M | None:
        held = self._held.get(owner)
        return None if held is None else held.idlest()

    def to_make_room(self, newcomer: Owner, has: int) -> M | None:
        """What ends so that an owner with so many may have one more: an idle one of the owner with the most. A busy
        one only of an owner that has at least two more, so that equals do not push each other out for ever.
        """
        if has >= self.most:
            return self.idlest_of(newcomer)
        richest = self._owners_with[self.most]
        for _ in range(_TRIES):
            owner = next(iter(richest))
            held = self._held[owner]
            found = held.idlest() or (held.first_busy() if self.most > has + 1 else None)
            if found is not None:
                return found
            richest.move_to_end(owner)
        return None

    def _rank(self, owner: Owner, before: int, after: int) -> None:
        if before:
            del self._owners_with[before][owner]
            if not self._owners_with[before]:
                del self._owners_with[before]
        if after:
            self._owners_with.setdefault(after, OrderedDict())[owner] = None
        if after > self.most or (before == self.most and before not in self._owners_with):
            self.most = after


class FairShares(Generic[M]):
    """Members that make room for others: `end` ends one, and has it discarded here."""

    def __init__(self, caps: Caps, end: Callable[[M], None]) -> None:
        self._caps = caps
        self._end = end
        self._guests: Owners[M] = Owners()
        self._keys: Owners[M] = Owners()
        self._by_address: dict[str, Owners[M]] = {}

    def __len__(self) -> int:
        return len(self._guests) + len(self._keys)

    def add(self, member: M) -> None:
        """Take a member in; where a cap is reached, another ends. Raises Full where none can."""
        owners = self._owners(member)
        has = owners.count(member.owner)
        if has >= self._caps.of(member.owner):
            self._make_room([owners.idlest_of(member.owner)])
        if (nearby := self._by_address.get(member.address or "")) is not None:
            self._make_room_in([nearby], self._caps.per_address, member.owner)
        if is_guest(member.owner):
            self._make_room_in([owners], self._caps.guests, member.owner)
        everybody = sorted((self._guests, self._keys), key=lambda group: -group.most)
        self._make_room_in(everybody, self._caps.total, member.owner)
        for group in self._groups(member):
            group.add(member)

    def discard(self, member: M) -> None:
        for group in self._groups(member):
            group.discard(member)
        if member.address is not None and not len(self._by_address[member.address]):
            del self._by_address[member.address]

    def touch(self, member: M) -> None:
        """Count as used now."""
        for group in self._groups(member):
            group.touch(member)

    def _owners(self, member: M) -> Owners[M]:
        return self._guests if is_guest(member.owner) else self._keys

    def _groups(self, member: M) -> tuple[Owners[M], ...]:
        owners = self._owners(member)
        if member.address is None:
            return (owners,)
        return owners, self._by_address.setdefault(member.address, Owners())

    def _make_room_in(self, groups: list[Owners[M]], cap: int, newcomer: Owner) -> None:
        if sum(map(len, groups)) >= cap:
            has = sum(group.count(newcomer) for group in groups)
            self._make_room([group.to_make_room(newcomer, has) for group in groups])

    def _make_room(self, candidates: list[M | None]) -> None:
        found = next((member for member in candidates if member is not None), None)
        if found is None:
            raise Full
        self._end(found)
