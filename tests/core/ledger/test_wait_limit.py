"""Waiting that has an end, by one timer for all who wait."""

import asyncio

import pytest

from mcp_gateway.core.ledger.wait_limit import TooLong, WaitLimit
from tests.loop_clock import pass_time


async def test_what_comes_in_time_is_the_result() -> None:
    patience, future = WaitLimit(3600), asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(patience.wait_for(future))
    await asyncio.sleep(0)
    future.set_result(5)
    assert await waiting == 5


async def test_what_fails_raises_its_own_error() -> None:
    patience, future = WaitLimit(3600), asyncio.get_running_loop().create_future()
    future.set_exception(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await patience.wait_for(future)


async def test_each_wait_ends_whoever_began_before_or_after_it() -> None:
    loop = asyncio.get_running_loop()
    patience, futures = WaitLimit(0.01), [loop.create_future() for _ in range(3)]
    waits = [asyncio.ensure_future(patience.wait_for(future)) for future in futures[:2]]
    with pytest.raises(TooLong):
        await waits[0]
    with pytest.raises(TooLong):
        await patience.wait_for(futures[2])
    assert isinstance((await asyncio.gather(waits[1], return_exceptions=True))[0], TooLong)
    assert patience._since_s == {}


async def test_a_wait_that_was_cancelled_is_forgotten() -> None:
    patience, future = WaitLimit(3600), asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(patience.wait_for(future))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert patience._since_s == {}


async def test_those_who_came_later_are_waited_for_as_long() -> None:
    loop = asyncio.get_running_loop()
    patience, futures = WaitLimit(60), [loop.create_future() for _ in range(2)]
    waits = []
    for future in futures:
        waits.append(asyncio.ensure_future(patience.wait_for(future)))
        await asyncio.sleep(0)
        pass_time(40)
    with pytest.raises(TooLong):
        await waits[0]
    assert not waits[1].done()
    pass_time(20)
    with pytest.raises(TooLong):
        await waits[1]


async def test_what_comes_at_the_last_moment_is_the_result() -> None:
    loop = asyncio.get_running_loop()
    patience, future = WaitLimit(60), loop.create_future()
    loop.call_later(59, future.set_result, 5)
    waiting = asyncio.ensure_future(patience.wait_for(future))
    await asyncio.sleep(0)
    pass_time(61)
    assert await waiting == 5
