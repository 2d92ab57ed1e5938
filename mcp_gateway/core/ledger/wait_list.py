"""Requests that wait for money which their own account's running requests hold. Knows no amounts."""

import asyncio


class WaitList:
    """Wakes all that wait for an account whenever some of its money may have come free; each looks for itself."""

    def __init__(self) -> None:
        self._freed: dict[str, asyncio.Future[None]] = {}
        """By account. One that nobody waits for any more goes with the next money that comes free."""

    def __bool__(self) -> bool:
        """Whether anybody waits, or did."""
        return bool(self._freed)

    def freed(self, account_id: str) -> "asyncio.Future[None]":
        """Done once money of the account may have come free after this call."""
        return self._freed.setdefault(account_id, asyncio.get_running_loop().create_future())

    def wake(self, account_id: str) -> None:
        """In the order in which they began to wait."""
        if (freed := self._freed.pop(account_id, None)) is not None:
            freed.set_result(None)
