"""What tests of the contract share: outcomes in few words, outages of each kind, and time that passes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from mcp_gateway.core.engine import Engine, Write
from mcp_gateway.core.errors import GatewayError
from tests.core.store.contract.noting import Note, Notes
from tests.core.store.contract.places import OpenEngine, Place
from tests.loop_clock import pass_time
from tests.patience import settled

OUTAGES = ("locked", "full", "broken")
"""Somebody else writes; nothing finds room; what was written cannot be brought to the disk."""
MUCH_BYTES = 100_000
_MOST_LOOKS = 20_000


def much(text: str) -> Note:
    """A note that a full disk has no room for."""
    return Note(text, padding_bytes=MUCH_BYTES)


def told(outcome: Any) -> Any:
    """A GatewayError as its code, another error as its type, a result as it is."""
    if isinstance(outcome, GatewayError):
        return outcome.code
    return type(outcome) if isinstance(outcome, BaseException) else outcome


async def late(*written: "asyncio.Future[Any]") -> list[Any]:
    """What comes of each, where the engine rests in between."""
    for _ in range(_MOST_LOOKS):
        if all(one.done() for one in written):
            return [told(one) for one in await asyncio.gather(*written, return_exceptions=True)]
        pass_time(10)
        await settled()
    raise AssertionError("nothing comes of what was written")


async def all_of(engine: Engine, *writes: Write[Any]) -> list[Any]:
    """What comes of each, written without an await in between."""
    return await late(*map(engine.write, writes))


async def noted(engine: Engine) -> list[str]:
    return await engine.read(Notes())


async def left_at(place: Place) -> list[str]:
    """What an engine finds that is opened there."""
    async with place.opened() as engine:
        return await noted(engine)


@contextlib.asynccontextmanager
async def outage(kind: str, engine: OpenEngine, place: Place) -> AsyncIterator[Sequence[str]]:
    """While it lasts no write goes through. Brings what may have been written by its begin."""
    if kind == "broken":
        place.disk.failures = 1_000_000
        assert await late(engine.write(Note("in doubt"))) == ["ledger_unavailable"]
        try:
            yield ["in doubt"]
        finally:
            place.disk.failures = 0
        return
    with place.locked() if kind == "locked" else place.full():
        assert await late(engine.write(much("refused"))) == ["ledger_unavailable"]
        yield []


async def is_available_again(engine: Engine) -> None:
    for _ in range(_MOST_LOOKS):
        if engine.is_available:
            return
        pass_time(10)
        await settled()
    raise AssertionError("the outage does not end")
