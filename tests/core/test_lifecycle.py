"""Starting, ready, draining, and the work that is waited for."""

import asyncio

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.lifecycle import Lifecycle, Phase


def ready() -> Lifecycle:
    lifecycle = Lifecycle()
    lifecycle.phase = Phase.READY
    return lifecycle


def test_work_is_taken_only_while_ready() -> None:
    lifecycle = Lifecycle()
    with pytest.raises(GatewayError, match="draining"):
        lifecycle.check_open()
    lifecycle.phase = Phase.READY
    lifecycle.check_open()
    lifecycle.begin_draining()
    with pytest.raises(GatewayError, match="draining"):
        lifecycle.check_open()
    assert lifecycle.has_begun_draining.is_set()
    assert not lifecycle.is_ready


def test_maintenance_refuses_work_while_ready() -> None:
    lifecycle = Lifecycle()
    lifecycle.is_in_maintenance = True
    lifecycle.phase = Phase.READY
    with pytest.raises(GatewayError, match="maintenance"):
        lifecycle.check_open()


async def test_idle_is_when_the_last_answer_has_left() -> None:
    lifecycle = ready()
    assert await lifecycle.wait_until_idle(0.01)
    lifecycle.enter()
    lifecycle.enter()
    waiting = asyncio.create_task(lifecycle.wait_until_idle(10))
    lifecycle.leave()
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not await lifecycle.wait_until_idle(0.01)
    lifecycle.leave()
    assert await waiting


async def test_work_that_outlives_its_request_is_waited_for() -> None:
    lifecycle = ready()
    is_released = asyncio.Event()

    async def work() -> None:
        await is_released.wait()

    lifecycle.spawn(work())
    assert lifecycle.in_flight == 1
    assert not await lifecycle.wait_until_idle(0.01)
    is_released.set()
    assert await lifecycle.wait_until_idle(10)
    assert lifecycle.in_flight == 0


async def test_work_that_fails_or_is_cancelled_counts_as_ended_and_a_failure_is_reported() -> None:
    lifecycle = ready()
    reported: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(type(context["exception"]).__name__))

    async def fail() -> None:
        raise ValueError

    async def wait() -> None:
        await asyncio.Event().wait()

    lifecycle.spawn(fail())
    lifecycle.spawn(wait())
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    assert await lifecycle.wait_until_idle(10)
    assert reported == ["ValueError"]
