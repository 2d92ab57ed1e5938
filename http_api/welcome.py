"""GET /: what this is and where its doors are, for a person or an agent that found the address."""

from typing import Any, Literal

from http_api.operations import Absent, Asked, Nothing, Told
from http_api.query import AnyQuery


class McpPaths(Told):
    """Where the MCP door is, by transport."""

    streamable_http: str
    sse: str


class WelcomeObject(Told):
    """What this is, and where its doors are."""

    name: Literal["mcp-gateway"]
    version: str
    openai_api: str
    mcp: McpPaths
    models: str
    health: str
    sign_in: str | Absent = None


class Welcome:
    """`sign_in` is where a browser is led to an issuer, if it is."""

    def __init__(self, version: str, sign_in: str | None) -> None:
        self._version = version
        self._sign_in: dict[str, Any] = {} if sign_in is None else {"sign_in": sign_in}

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> WelcomeObject:
        return WelcomeObject(
            name="mcp-gateway",
            version=self._version,
            openai_api="/v1",
            mcp=McpPaths(streamable_http="/v1/mcp", sse="/v1/mcp/sse"),
            models="/v1/models",
            health="/health",
            **self._sign_in,
        )
