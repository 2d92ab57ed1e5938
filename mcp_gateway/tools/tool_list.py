"""The tools that there are, and which of them the catalog has a model for. Knows no revision of the protocol."""

from collections.abc import Iterable, Iterator

from mcp.shared.subscriptions import ServerEvent, ToolsListChanged

from mcp_gateway.core.catalog import Published
from mcp_gateway.tools.tool import Tool


class ToolList:
    """A tool that is not listed can be called all the same: its caller is told that there is no such model."""

    def __init__(self, tools: Iterable[Tool], published: Published) -> None:
        self._tools = {tool.definition.name: tool for tool in tools}
        self._published = published
        self._names_told = self._names()

    def find(self, name: str) -> Tool | None:
        return self._tools.get(name)

    def listed(self) -> Iterator[Tool]:
        """Those that are of use with the models that there are now."""
        tasks = {model.task for model in self._published.current.values()}
        return (tool for tool in self._tools.values() if tool.needs is None or tool.needs in tasks)

    def take_changes(self) -> list[ServerEvent]:
        """What subscribers are to be told of what has changed since this was last asked."""
        before, self._names_told = self._names_told, self._names()
        return [ToolsListChanged()] if before != self._names_told else []

    def _names(self) -> list[str]:
        return [tool.definition.name for tool in self.listed()]
