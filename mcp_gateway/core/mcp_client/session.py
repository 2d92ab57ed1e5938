"""One session of a server, from its beginning to its end, on the SDK's client. Knows no account."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from mcp import Client, MCPError, types

from mcp_gateway import __version__
from mcp_gateway.core.mcp_client.heard import Heard
from mcp_gateway.core.mcp_client.reach import Reach

MAX_PAGES = 50
MAX_TOOLS = 500
"""Of one server, as it lists them; the rest is passed over."""
_OURS = types.Implementation(name="mcp-gateway", version=__version__)
_FORGOTTEN = "Session terminated"
"""The SDK's words for 404, with which a server says that it does not know a session."""
_GRACE_S = 10.0
"""What the end of a session may take: a program is given 2 s to end by itself, and is killed then."""


class SessionLost(Exception):
    """A server could not be reached, or went away."""


class ToolSession:
    """Runs in a task of its own from `open` to `close`, since the SDK's client is left where it was entered.

    `is_over` once it has ended, by whichever side. `on_change` is called where the server says that its tools are
    others.
    """

    def __init__(self, reach: Reach, open_s: float, on_change: Callable[[], None] = lambda: None) -> None:
        self._reach = reach
        self._open_s = open_s
        self._on_change = on_change
        self._client: Client | None = None
        self._is_open = asyncio.Event()
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.tools: tuple[types.Tool, ...] = ()
        self.calls = 0
        """That are running."""
        self.is_forgotten = False
        """Whether the server has said that it does not know it: then nothing was done in it."""

    @property
    def is_over(self) -> bool:
        return self._task is None or self._task.done() or self._end.is_set()

    async def open(self) -> None:
        """Begin it, and list the tools. Raises SessionLost."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        opened = asyncio.ensure_future(self._is_open.wait())
        try:
            async with asyncio.timeout(self._open_s):
                await asyncio.wait({opened, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            opened.cancel()
            if not self._is_open.is_set():
                self._task.cancel()
        if not self._is_open.is_set():
            raise SessionLost

    async def ended(self) -> None:
        """Return when it has ended, by whichever side."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def close(self) -> None:
        """End it; within a bounded time."""
        self._end.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_GRACE_S)
            self._task.cancel()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """A tool's result, whatever its kind. Raises SessionLost, or MCPError for what the server refuses."""
        if self._client is None or self.is_over:
            raise SessionLost
        self.calls += 1
        try:
            return await self._client.session.call_tool(name, dict(arguments), allow_input_required=True)
        except MCPError as error:
            self.is_forgotten = error.error.message == _FORGOTTEN
            if self.is_over or self.is_forgotten or error.error.code == types.CONNECTION_CLOSED:
                self._end.set()
                raise SessionLost from None
            raise
        finally:
            self.calls -= 1

    async def list(self) -> tuple[types.Tool, ...]:
        """The tools as they are now. Raises SessionLost, also where a server takes longer than it may to begin with."""
        if self._client is None or self.is_over:
            raise SessionLost
        try:
            async with asyncio.timeout(self._open_s):
                self.tools = await _listed(self._client)
        except (MCPError, TimeoutError):
            self._end.set()
            raise SessionLost from None
        return self.tools

    async def _run(self) -> None:
        """What the SDK raises quotes what was said, so that nothing of it is kept or told."""
        with suppress(Exception, BaseExceptionGroup):
            client = Client(
                _heard(self._reach, self._open_s), client_info=_OURS, message_handler=self._take, cache=None
            )
            async with client:
                self.tools = await _listed(client)
                self._client = client
                self._is_open.set()
                watching = asyncio.ensure_future(self._watch(client))
                try:
                    await self._end.wait()
                finally:
                    watching.cancel()

    async def _take(self, message: Any) -> None:
        """A message of the server's own, in the revisions with sessions."""
        if isinstance(message, types.ToolListChangedNotification):
            self._on_change()

    async def _watch(self, client: Client) -> None:
        """The same in 2026-07-28, where it has to be asked for; earlier revisions have nothing to ask for."""
        with suppress(Exception):
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._on_change()


@asynccontextmanager
async def _heard(reach: Reach, open_s: float) -> Any:
    async with reach.opened(open_s) as (reading, writing):
        yield Heard(reading), writing


async def _listed(client: Client) -> tuple[types.Tool, ...]:
    tools: list[types.Tool] = []
    cursor = None
    for _ in range(MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor or len(tools) >= MAX_TOOLS:
            break
    return tuple(tools[:MAX_TOOLS])
