"""Who may hold how many sessions, streams and calls at once, and whose makes room."""

from collections.abc import Iterator
from itertools import count
from random import Random
from typing import Any

import pytest

from mcp_gateway.mcp_door.jsonrpc import Refusal
from mcp_gateway.mcp_door.places import Places
from mcp_gateway.mcp_door.sessions import Session, Sessions
from mcp_gateway.mcp_door.shares import Caps, FairShares, Full, Owner, Tally, is_guest

ROOMY = Caps(1000, 1000, 1000)


def owner(name: str) -> Owner:
    return "acc", name, name


def guest(address: str) -> Owner:
    return "acc_guest", None, address


def session(number: int, of: Owner, address: str | None = None) -> Session:
    nothing: Any = None
    return Session(f"s{number}", of, nothing, Places(Tally(ROOMY)), address)


class Opened:
    """Sessions as they are opened one after another, at one more second each."""

    def __init__(self, caps: Caps) -> None:
        self._seconds = count()
        self.ended: list[str] = []
        self.sessions = Sessions(
            caps, idle_timeout_s=60, monotonic_s=lambda: next(self._seconds), on_end=lambda it: self.ended.append(it.id)
        )
        self._number = 0

    def open(self, *owners: Owner, address: str | None = None) -> Session:
        for of in owners:
            last = session(self._number, of, address)
            self._number += 1
            self.sessions.add(last)
        return last

    def __iter__(self) -> Iterator[str]:
        return (it.id for it in self.sessions.all())


def test_a_key_has_a_share_of_the_sessions_and_its_idlest_makes_room() -> None:
    opened = Opened(Caps(20, 2, 1))
    opened.open(owner("b"), owner("a"), owner("a"))
    opened.sessions.find("s1", owner("a"))
    opened.open(owner("a"))
    assert list(opened) == ["s0", "s1", "s3"]


def test_a_guests_address_has_a_smaller_share() -> None:
    opened = Opened(Caps(20, 2, 1))
    opened.open(guest("192.0.2.1"), guest("192.0.2.1"))
    assert list(opened) == ["s1"]


async def test_of_a_callers_own_sessions_a_busy_one_makes_no_room() -> None:
    opened = Opened(Caps(20, 2, 1))
    busy = opened.open(owner("a"))
    scope = busy.begin(1)
    opened.open(owner("a"), owner("a"))
    assert list(opened) == ["s0", "s2"]
    other = opened.sessions.find("s2", owner("a"))
    assert other is not None
    other.begin(1)
    with pytest.raises(Refusal) as refused:
        opened.open(owner("a"))
    assert refused.value.status == 503
    busy.end(scope)
    opened.sessions.touch(busy)
    opened.open(owner("a"))
    assert list(opened) == ["s2", "s4"]


def test_when_all_sessions_are_taken_the_owner_with_the_most_loses_its_idlest() -> None:
    opened = Opened(Caps(6, 6, 6))
    opened.open(owner("small"), *[owner("large")] * 4, owner("other"))
    opened.open(owner("new"))
    assert opened.ended == ["s1"]
    opened.open(owner("new"), owner("large"))
    assert opened.ended == ["s1", "s2", "s3"]


async def test_a_busy_session_ends_only_for_a_caller_that_has_much_less() -> None:
    opened = Opened(Caps(4, 4, 4))
    for _ in range(4):
        opened.open(owner("large")).begin(1)
    opened.open(owner("new")).begin(1)
    assert opened.ended == ["s0"]
    opened.open(owner("newer")).begin(1)
    assert opened.ended == ["s0", "s1"]
    with pytest.raises(Refusal):
        opened.open(owner("new"))
    with pytest.raises(Refusal):
        opened.open(owner("large"))
    assert list(opened) == ["s2", "s3", "s4", "s5"]


def test_among_equals_the_one_not_heard_of_for_the_longest_makes_room() -> None:
    opened = Opened(Caps(3, 3, 3))
    opened.open(owner("a"), owner("b"), owner("c"))
    opened.sessions.find("s0", owner("a"))
    opened.open(owner("d"))
    assert opened.ended == ["s1"]


def test_guests_together_have_at_most_half() -> None:
    opened = Opened(Caps(10, 10, 3))
    opened.open(owner("key"))
    opened.open(*[guest("192.0.2.1")] * 3, guest("192.0.2.2"), guest("192.0.2.3"), guest("192.0.2.4"))
    assert opened.ended == ["s1"]
    opened.open(*[owner("key")] * 4)
    assert opened.ended == ["s1"]
    opened.open(owner("new"))
    assert opened.ended == ["s1", "s0"]
    assert sum(is_guest(it.owner) for it in opened.sessions.all()) == 5


def test_the_keys_behind_one_address_have_a_share_together_and_the_largest_makes_room() -> None:
    opened = Opened(Caps(100, 4, 1))
    opened.open(owner("other"), address="198.51.100.1")
    opened.open(owner("a"), owner("b"), owner("b"), owner("b"), address="192.0.2.1")
    opened.open(owner("c"), owner("d"), address="192.0.2.1")
    assert opened.ended == ["s2", "s3"]
    opened.open(*[owner("e")] * 4)
    assert opened.ended == ["s2", "s3"]


async def test_a_pool_holds_its_caps_and_forgets_who_left_whatever_happens() -> None:
    random, caps = Random(7), Caps(40, 12, 5)
    owners = [owner(str(number)) for number in range(8)] + [guest(str(number)) for number in range(8)]
    opened = Opened(caps)
    for _ in range(1500):
        mine = opened.sessions.all()
        step = random.randrange(4)
        if step == 0 and mine:
            opened.sessions.remove(random.choice(mine))
        elif step == 1 and mine:
            chosen = random.choice(mine)
            if not chosen.is_busy:
                chosen.begin(1)
            else:
                chosen._calls.clear()
                opened.sessions.touch(chosen)
        else:
            try:
                opened.open(random.choice(owners), address=random.choice([None, "x", "y"]))
            except Refusal:
                continue
        counts = {of: sum(it.owner == of for it in opened.sessions.all()) for of in owners}
        assert all(counts[of] <= caps.of(of) for of in owners)
        assert sum(counts.values()) == len(opened.sessions) == len(opened.sessions._shares) <= caps.total
        assert sum(counts[of] for of in owners if is_guest(of)) <= caps.guests
        assert all(sum(it.address == at for it in opened.sessions.all()) <= caps.per_address for at in "xy")
    for it in opened.sessions.all():
        opened.sessions.remove(it)
    pool = opened.sessions._shares
    assert not pool._by_address
    for ranking in (pool._guests, pool._keys):
        assert (len(ranking), ranking._held, ranking._owners_with, ranking.most) == (0, {}, {}, 0)


def test_making_room_looks_at_few_however_many_there_are() -> None:
    looked = 0

    class Counted:
        address = None

        def __init__(self, of: Owner) -> None:
            self.owner = of

        @property
        def is_busy(self) -> bool:
            nonlocal looked
            looked += 1
            return True

    pool: FairShares[Counted] = FairShares(Caps(2000, 1000, 1000), lambda member: pool.discard(member))
    for number in range(2000):
        pool.add(Counted(owner(str(number))))
    for number in range(2000, 2100):
        with pytest.raises(Full):
            pool.add(Counted(owner(str(number))))
    assert looked <= 100 * 8
    looked = 0
    for _ in range(1000):
        with pytest.raises(Full):
            pool.add(Counted(owner("0")))
    assert looked <= 1


def test_a_tally_counts_by_owner_by_kind_and_in_all_and_forgets_who_has_none() -> None:
    tally = Tally(Caps(10, 4, 3))
    tally.take(owner("a"), 4)
    for of, more in ((owner("a"), 1), (guest("x"), 4)):
        with pytest.raises(Full):
            tally.take(of, more)
    tally.take(guest("x"), 3)
    tally.take(guest("y"), 2)
    with pytest.raises(Full):
        tally.take(guest("z"))
    tally.take(owner("b"))
    with pytest.raises(Full):
        tally.take(owner("c"))
    tally.give_back(guest("x"), 3)
    tally.take(owner("c"), 3)
    for of, held in ((owner("a"), 4), (owner("b"), 1), (owner("c"), 3), (guest("y"), 2)):
        tally.give_back(of, held)
    assert (tally.total, tally._guests, len(tally._by_owner)) == (0, 0, 0)
