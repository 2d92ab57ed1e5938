"""Background loops: kept going, and known to be dead where one has ended."""

import asyncio

import pytest

from mcp_gateway.core.loops import Loops


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_loop_that_fails_is_entered_again_and_the_log_says_where(caplog: pytest.LogCaptureFixture) -> None:
    goes_on = asyncio.Event()
    turns = 0

    async def loop() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ValueError("sec" + "ret")  # the traceback quotes this line
        goes_on.set()
        await for_ever()

    loops = Loops(rest_s=0)
    async with loops.running(odd=loop):
        await goes_on.wait()
        assert loops.dead == []
    assert "the background loop odd failed" in caplog.text
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_loop_that_ends_is_dead_and_the_others_are_not() -> None:
    async def ends() -> None:
        pass

    async def is_cancelled() -> None:
        raise asyncio.CancelledError

    loops = Loops()
    async with loops.running(a=for_ever, b=ends, c=is_cancelled):
        async with loops.running(d=for_ever):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert dict(loops.states()) == {"a": True, "b": False, "c": False, "d": True}
            assert loops.dead == ["b", "c"]
        assert "d" not in dict(loops.states())
    assert loops.dead == []


async def test_all_loops_have_ended_on_exit() -> None:
    ended: list[str] = []

    async def loop() -> None:
        try:
            await for_ever()
        finally:
            ended.append("ended")

    async with Loops().running(one=loop, two=loop):
        await asyncio.sleep(0)
    assert ended == ["ended", "ended"]
