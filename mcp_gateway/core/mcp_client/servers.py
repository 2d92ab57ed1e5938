"""The servers of tools as others ask them: who may use which, what tools they have, and what a call came to.

Without the SDK, which takes longer to import than a command to run.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from mcp_gateway.core.caller import Caller


class ServedTool(NamedTuple):
    """A tool as chats may be offered it; its name and schema are the server's, `server` is the label of that."""

    server: str
    name: str
    description: str
    input_schema: dict[str, Any]


class ToolOutcome(NamedTuple):
    """What became of a call, as the model is told."""

    text: str
    is_ok: bool


class ToolServer(Protocol):
    """One server: its tools as they were last listed, none while it cannot be reached, and the way to call them.

    `told` is where it is, as callers are told; `is_reached` whether it was there when it was last asked.
    """

    label: str
    told: str
    tools: tuple[ServedTool, ...]

    @property
    def is_reached(self) -> bool: ...
    @property
    def sessions(self) -> int:
        """How many are open, the gateway's own among them."""

    def is_for(self, caller: Caller) -> bool:
        """Guests and test keys have none."""

    async def call(self, account_id: str, name: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        """What a tool answers, within bounds. Never raises but for its own cancellation."""

    async def watch(self) -> None:
        """Keep the tools known, until cancelled."""

    async def close(self) -> None:
        """End what accounts have there."""


class ToolServers:
    """All of them, by their labels."""

    def __init__(self, servers: Iterable[ToolServer] = (), *, are_exposed: bool = False) -> None:
        self._servers = {server.label: server for server in servers}
        self.are_exposed = are_exposed

    def __bool__(self) -> bool:
        return bool(self._servers)

    def __iter__(self) -> Iterator[ToolServer]:
        return iter(self._servers.values())

    def of(self, caller: Caller) -> dict[str, ToolServer]:
        """Those that a caller may use, by label."""
        return {label: server for label, server in self._servers.items() if server.is_for(caller)}

    async def watch(self) -> None:
        """Keep the tools of all known, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:  # which cancels each once: a second time would cut its end short
                for server in self._servers.values():
                    group.create_task(server.watch())
        finally:
            await asyncio.gather(*(server.close() for server in self._servers.values()), return_exceptions=True)
