"""GET /: what this is and where its doors are, for a person or an agent that found the address."""

from starlette.requests import Request
from starlette.responses import Response

from http_api.responses import json_response


class Welcome:
    def __init__(self, version: str) -> None:
        self._version = version

    async def get(self, request: Request) -> Response:
        return json_response(
            {
                "name": "mcp-gateway",
                "version": self._version,
                "openai_api": "/v1",
                "mcp": {"streamable_http": "/v1/mcp", "sse": "/v1/mcp/sse"},
                "models": "/v1/models",
                "health": "/health",
            }
        )
