"""Engines that are broken, each in one way, around one that is not: what the contract must find."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mcp_gateway.core.engine import Fact, InOutage, Read, Write
from tests.core.store.contract.noting import AllOf, Note, Notes, NotesTwice, NotesTwiceReported
from tests.core.store.contract.places import OpenEngine

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Asked:
    """A write as it was asked for, and what is told to who waits for it."""

    write: Write[Any]
    is_durable: bool
    in_outage: InOutage
    outer: "asyncio.Future[Any]"
    inner: "asyncio.Future[Any] | None" = None


class Sound:
    """Not broken: hands on what comes in a turn of the loop, as the others do but for one thing each."""

    def __init__(self, engine: OpenEngine) -> None:
        self.engine = engine
        self._turn: list[_Asked] = []
        self._asked: dict[asyncio.Future[Any], _Asked] = {}
        self._is_closed = False

    def write(self, write: Write[T], *, is_durable: bool = True, in_outage: InOutage = "refuse") -> "asyncio.Future[T]":
        if self._is_closed:
            raise RuntimeError("closed")
        loop = asyncio.get_running_loop()
        asked = _Asked(write, is_durable, in_outage, loop.create_future())
        self._asked[asked.outer] = asked
        if not self._turn:
            loop.call_soon(self._send)
        self._turn.append(asked)
        return asked.outer

    def _send(self) -> None:
        turn, self._turn = self._turn, []
        for asked in self.changed(turn):
            self.hand_on(asked)

    def hand_on(self, asked: _Asked) -> None:
        asked.inner = self.engine.write(asked.write, is_durable=asked.is_durable, in_outage=asked.in_outage)
        asked.inner.add_done_callback(lambda inner: self.ended(asked, inner))

    def changed(self, turn: list[_Asked]) -> list[_Asked]:
        """What is written of a turn."""
        return turn

    def ended(self, asked: _Asked, inner: "asyncio.Future[Any]") -> None:
        self._asked.pop(asked.outer, None)
        if asked.outer.done():
            inner.cancelled() or inner.exception()
        elif inner.cancelled():
            asked.outer.cancel()
        elif (error := inner.exception()) is not None:
            asked.outer.set_exception(error)
        else:
            asked.outer.set_result(inner.result())

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        asked = self._asked.get(written)
        if asked is None:
            return False
        if asked in self._turn:
            self._turn.remove(asked)
            return True
        return asked.inner is not None and self.engine.withdraw(asked.inner)

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None:
        self.engine.listen(kind, hear)

    def on_unheard(self, hear: Callable[[], None]) -> None:
        self.engine.on_unheard(hear)

    async def read(self, read: Read[T]) -> T:
        return await self.engine.read(read)

    async def flushed(self) -> None:
        self._send()
        await self.engine.flushed()

    async def close(self) -> list[Any]:
        self._is_closed = True
        self._send()
        kept = await self.engine.close()
        await asyncio.sleep(0)  # what the end has told is handed on in the next turn
        return kept

    @property
    def now_ms(self) -> Callable[[], int]:
        return self.engine.now_ms

    @property
    def waiting(self) -> int:
        return len(self._turn) + self.engine.waiting

    @property
    def log_bytes(self) -> int:
        return self.engine.log_bytes

    @property
    def is_elected(self) -> bool:
        return self.engine.is_elected

    @property
    def is_available(self) -> bool:
        return self.engine.is_available


class LosesTheLast(Sound):
    """Of a burst, the last never happens, though it is told as the one before."""

    def changed(self, turn: list[_Asked]) -> list[_Asked]:
        if len(turn) > 1:
            lost = turn.pop()
            turn[-1].outer.add_done_callback(lambda _: _bring(lost.outer, _text_of(lost.write)))
        return turn


class Reorders(Sound):
    """Of a burst, what is not durable goes first."""

    def changed(self, turn: list[_Asked]) -> list[_Asked]:
        return sorted(turn, key=lambda asked: asked.is_durable)


class TellsTooEarly(Sound):
    """What is to be durable is told before it is on the disk."""

    def changed(self, turn: list[_Asked]) -> list[_Asked]:
        return [replace(asked, is_durable=False) for asked in turn]


class AppliesHalf(Sound):
    """Several as one are carried out one by one."""

    def hand_on(self, asked: _Asked) -> None:
        if not isinstance(asked.write, AllOf):
            super().hand_on(asked)
            return
        how: dict[str, Any] = {"is_durable": asked.is_durable, "in_outage": asked.in_outage}
        whole = asyncio.gather(*(self.engine.write(part, **how) for part in asked.write.parts))
        whole.add_done_callback(lambda inner: self.ended(asked, inner))


class Repeats(Sound):
    """What an outage had put off happens twice."""

    def ended(self, asked: _Asked, inner: "asyncio.Future[Any]") -> None:
        if asked.in_outage != "refuse" and not self.engine.is_available:
            self.engine.write(asked.write, is_durable=asked.is_durable, in_outage="keep").add_done_callback(_forget)
        super().ended(asked, inner)


class Forgets(Sound):
    """What was to be kept through an outage is gone with it."""

    def changed(self, turn: list[_Asked]) -> list[_Asked]:
        return [replace(asked, in_outage="refuse") if asked.in_outage == "keep" else asked for asked in turn]


class Tears(Sound):
    """A read is answered from more than one moment."""

    async def read(self, read: Read[Any]) -> Any:
        if not isinstance(read, NotesTwice | NotesTwiceReported):
            return await super().read(read)
        first = await super().read(Notes())
        await asyncio.to_thread(read.meanwhile)
        return first, await super().read(Notes())


def _bring(outer: "asyncio.Future[Any]", result: Any) -> None:
    if not outer.done():
        outer.set_result(result)


def _text_of(write: Write[Any]) -> Any:
    return write.text if isinstance(write, Note) else None


def _forget(written: "asyncio.Future[Any]") -> None:
    written.cancelled() or written.exception()
