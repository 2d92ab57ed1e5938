"""Starting, ready, draining; and the work that must end before the process may."""

import asyncio
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

from mcp_gateway.core.cohort import Cohort
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.loops import Loops


class Phase(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Lifecycle:
    """Where the gateway stands between start and end, and what is still running in it."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.is_in_maintenance = False
        self.has_begun_draining = asyncio.Event()
        self.is_asked_to_end = False
        """By an administrator: whoever serves begins to drain, as at SIGTERM."""
        self.loops = Loops()
        self.cohort = Cohort()
        """Of the answers in flight, those that go on together."""
        self._in_flight = 0
        self._idle: asyncio.Future[None] | None = None
        """Done once nothing is in flight; there while that is waited for."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def check_open(self) -> None:
        """Raises GatewayError `draining` or `maintenance` where new work is refused."""
        if self.phase is not Phase.READY:
            raise GatewayError("draining", "The gateway is restarting; try again in a few seconds.")
        if self.is_in_maintenance:
            raise GatewayError("maintenance", "The gateway is under maintenance; try again later.")

    @property
    def is_ready(self) -> bool:
        return self.phase is Phase.READY

    @property
    def is_serving(self) -> bool:
        """Whether new work is taken."""
        return self.is_ready and not self.is_in_maintenance

    def enter(self) -> None:
        """One more answer in flight."""
        self._in_flight += 1

    def leave(self) -> None:
        self._in_flight -= 1
        if not self._in_flight and self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what must outlive its request (the last accounts of a client that left); draining waits for it."""
        self.enter()
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def begin_draining(self) -> None:
        self.phase = Phase.DRAINING
        self.has_begun_draining.set()

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """True once nothing is in flight, False if that took longer than `timeout_s`."""
        if not self._in_flight:
            return True
        idle = self._idle = self._idle or asyncio.get_running_loop().create_future()
        await asyncio.wait([idle], timeout=timeout_s)
        return idle.done()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self.leave()
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler({"message": "work after a request failed", "exception": error})
