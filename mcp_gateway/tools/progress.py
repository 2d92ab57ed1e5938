"""Tells a caller that its call is alive: at once, when there are new words, and now and then in silence."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

from mcp_gateway.tools.tool import Report

_LEAST_STEP_S = 0.001
_MAX_MESSAGE_BYTES = 2048
WAITING = "Waiting for the model."


class ProgressReports:
    """All reports of one call: each has the seconds since the first, or a little more, since the number must grow."""

    def __init__(self, send: Callable[[float, str], Awaitable[None]]) -> None:
        self._send = send
        self._begun_s: float | None = None
        self._told_s = 0.0

    async def __call__(self, line: str) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._begun_s is None:
            self._begun_s = now_s
        else:
            self._told_s = round(max(now_s - self._begun_s, self._told_s + _LEAST_STEP_S), 3)
        await self._send(self._told_s, line)


class Progress:
    """Reports as a task of its own while the context is open; `words` gives the text so far.

    At most once in `interval_s`, at least once in `silence_s`.
    """

    def __init__(
        self, report: Report, words: Callable[[], str], *, interval_s: float = 1.0, silence_s: float = 10.0
    ) -> None:
        self._report = report
        self._words = words
        self._interval_s = interval_s
        self._silence_s = silence_s
        self._has_news = asyncio.Event()

    def note(self) -> None:
        """There are new words."""
        self._has_news.set()

    async def __aenter__(self) -> "Progress":
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            self._has_news.clear()
            await self._report(_tail(self._words()))
            await asyncio.sleep(self._interval_s)
            try:
                async with asyncio.timeout(self._silence_s - self._interval_s):
                    await self._has_news.wait()
            except TimeoutError:
                pass


@contextlib.asynccontextmanager
async def telling(report: Report | None, line: str) -> AsyncIterator[None]:
    """Tell the same line again and again, where somebody listens."""
    if report is None:
        yield
        return
    async with Progress(report, lambda: line):
        yield


def _tail(text: str) -> str:
    """The end of a text; while it is blank, words for that."""
    tail = text[-_MAX_MESSAGE_BYTES:].encode()[-_MAX_MESSAGE_BYTES:].decode(errors="ignore")
    return tail if tail.strip() else WAITING
