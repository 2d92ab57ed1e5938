"""Plain calls that wait on the event loop: each is left meanwhile, and hears what comes of what it waits for."""

import asyncio

import pytest

from mcp_gateway.core.store.postgres.calls import carried_out, may_wait, wait_for
from tests.patience import settled


def added(first: "asyncio.Future[int]", second: "asyncio.Future[int]") -> int:
    return wait_for(first) + wait_for(second)


async def test_calls_wait_beside_each_other_and_beside_the_loop() -> None:
    loop = asyncio.get_running_loop()
    numbers = [loop.create_future() for _ in range(4)]
    calls = [
        asyncio.ensure_future(carried_out(added, *numbers[:2])),
        asyncio.ensure_future(carried_out(added, *numbers[2:])),
    ]
    for number in (3, 1, 0, 2):
        await settled()
        assert not calls[1].done()
        assert calls[0].done() == (number == 2)
        numbers[number].set_result(10**number)
    assert await asyncio.gather(*calls) == [11, 1100]


async def test_a_call_that_waits_for_nothing_is_carried_out_at_once() -> None:
    assert await carried_out(may_wait)
    assert not may_wait()


async def test_what_fails_may_be_handled_by_the_call_or_fails_with_it() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    def handles() -> str:
        with pytest.raises(ZeroDivisionError):
            wait_for(fail())
        return "handled"

    assert await carried_out(handles) == "handled"
    with pytest.raises(ZeroDivisionError):
        await carried_out(wait_for, fail())


async def test_a_call_that_is_cancelled_tidies_up_and_ends() -> None:
    tidied: list[bool] = []

    def waits() -> None:
        try:
            wait_for(asyncio.get_running_loop().create_future())
        finally:
            wait_for(asyncio.sleep(0))
            tidied.append(True)

    call = asyncio.ensure_future(carried_out(waits))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert tidied == [True]
