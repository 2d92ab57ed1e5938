"""GET /: what this is and where its doors are, for a person or an agent that found the address."""

from typing import Any, Literal

from http_api.operations import Absent, Answered, Asked, Nothing, Told, WritePage
from http_api.query import AnyQuery
from http_api.rendering import asks_for_page


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
    """`sign_in` is where a browser is led to an issuer, if it is; `has_status` says whether there is that page."""

    def __init__(
        self, version: str, sign_in: str | None, write_page: WritePage, *, base_url: str, has_status: bool
    ) -> None:
        self._version = version
        self._write_page = write_page
        self._shown = {"version": version, "base_url": base_url, "has_status": has_status}
        self._sign_in: dict[str, Any] = {} if sign_in is None else {"sign_in": sign_in}

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> Answered[WelcomeObject]:
        """To a browser as a page."""
        if asks_for_page(asked.context.sent):
            return await self._write_page("welcome.html", self._shown, asked)
        welcome = WelcomeObject(
            name="mcp-gateway",
            version=self._version,
            openai_api="/v1",
            mcp=McpPaths(streamable_http="/v1/mcp", sse="/v1/mcp/sse"),
            models="/v1/models",
            health="/health",
            **self._sign_in,
        )
        return Answered(welcome, headers=((b"vary", b"Accept"),))
