"""The tools that there are, and which of them are of use to a caller with the models that there are.

Knows no revision of the protocol.
"""

from collections.abc import Iterable, Iterator

from mcp.shared.subscriptions import ServerEvent, ToolsListChanged

from mcp_gateway.core.caller import Caller
from mcp_gateway.core.catalog import Published
from mcp_gateway.tools.tool import Tool


class ToolList:
    """A tool that is not listed can be called all the same: its caller is told what is missing."""

    def __init__(self, tools: Iterable[Tool], published: Published) -> None:
        self._tools = {tool.definition.name: tool for tool in tools}
        self._published = published
        self._names_told = self._names()

    def find(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def listed(self, caller: Caller) -> Iterator[Tool]:
        """Those that are of use to this caller now."""
        return (tool for tool in self._usable() if not tool.is_for_minters or caller.may_mint_over_mcp)

    def take_changes(self) -> list[ServerEvent]:
        """What subscribers are to be told of what has changed since this was last asked."""
        before, self._names_told = self._names_told, self._names()
        return [ToolsListChanged()] if before != self._names_told else []

    def _usable(self) -> Iterator[Tool]:
        """With the models that there are now, whoever calls."""
        tasks = {model.task for model in self._published.current.values()}
        return (tool for tool in self._tools.values() if tool.needs is None or tool.needs in tasks)

    def _names(self) -> list[str]:
        return [tool.definition.name for tool in self._usable()]
