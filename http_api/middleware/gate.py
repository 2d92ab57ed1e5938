"""Refuses new work while the gateway drains or is under maintenance."""

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_gateway.core.lifecycle import Lifecycle


class Gate:
    """503 with Retry-After for everything but `open_paths`; what is already in flight goes on."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle, open_paths: frozenset[str]) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            self._lifecycle.check_open()
        await self._app(scope, receive, send)
