"""The budget of bytes alone: who gets room, who waits, who is ended."""

import asyncio
import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.core.bytes_in_flight import SMALL_BYTES, BytesInFlight, Owner, Reservation, Share
from mcp_gateway.core.errors import GatewayError
from tests.cases import each
from tests.examples import examples
from tests.patience import PATIENCE_S

MIB = 1024 * 1024
BUDGET = 256 * MIB
EIGHTH, QUARTER = BUDGET // 8, BUDGET // 4


def budget(wait_s: float = 0.0) -> BytesInFlight:
    return BytesInFlight(BUDGET, wait_s=wait_s)


def key(number: int = 1, address: str = "") -> Owner:
    return Owner(f"key_{number}", address or f"192.0.2.{number}", False)


def guest(number: int = 1) -> Owner:
    return Owner(f"guest:198.51.100.{number}", f"198.51.100.{number}", True)


async def taken(room: BytesInFlight, owner: Owner, size_bytes: int) -> Reservation:
    reservation = room.reservation(owner)
    await reservation.grow(size_bytes)
    return reservation


async def refused(room: BytesInFlight, owner: Owner, size_bytes: int) -> GatewayError:
    with pytest.raises(GatewayError) as raised:
        await taken(room, owner, size_bytes)
    return raised.value


def used_by(share: Share, name: str) -> int:
    """What a subject or an address uses."""
    return share._used.get(name, 0)


async def line_of(share: Share, count: int) -> None:
    """Until so many wait."""
    async with asyncio.timeout(PATIENCE_S):
        while share.waiting != count:  # noqa: ASYNC110 - one turn of the loop or two
            await asyncio.sleep(0)


async def test_a_reservation_gives_back_all_that_it_took_and_does_so_once() -> None:
    room = budget()
    with await taken(room, key(), MIB) as reservation:
        await reservation.grow(2 * MIB)
        reservation.shrink(MIB // 2)
        assert room.used_bytes == reservation.size_bytes == 5 * MIB // 2
        assert used_by(room.large, "key_1") == used_by(room.large, "192.0.2.1") == 5 * MIB // 2
    reservation.release()
    assert room.used_bytes == used_by(room.large, "key_1") == used_by(room.large, "192.0.2.1") == 0


async def test_one_that_found_no_room_has_taken_nothing() -> None:
    room = budget()
    await taken(room, key(), EIGHTH)
    reservation = room.reservation(key())
    with pytest.raises(GatewayError):
        await reservation.grow(MIB)
    assert reservation.size_bytes == 0
    assert room.used_bytes == EIGHTH


async def test_who_finds_no_room_is_told_when_to_come_again() -> None:
    room = budget()
    await taken(room, key(), EIGHTH)
    error = await refused(room, key(), SMALL_BYTES + 1)
    assert (error.status, error.code, error.retry_after_s) == (503, "overloaded", 5)


async def test_a_caller_has_an_eighth_from_all_of_its_addresses_and_an_address_for_all_of_its_keys() -> None:
    room = budget()
    await taken(room, key(1, "192.0.2.1"), EIGHTH - MIB)
    await refused(room, key(1, "192.0.2.2"), MIB + 1)
    await refused(room, key(2, "192.0.2.1"), MIB + 1)
    await taken(room, key(2, "192.0.2.2"), EIGHTH)


async def test_an_address_that_many_share_has_no_part_of_its_own() -> None:
    room = BytesInFlight(BUDGET, counted_as=lambda address: None if address == "127.0.0.1" else address, wait_s=0.0)
    for number in range(3):
        await taken(room, key(number, "127.0.0.1"), EIGHTH)
    await refused(room, key(2, "127.0.0.1"), SMALL_BYTES + 1)
    await taken(room, key(4, "192.0.2.1"), EIGHTH)
    await refused(room, key(5, "192.0.2.1"), SMALL_BYTES + 1)


async def test_a_subject_that_is_an_address_is_counted_once() -> None:
    room = budget()
    with await taken(room, Owner("192.0.2.1", "192.0.2.1", True), MIB):
        assert used_by(room.large, "192.0.2.1") == MIB
    assert used_by(room.large, "192.0.2.1") == 0


async def test_guests_have_a_quarter_together_and_leave_the_rest_to_keys() -> None:
    room = budget()
    for number in range(8):
        await taken(room, guest(number), QUARTER // 8)
    await refused(room, guest(9), SMALL_BYTES + 1)
    await taken(room, key(), EIGHTH)


async def test_all_together_have_the_whole_less_the_share_of_the_small() -> None:
    room = budget()
    for number in range(7):
        await taken(room, key(number), EIGHTH)
    await refused(room, key(8), SMALL_BYTES + 1)
    await taken(room, key(8), SMALL_BYTES)
    assert room.small.take_unowned(SMALL_BYTES)


@each("size_bytes", [EIGHTH + 1, 3 * EIGHTH, 7 * EIGHTH])
@each("owner", [key(), guest()])
async def test_an_owners_only_reservation_may_be_larger_than_its_part(owner: Owner, size_bytes: int) -> None:
    room = budget()
    reservation = await taken(room, owner, size_bytes)
    await refused(room, owner, SMALL_BYTES + 1)
    reservation.release()
    await taken(room, owner, MIB)
    await refused(room, owner, EIGHTH)


async def test_nothing_is_larger_than_the_share() -> None:
    await refused(budget(), key(), 7 * EIGHTH + 1)


async def test_a_small_one_that_grows_moves_out_of_the_share_of_the_small() -> None:
    room = budget()
    reservation = await taken(room, key(), SMALL_BYTES)
    assert (room.small.used_bytes, room.large.used_bytes) == (SMALL_BYTES, 0)
    await reservation.grow(1)
    assert (room.small.used_bytes, room.large.used_bytes) == (0, SMALL_BYTES + 1)
    reservation.release()
    await reservation.grow(1)
    assert (room.small.used_bytes, room.large.used_bytes) == (1, 0)


async def test_small_ones_beyond_their_share_are_counted_among_the_others() -> None:
    room = budget()
    for _ in range(65):
        await taken(room, key(), SMALL_BYTES)
    assert used_by(room.small, "key_1") == 64 * SMALL_BYTES
    assert used_by(room.large, "key_1") == SMALL_BYTES


async def test_small_bodies_counted_for_nobody_take_no_more_than_the_share_of_the_small() -> None:
    room = budget()
    count = 0
    while room.small.take_unowned(SMALL_BYTES):
        count += 1
    assert count * SMALL_BYTES == EIGHTH == room.small.used_bytes
    room.small.give_unowned(SMALL_BYTES)
    assert room.small.take_unowned(SMALL_BYTES)


async def test_who_waits_is_served_when_room_is_given_back() -> None:
    room = budget(PATIENCE_S)
    first = await taken(room, key(), EIGHTH)
    waiting = asyncio.ensure_future(taken(room, key(), EIGHTH))
    await line_of(room.large, 1)
    first.release()
    assert (await waiting).size_bytes == EIGHTH
    assert room.large.waiting == 0


async def test_nobody_overtakes_one_that_waits_for_the_same() -> None:
    room = budget(PATIENCE_S)
    first, second = await taken(room, key(), EIGHTH // 2), await taken(room, key(), EIGHTH // 2)
    large = asyncio.ensure_future(taken(room, key(), EIGHTH))
    await line_of(room.large, 1)
    less = asyncio.ensure_future(taken(room, key(), MIB))
    await line_of(room.large, 2)
    first.release()
    await asyncio.sleep(0)
    assert room.large.waiting == 2
    second.release()
    assert (await large).size_bytes == EIGHTH
    (await large).release()
    assert (await less).size_bytes == MIB


async def test_one_that_waits_for_its_own_part_keeps_nobody_else_waiting() -> None:
    room = budget(PATIENCE_S)
    await taken(room, key(1), EIGHTH)
    waiting = asyncio.ensure_future(taken(room, key(1), EIGHTH))
    await line_of(room.large, 1)
    assert (await taken(room, key(2), EIGHTH)).size_bytes == EIGHTH
    assert not waiting.done()
    waiting.cancel()


async def test_what_was_begun_goes_before_what_was_not() -> None:
    room = budget(PATIENCE_S)
    begun, other = await taken(room, key(), MIB), await taken(room, key(), EIGHTH - MIB)
    fresh = asyncio.ensure_future(taken(room, key(), EIGHTH - MIB))
    await line_of(room.large, 1)
    growing = asyncio.ensure_future(begun.grow(EIGHTH - MIB))
    await line_of(room.large, 2)
    other.release()
    await growing
    assert not fresh.done()
    begun.release()
    await fresh


@each(("count", "steps"), [(2, 20), (10, 6), (33, 2), (100, 6)])
async def test_of_half_read_bodies_that_want_more_than_there_is_the_oldest_is_finished(count: int, steps: int) -> None:
    """Each takes a MiB at a time, so that all have begun before any is whole; there is room for 32 MiB."""
    room = budget(0.05)

    async def read() -> bool:
        with room.reservation(key()) as body:
            try:
                for _ in range(steps):
                    await body.grow(MIB)
                    await asyncio.sleep(0)
            except GatewayError:
                return False
            return True

    async with asyncio.timeout(PATIENCE_S):
        finished = await asyncio.gather(*(read() for _ in range(count)))
    assert finished[0]
    assert not all(finished)
    assert room.used_bytes == room.large.waiting == 0


async def test_one_that_gives_up_waiting_lets_the_next_ones_through() -> None:
    room = budget(PATIENCE_S)
    await taken(room, key(), EIGHTH // 2)
    large = asyncio.ensure_future(taken(room, key(), EIGHTH))
    await line_of(room.large, 1)
    less = asyncio.ensure_future(taken(room, key(), MIB))
    await line_of(room.large, 2)
    large.cancel()
    assert (await less).size_bytes == MIB
    with pytest.raises(asyncio.CancelledError):
        await large


async def test_one_that_is_cancelled_just_as_it_is_served_keeps_nothing() -> None:
    room = budget(PATIENCE_S)
    first = await taken(room, key(), EIGHTH)
    waiting = asyncio.ensure_future(taken(room, key(), MIB))
    await line_of(room.large, 1)
    first.release()
    asyncio.get_running_loop().call_soon(waiting.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert room.used_bytes == 0


async def test_who_fills_the_line_keeps_nobody_else_from_standing_in_it() -> None:
    room = budget(PATIENCE_S)
    await taken(room, key(), EIGHTH)
    waiting = [asyncio.ensure_future(taken(room, key(), MIB)) for _ in range(64)]
    await line_of(room.large, 64)
    await refused(room, key(), MIB)
    assert (await taken(room, key(2), MIB)).size_bytes == MIB
    for one in waiting:
        one.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert room.large.waiting == 0


async def test_unread_answers_within_the_budget_end_nobody() -> None:
    room, ended = budget(), list[str]()
    with room.reservation(key()) as unread:
        unread.hold(EIGHTH, lambda: ended.append("one"))
        assert room.large.used_bytes == EIGHTH
    assert ended == []
    assert room.used_bytes == 0


async def test_an_answer_beyond_its_owners_part_ends_nobody_while_it_is_the_only_one() -> None:
    room, ended = budget(), list[str]()
    room.reservation(key()).hold(2 * EIGHTH, lambda: ended.append("one"))
    assert ended == []


async def test_beyond_an_owners_part_its_largest_unread_answer_is_ended() -> None:
    room, ended = budget(), list[str]()
    sizes = {"a": EIGHTH // 2, "b": EIGHTH // 4, "c": EIGHTH // 4}
    for name, size_bytes in sizes.items():
        room.reservation(key()).hold(size_bytes, lambda name=name: ended.append(name))  # type: ignore[misc]
    room.reservation(key(2)).hold(EIGHTH, lambda: ended.append("of another"))
    assert ended == []
    room.reservation(key()).hold(1, lambda: ended.append("d"))
    assert ended == ["a"]
    assert used_by(room.large, "key_1") == EIGHTH // 2 + 1


async def test_beyond_the_budget_the_owner_with_the_most_is_ended() -> None:
    room, ended = budget(), list[str]()
    for number in range(7):
        size_bytes = EIGHTH if number == 3 else EIGHTH - MIB
        room.reservation(key(number)).hold(size_bytes // 2, lambda n=number: ended.append(f"{n}a"))  # type: ignore[misc]
        room.reservation(key(number)).hold(size_bytes // 2 - 1, lambda n=number: ended.append(f"{n}b"))  # type: ignore[misc]
    assert ended == []
    room.reservation(key(8)).hold(7 * MIB, lambda: ended.append("8"))
    assert ended == ["3a"]


async def test_beyond_the_guests_quarter_a_guest_is_ended_and_no_key() -> None:
    room, ended = budget(), list[str]()
    room.reservation(key()).hold(2 * EIGHTH, lambda: ended.append("key"))
    for number in range(8):
        room.reservation(guest(number)).hold(QUARTER // 8 + number, lambda n=number: ended.append(str(n)))  # type: ignore[misc]
    assert ended == ["7"]


async def test_bodies_that_take_all_room_end_those_whose_answers_are_not_read_and_not_the_other_way() -> None:
    room, ended = budget(), list[str]()
    for number in range(7):
        await taken(room, key(number), EIGHTH)
    room.reservation(key(8)).hold(1, lambda: ended.append("unread"))
    assert ended == ["unread"]
    assert room.large.used_bytes == 7 * EIGHTH


async def test_an_answer_that_is_being_read_again_is_not_ended() -> None:
    room, ended = budget(), list[str]()
    first = room.reservation(key())
    first.hold(EIGHTH, lambda: ended.append("first"))
    first.release()
    room.reservation(key()).hold(EIGHTH, lambda: ended.append("second"))
    room.reservation(key()).hold(1, lambda: ended.append("third"))
    assert ended == ["second"]


async def test_the_budget_remembers_nothing_of_owners_that_keep_nothing() -> None:
    room = budget()
    for number in range(100):
        (await taken(room, key(number), MIB)).release()
        held = room.reservation(guest(number))
        held.hold(MIB, lambda: None)
        held.release()
    del held
    gc.collect()
    assert not any(isinstance(kept, Reservation) for kept in gc.get_objects() if type(kept) is Reservation)
    assert room.large._used == {}


@examples(50)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 2 * EIGHTH), st.booleans()), max_size=40))
def test_whatever_comes_and_goes_the_whole_is_never_exceeded_and_in_the_end_nothing_is_left(
    steps: list[tuple[int, bool, int, bool]],
) -> None:
    async def run() -> None:
        room = budget()
        alive: list[Reservation] = []
        for number, is_guest, size_bytes, is_held in steps:
            reservation = room.reservation(guest(number) if is_guest else key(number))
            alive.append(reservation)
            if is_held:
                reservation.hold(size_bytes, lambda: None)
            else:
                try:
                    await reservation.grow(size_bytes)
                except GatewayError:
                    alive.pop(0).release()
            assert room.used_bytes == sum(one.size_bytes for one in alive) <= BUDGET
        for one in alive:
            one.release()
        assert room.used_bytes == 0

    asyncio.run(run())
