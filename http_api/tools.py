"""GET /mcp/tools: the tools of other servers that the caller's chats may use."""

from typing import Any

from http_api.operations import Asked, Nothing, Told
from http_api.query import AnyQuery
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.mcp_client.servers import ToolServers


class ToolObject(Told):
    """A tool; `server` is where it is served, or the label of a program that the gateway runs."""

    name: str
    description: str
    server: str
    inputSchema: dict[str, Any]


class ToolObjects(Told):
    """All of the servers that can be reached now."""

    tools: list[ToolObject]


class Tools:
    def __init__(self, servers: ToolServers) -> None:
        self._servers = servers

    async def list(self, asked: Asked[AnyQuery, Nothing]) -> ToolObjects:
        if not self._servers.are_exposed:
            raise GatewayError("insufficient_permissions", "The tools of other servers are not told here.")
        return ToolObjects(
            tools=[
                ToolObject(
                    name=tool.name, description=tool.description, server=server.told, inputSchema=tool.input_schema
                )
                for server in self._servers.of(asked.caller).values()
                for tool in server.tools
            ]
        )
