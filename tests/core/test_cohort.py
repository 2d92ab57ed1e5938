"""Requests that come in the same turns of the event loop go on together."""

import asyncio

from mcp_gateway.core.cohort import Cohort
from mcp_gateway.core.gathering import MOST


async def turn() -> None:
    await asyncio.sleep(0)


async def test_who_comes_alone_waits_for_one_turn() -> None:
    joined = Cohort().join()
    assert not joined.done()
    await turn()
    assert joined.done()


async def test_who_comes_turn_after_turn_goes_on_together_and_in_order() -> None:
    crowd, went_on = Cohort(lambda: 0.0), list[int]()

    def join() -> asyncio.Future[None]:
        joined, number = crowd.join(), len(joining)
        joined.add_done_callback(lambda _: went_on.append(number))
        return joined

    joining: list[asyncio.Future[None]] = []
    for _ in range(4):
        joining.append(join())
        joining.append(join())
        await turn()
        assert went_on == []
    await asyncio.gather(*joining)
    assert went_on == [0, 1, 2, 3, 4, 5, 6, 7]


async def test_nobody_waits_longer_than_two_milliseconds_for_others() -> None:
    times = iter([0.0, 0.0019, 0.0021])
    crowd = Cohort(lambda: next(times))
    joined = [crowd.join()]
    for _ in range(2):
        assert not joined[0].done()
        joined.append(crowd.join())
        await turn()
    assert all(one.done() for one in joined)


async def test_a_cohort_has_an_end() -> None:
    crowd = Cohort(lambda: 0.0)
    joined = [crowd.join() for _ in range(MOST)]
    await turn()
    assert all(one.done() for one in joined)


async def test_who_left_is_waited_for_by_nobody() -> None:
    crowd = Cohort()
    left, stays = crowd.join(), crowd.join()
    left.cancel()
    await turn()
    await turn()
    assert stays.done()
    assert (await asyncio.gather(left, stays, return_exceptions=True))[1] is None
