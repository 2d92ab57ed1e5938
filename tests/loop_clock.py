"""The clock of the event loop, which a test moves on: limits are long, and run out when the test says so."""

import asyncio


def pass_time(seconds: float) -> None:
    """Whatever the running loop has due within these seconds is due now. For asyncio's own loop, not for uvloop."""
    loop = asyncio.get_running_loop()
    time_s = loop.time
    loop.time = lambda: time_s() + seconds  # type: ignore[method-assign]
