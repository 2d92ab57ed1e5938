"""What several want to know at the same time: read once, whoever of them leaves, and anew for who comes after."""

import asyncio

import pytest

from mcp_gateway.core.shared_reads import SharedReads


class Source:
    """What is read: it brings the number of the read, once it may."""

    def __init__(self) -> None:
        self.reads = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def read(self) -> int:
        self.reads += 1
        number = self.reads
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return number


async def a_turn() -> None:
    await asyncio.sleep(0)


async def test_all_who_come_meanwhile_have_the_same_and_who_comes_later_a_new_one() -> None:
    shared, source = SharedReads[int](), Source()
    asking = [asyncio.create_task(shared.of("a", source.read)) for _ in range(5)]
    other = asyncio.create_task(shared.of("b", source.read))
    await a_turn()
    source.may_end.set()
    assert await asyncio.gather(*asking) == [1] * 5
    assert await other == 2
    assert await shared.of("a", source.read) == 3


async def test_whoever_began_it_may_leave() -> None:
    shared, source = SharedReads[int](), Source()
    first, second = (asyncio.create_task(shared.of("a", source.read)) for _ in range(2))
    await a_turn()
    first.cancel()
    await a_turn()
    source.may_end.set()
    assert await second == 1
    assert first.cancelled()


async def test_what_fails_is_told_to_all_and_is_tried_again_for_the_next() -> None:
    shared, source = SharedReads[int](), Source()
    source.error = OSError("no disk")
    asking = [asyncio.create_task(shared.of("a", source.read)) for _ in range(2)]
    await a_turn()
    source.may_end.set()
    assert [type(error) for error in await asyncio.gather(*asking, return_exceptions=True)] == [OSError] * 2
    source.error = None
    assert await shared.of("a", source.read) == 2


async def test_a_failure_that_nobody_is_there_for_is_no_complaint_of_the_loop() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    shared, source = SharedReads[int](), Source()
    source.error = OSError("no disk")
    asking = asyncio.create_task(shared.of("a", source.read))
    await a_turn()
    asking.cancel()
    await a_turn()
    source.may_end.set()
    for _ in range(3):
        await a_turn()
    del asking
    assert not complaints


async def test_nothing_is_kept_of_a_read_that_was_cancelled_as_at_the_end() -> None:
    shared, source = SharedReads[int](), Source()
    asking = asyncio.create_task(shared.of("a", source.read))
    await a_turn()
    await a_turn()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await a_turn()
    source.may_end.set()
    assert await shared.of("a", source.read) == 2
