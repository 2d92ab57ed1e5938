"""The status page, for everybody: how each part of the service is and was, and a feed by which an open page changes."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from starlette.types import Receive, Scope, Send

from http_api.console.forms import Form
from http_api.console.serving import Console, Shown
from http_api.operations import Access, AnyOperation, Asked
from http_api.query import AnyQuery
from http_api.status import STATUS_PATH, PublicStatus, ShownComponent, StatusDoor
from mcp_gateway.core.context import CLIENT, CONTEXT
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.address import counted_as
from mcp_gateway.core.lifecycle import Lifecycle
from mcp_gateway.core.observe.status_board import SHOWN_DAYS, Component, SeenMinutes
from mcp_gateway.wire import event_streams
from mcp_gateway.wire.whole_answers import Headers

_MOST_SHOWN = 50
"""Components; of more, those that are not operational first."""
_DAY_WIDTH = 4
_SHORT_OUTAGE_SHARE = 0.01
"""Of a day's minutes."""
_LOOK_S = 0.5
_SILENCE_LOOKS = 30
"""After so many without a change a comment is sent: clients and proxies give up on a connection that stays silent."""
_MOST_FEEDS = 100
"""Of one address."""
_TEMPLATE, _PART = "status.html", "board"
_RETRY = b"retry: 2000\n"
_COMMENT = b":\n\n"
_HEADERS: Headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *event_streams.HEADERS]


class StatusPages:
    """`is_shared` says of which addresses many may come, as of a proxy: their feeds are not limited."""

    def __init__(self, door: StatusDoor, lifecycle: Lifecycle, is_shared: Callable[[str], bool]) -> None:
        self._door = door
        self._lifecycle = lifecycle
        self._is_shared = is_shared
        self._feeds: Counter[str] = Counter()
        self._drawn: tuple[PublicStatus | None, bytes] = None, b""

    def rows(self, console: Console) -> list[AnyOperation]:
        async def live(scope: Scope, _receive: Receive, send: Send) -> None:
            await self._feed(console, scope, send)

        return [
            console.page(STATUS_PATH, self.show, access=Access.OPEN, is_always_answered=True),
            console.stream(f"{STATUS_PATH}/live", live),
        ]

    async def show(self, asked: Asked[AnyQuery, Form]) -> Shown:
        return Shown(_TEMPLATE, self._values(self._door.status()))

    async def _feed(self, console: Console, scope: Scope, send: Send) -> None:
        """The board as it is, and again whenever it changes, until the reader leaves or the gateway ends."""
        address = counted_as(scope[CONTEXT].address)
        if self._feeds[address] >= _MOST_FEEDS and not self._is_shared(scope[CONTEXT].address):
            raise GatewayError("in_flight", "Too many pages from this address are open; close some of them.")
        scope[CLIENT].is_cancelled_on_departure = True
        self._feeds[address] += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            if scope["method"] != "HEAD":
                await self._tell(console, send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._feeds[address] -= 1
            if not self._feeds[address]:
                del self._feeds[address]

    async def _tell(self, console: Console, send: Send) -> None:
        await send({"type": "http.response.body", "body": _RETRY, "more_body": True})
        told, silent = b"", 0
        while True:
            frame = self._frame(console)
            if frame is not told:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
                told, silent = frame, 0
            elif silent >= _SILENCE_LOOKS:
                await send({"type": "http.response.body", "body": _COMMENT, "more_body": True})
                silent = 0
            silent += 1
            if await self._is_ending():
                return

    async def _is_ending(self) -> bool:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._lifecycle.has_begun_draining.wait()
        except TimeoutError:
            return False
        return True

    def _frame(self, console: Console) -> bytes:
        """Drawn once for each status, however many read it; what shows nothing new is no new frame."""
        status, frame = self._drawn
        if (present := self._door.status()) is not status:
            drawn = _event(console.part(_TEMPLATE, self._values(present), _PART))
            self._drawn = present, frame if drawn == frame else drawn
        return self._drawn[1]

    def _values(self, status: PublicStatus) -> dict[str, Any]:
        """Days are looked through of those alone that the page has room for."""
        components = [self._door.shown(one) for one in _chosen(status.components)]
        return {
            "status": status,
            "components": [(one, _described(one), _of_late(one), list(_runs(one.past.days))) for one in components],
            "left_out": len(status.components) - len(components),
            "width": SHOWN_DAYS * _DAY_WIDTH,
        }


def _event(html: str) -> bytes:
    """One message: a field for each line, joined again by whoever reads it."""
    return b"".join(b"data: %b\n" % line for line in html.encode().split(b"\n")) + b"\n"


def _chosen(components: Sequence[Component]) -> Sequence[Component]:
    if len(components) <= _MOST_SHOWN:
        return components
    doors, models = components[:2], components[2:]
    return [*doors, *sorted(models, key=lambda one: one.state == "operational")[: _MOST_SHOWN - len(doors)]]


def _described(component: ShownComponent) -> str:
    """What the bars say, in words."""
    if component.uptime_percent is None:
        return "not looked at yet"
    troubled = sum(_kind(day) in ("most", "less") for day in component.past.days)
    days = "no day" if not troubled else "1 day" if troubled == 1 else f"{troubled} days"
    return f"{component.uptime_percent:.3f} % up, {days} with trouble"


def _of_late(component: ShownComponent) -> str:
    """How it did in the last day, in words; none where nobody knows."""
    uptime, first_token_ms = component.last_day_uptime_percent, component.first_token_ms
    words = [] if uptime is None else [f"{uptime:.3f} % up in 24 hours"]
    words += [] if first_token_ms is None else [f"first token after {first_token_ms} ms"]
    return ", ".join(words)


def _runs(days: Sequence[SeenMinutes | None]) -> Iterable[tuple[str, str]]:
    """Neighbours of one kind as one dashed line, a dash for a day; a short text however many components there are."""
    at = 0
    for kind, run in groupby(map(_kind, days)):
        length = len(list(run))
        yield kind, f"M{at * _DAY_WIDTH} 14h{length * _DAY_WIDTH - 1}"
        at += length


def _kind(day: SeenMinutes | None) -> str:
    if day is None:
        return "unseen"
    if day.down_minutes > day.minutes * _SHORT_OUTAGE_SHARE:
        return "less"
    return "most" if day.down_minutes or day.degraded_minutes else "full"
