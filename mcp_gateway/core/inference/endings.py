"""What an exception that ends a request means: that its key has ended, its caller has left, or something failed."""

import asyncio
from asyncio import CancelledError

from mcp_gateway.core.context import CallerLeft
from mcp_gateway.core.errors import GatewayError, internal_error


def cause_of(cancelled: CancelledError, end: GatewayError | None, task: asyncio.Task[object] | None) -> BaseException:
    """Why the task was cancelled: by `end_with`, or (as well) since the client has left."""
    return cancelled if end is None or (task is not None and task.uncancel()) else end


def failure_in(error: BaseException | None, request_id: str) -> GatewayError | None:
    """What is recorded of a failure; None where there is none, and where the caller has left."""
    if error is None or isinstance(error, CancelledError | GeneratorExit | CallerLeft):
        return None
    return error if isinstance(error, GatewayError) else internal_error(request_id)
