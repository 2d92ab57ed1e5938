"""What is heard of a server, on its way to the SDK: when it ends, and without what nobody here asks for."""

from types import TracebackType
from typing import Any, Self

import anyio
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCResponse


class Heard:
    """A stream of the SDK's, passed on.

    The schemas of results are left out: the SDK would hold every result against them, and a pattern in one may take for
    ever.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def last_context(self) -> Any:
        """Whose turn it was to send."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        heard: SessionMessage | Exception = await self._stream.receive()
        if isinstance(heard, SessionMessage) and isinstance(heard.message, JSONRPCResponse):
            _drop_output_schemas(heard.message.result)
        return heard

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(kind, error, trace)
        return ended


def _drop_output_schemas(result: dict[str, Any]) -> None:
    tools = result.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            tool.pop("outputSchema", None)
