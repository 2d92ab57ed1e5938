"""A server of the settings, watched by a session of the gateway's own; and the sessions of accounts there.

Which tools a server has is told by the gateway's session, since the key that is sent is one for all accounts. What an
account does at a server that is not shared happens in a session that no other account ever has.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from mcp import MCPError

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.config import ANY, McpSettings
from mcp_gateway.core.mcp_client.listing import served_tools
from mcp_gateway.core.mcp_client.reach import Reach
from mcp_gateway.core.mcp_client.results import outcome_of, outcome_of_refusal
from mcp_gateway.core.mcp_client.servers import ServedTool, ToolOutcome
from mcp_gateway.core.mcp_client.session import SessionLost, ToolSession

logger = logging.getLogger(__name__)

_FIRST_REST_S, _LONGEST_REST_S = 0.5, 60.0
_GONE = ToolOutcome("The server of this tool cannot be reached now.", False)
_BUSY = ToolOutcome("The server of this tool has as many users as it may have; try again later.", False)


class WatchedServer:
    """One server: its tools as they were last listed, none while it cannot be reached, and the way to call them."""

    def __init__(self, reach: Reach, bounds: McpSettings, random: Random) -> None:
        self.label = reach.server.label
        self.told = reach.told
        self.tools: tuple[ServedTool, ...] = ()
        self._reach = reach
        self._bounds = bounds
        self._random = random
        self._changed = asyncio.Event()
        self._own: ToolSession | None = None
        self._sessions: OrderedDict[str, ToolSession] = OrderedDict()
        """Of accounts, the longest unused first."""
        self._used_at_s: dict[str, float] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    @property
    def is_reached(self) -> bool:
        """Whether the gateway's own session of it is open."""
        return self._own is not None and not self._own.is_over

    @property
    def sessions(self) -> int:
        """Of accounts, and the gateway's own."""
        return len(self._sessions) + self.is_reached

    def is_for(self, caller: Caller) -> bool:
        """Guests and test keys have none, other keys those of their account's that they were given."""
        if caller.is_guest or caller.is_test or caller.mcp_servers.isdisjoint((ANY, self.label)):
            return False
        accounts = self._reach.server.accounts
        return ANY in accounts or caller.account_id in accounts

    async def watch(self) -> None:
        """Keep the tools known: ask anew whenever they have changed, and begin anew whenever the server was lost."""
        rest_s = _FIRST_REST_S
        while True:
            session = ToolSession(self._reach, self._bounds.tool_connect_timeout_s, self._changed.set)
            try:
                await session.open()
                self._own, rest_s = session, _FIRST_REST_S
                logger.info("mcp server %s is connected", self.label)
                await self._follow(session)
            except SessionLost:
                self._own, self.tools = None, ()
                logger.warning("mcp server %s cannot be reached; the next try is in about %.0f s", self.label, rest_s)
            finally:
                await session.close()
            await asyncio.sleep(rest_s * self._random.uniform(0.75, 1.25))
            rest_s = min(rest_s * 2, _LONGEST_REST_S)

    async def call(self, account_id: str, name: str, arguments: Mapping[str, Any]) -> ToolOutcome:
        """What a tool answers, within bounds. Never raises but for its own cancellation."""
        try:
            async with asyncio.timeout(self._bounds.tool_timeout_s):
                result = await self._called(account_id, name, arguments)
        except TimeoutError:
            return ToolOutcome(f"The tool did not answer within {self._bounds.tool_timeout_s:g} s.", False)
        except SessionLost:
            return _GONE
        except MCPError as error:
            self._changed.set()  # a tool that is refused may be another one by now
            return outcome_of_refusal(error, self._bounds.tool_result_bytes)
        except Exception as error:  # noqa: BLE001 - whatever a server answers is a failure of the tool alone
            logger.warning("a tool of the mcp server %s failed: %s", self.label, type(error).__name__)
            return ToolOutcome("The tool's answer could not be understood.", False)
        return _BUSY if result is None else outcome_of(result, self._bounds.tool_result_bytes)

    async def close(self) -> None:
        """End the sessions of accounts; the gateway's own ends with `watch`."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(*(session.close() for session in sessions))

    async def _follow(self, session: ToolSession) -> None:
        """Until it is lost. Raises SessionLost."""
        self._take(session.tools)
        while True:
            self._changed.clear()
            await self._wait(session)
            self._take(await session.list())
            await self._end_unused()

    async def _wait(self, session: ToolSession) -> None:
        """For a change, the end of the session, or the time of the next look."""
        waiting = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(session.ended())]
        try:
            await asyncio.wait(waiting, timeout=self._bounds.tool_list_interval_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()

    def _take(self, listed: Sequence[Any]) -> None:
        tools, unbearable = served_tools(self._reach.server, listed)
        if tools != self.tools and unbearable:
            logger.warning("%d tools of the mcp server %s cannot be offered", unbearable, self.label)
        self.tools = tools

    async def _called(self, account_id: str, name: str, arguments: Mapping[str, Any]) -> Any:
        """None where there is no room for another session."""
        for _ in range(2):
            session = await self._session_of(account_id)
            if session is None:
                return None
            try:
                return await session.call(name, arguments)
            except SessionLost:
                if not session.is_forgotten:
                    raise  # the call may have been carried out
        raise SessionLost

    async def _session_of(self, account_id: str) -> ToolSession | None:
        if self._reach.server.shared:
            if self._own is None:
                raise SessionLost
            return self._own
        async with self._opening.setdefault(account_id, asyncio.Lock()):
            session = self._sessions.get(account_id)
            if session is None or session.is_over:
                session = await self._opened(account_id)
        if session is not None:
            self._sessions.move_to_end(account_id)
            self._used_at_s[account_id] = asyncio.get_running_loop().time()
        return session

    async def _opened(self, account_id: str) -> ToolSession | None:
        self._sessions.pop(account_id, None)
        if not await self._has_room():
            return None
        session = self._sessions[account_id] = ToolSession(self._reach, self._bounds.tool_connect_timeout_s)
        try:
            await session.open()
        except SessionLost:
            self._sessions.pop(account_id, None)
            raise
        return session

    async def _has_room(self) -> bool:
        if len(self._sessions) < self._bounds.tool_sessions_per_server:
            return True
        idle = next((account for account in self._sessions if not self._is_used(account)), None)
        if idle is None:
            return False
        await self._ended(idle)
        return True

    def _is_used(self, account_id: str) -> bool:
        lock = self._opening.get(account_id)
        return self._sessions[account_id].calls > 0 or (lock is not None and lock.locked())

    async def _end_unused(self) -> None:
        """Sessions that were not asked for long, and those that are over."""
        since_s = asyncio.get_running_loop().time() - self._bounds.session_idle_timeout_s
        for account_id, session in list(self._sessions.items()):
            is_stale = session.is_over or self._used_at_s.get(account_id, since_s) < since_s
            if is_stale and not self._is_used(account_id):
                await self._ended(account_id)

    async def _ended(self, account_id: str) -> None:
        self._opening.pop(account_id, None)
        self._used_at_s.pop(account_id, None)
        await self._sessions.pop(account_id).close()
