"""Lets plain calls wait on the event loop: executors are no coroutines, and a thread for them would cost more.

A call has a stack of its own (a greenlet), which is left while it waits; everything else on the loop goes on meanwhile.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from greenlet import getcurrent, greenlet

T = TypeVar("T")


class _LeftCall(greenlet):
    """What is left and come back to."""

    def go_on(self, *given: Any) -> Any:
        """Returns what it waits for next, or what it returns."""
        return self.switch(*given)


async def carried_out(call: Callable[..., T], *given: object) -> T:
    """What `call` returns, or raises; all that it waits for by `wait_for` is awaited here."""
    running = _LeftCall(call)
    found = running.go_on(*given)
    while not running.dead:
        try:
            answer = await found
        except BaseException as error:  # noqa: BLE001 - the call's to handle, a cancellation too
            found = running.throw(error)
        else:
            found = running.go_on(answer)
    return cast(T, found)


def may_wait() -> bool:
    """Whether this runs within `carried_out`."""
    return isinstance(getcurrent(), _LeftCall)


def wait_for(work: Awaitable[T]) -> T:
    """What comes of it, within `carried_out`."""
    call = getcurrent()
    assert isinstance(call, _LeftCall)
    assert call.parent is not None
    return cast(T, call.parent.switch(work))
