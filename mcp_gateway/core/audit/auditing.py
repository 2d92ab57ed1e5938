"""An engine on which whatever somebody of the operator's changes is noted with who it was, in the same transaction.

So the rooms that write know nothing of the log, and the command line and HTTP note the same.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from mcp_gateway.core.audit.changes import said_of
from mcp_gateway.core.audit.log import Actor, Audited
from mcp_gateway.core.engine import Engine, Fact, InOutage, Read, Write
from mcp_gateway.core.identity.accounts import ChangeAccount
from mcp_gateway.core.identity.key_ring import CreateKey
from mcp_gateway.core.ledger.orders import CarryOut

T = TypeVar("T")


class Auditing:
    """Another engine, with one actor's changes noted."""

    def __init__(self, store: Engine, by: Actor) -> None:
        self._store = store
        self._by = by

    def write(self, write: Write[T], *, is_durable: bool = True, in_outage: InOutage = "refuse") -> "asyncio.Future[T]":
        return self._store.write(self._noted(write), is_durable=is_durable, in_outage=in_outage)

    def _noted(self, write: Write[Any]) -> Write[Any]:
        if isinstance(write, CarryOut):  # which another process has left, and answers
            return replace(write, write=self._noted(write.write))
        if isinstance(write, ChangeAccount):
            write = replace(write, changes=tuple(self._noted(one) for one in write.changes))
        if isinstance(write, CreateKey):
            write = replace(write, behind=tuple(self._noted(one) for one in write.behind))
        said = said_of(write)
        return write if said is None else Audited(write, self._by, said)

    # As the engine beneath

    @property
    def now_ms(self) -> Callable[[], int]:
        return self._store.now_ms

    def withdraw(self, written: "asyncio.Future[Any]") -> bool:
        return self._store.withdraw(written)

    def listen(self, kind: type[Fact], hear: Callable[[Fact], None]) -> None:
        self._store.listen(kind, hear)

    def on_unheard(self, hear: Callable[[], None]) -> None:
        self._store.on_unheard(hear)

    async def read(self, read: Read[T]) -> T:
        return await self._store.read(read)

    async def flushed(self) -> None:
        await self._store.flushed()

    @property
    def waiting(self) -> int:
        return self._store.waiting

    @property
    def log_bytes(self) -> int:
        return self._store.log_bytes

    @property
    def is_elected(self) -> bool:
        return self._store.is_elected

    @property
    def is_available(self) -> bool:
        return self._store.is_available
