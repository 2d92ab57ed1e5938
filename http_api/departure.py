"""Stops the work for a client that has left, at once."""

import asyncio
from types import TracebackType

from starlette.types import Scope

from mcp_gateway.core.context import CLIENT, Client


class Departure:
    """A context in which the client's leaving cancels the current task, and is swallowed at the end."""

    __slots__ = ("_client", "_has_left", "_task")

    def __init__(self, scope: Scope) -> None:
        self._client: Client = scope[CLIENT]
        self._has_left = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._client.on_departure = self._leave

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._client.on_departure = None
        if not self._has_left or not isinstance(error, asyncio.CancelledError):
            return False
        self._task.uncancel()
        return True

    def _leave(self) -> None:
        self._has_left = True
        self._task.cancel()
