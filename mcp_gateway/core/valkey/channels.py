"""A connection that hears what is published on channels, made again for as long as it takes.

What is published while there is none is not heard later: whoever published it is told how many heard it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hiredis

from mcp_gateway.core.valkey.client import Valkey
from mcp_gateway.core.valkey.link import Command, Link, ValkeyDown
from mcp_gateway.core.valkey_address import ValkeyAddress

_PING_S = 1.0
"""A server that is silent is found dead that soon, since nothing else is asked on this connection."""

Hear = Callable[[bytes], None]
"""Is told of what was published, on whichever of its channels."""


class _ChannelReader(hiredis.Reader):
    """Reads answers, and has what was published between them heard."""

    def __init__(self, hear: Hear) -> None:
        super().__init__()
        self._hear = hear

    def gets(self, *args: Any) -> Any:
        while isinstance(answer := super().gets(*args), list) and answer[0] == b"message":
            self._hear(answer[2])
        return answer


class ChannelLink(Link):
    """One connection to Valkey that has subscribed: between answers comes what was published."""

    _reader: _ChannelReader

    def __init__(self, answer_s: float, hear: Hear) -> None:
        super().__init__(answer_s)
        self._reader = _ChannelReader(hear)


class Channels(Valkey):
    """Subscribes on each connection to the same channels."""

    def __init__(
        self,
        address: ValkeyAddress,
        names: Sequence[bytes],
        hear: Hear,
        *,
        client_name: str,
        answer_s: float,
        ca_file: Path | None = None,
    ) -> None:
        super().__init__(address, (), client_name=client_name, ca_file=ca_file, answer_s=answer_s)
        self._names = names
        self._hear = hear

    async def watch(self) -> None:
        """As Valkey's, and asks the server whether it is there."""
        pinging = asyncio.ensure_future(self._ping())
        try:
            await super().watch()
        finally:
            pinging.cancel()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(_PING_S)
            with suppress(ValkeyDown):
                await self.pong()

    async def pong(self) -> None:
        """Wait for the server's answer, for as long as one may take. Raises ValkeyDown."""
        await self.ask(("PING",))

    def _new_link(self) -> Link:
        return ChannelLink(self._answer_s, self._hear)

    def _opening(self) -> Iterable[Command]:
        yield from super()._opening()
        for name in self._names:
            yield "SUBSCRIBE", name
