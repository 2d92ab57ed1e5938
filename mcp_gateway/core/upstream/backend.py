"""One server that answers: what it lists, whether it is up, and the three things that are ever asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from mcp_gateway.core.catalog import Listing
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.request import ChatRequest
from mcp_gateway.core.upstream import vllm
from mcp_gateway.core.upstream.transport import (
    BadResponse,
    ConnectFailed,
    ConnectionDied,
    ResponseTooLarge,
    TimedOut,
    UpstreamError,
)

Headers = Sequence[tuple[bytes, bytes]]
_JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")


class Response(Protocol):
    """A backend's answer whose head is there; `close` aborts what was not read, at once."""

    status: int

    def header(self, name: bytes) -> bytes | None: ...
    async def read(self) -> bytes: ...
    async def next_chunk(self, timeout_s: float | None = None) -> bytes: ...
    def close(self) -> None: ...


class Origin(Protocol):
    """What speaks HTTP to a backend: the transport, or the demo in its place."""

    async def request(
        self, method: str, path: str, headers: Headers, body: bytes = b"", *, is_stream: bool = False
    ) -> Response: ...
    async def aclose(self) -> None: ...


@dataclass(slots=True, eq=False)
class Backend:
    """A named origin, with the models that it listed last; `fault` says why it is not up (empty when it is)."""

    name: str
    origin: Origin
    api_key: str | None = field(default=None, repr=False)
    listings: dict[str, Listing] = field(default_factory=dict)
    is_probed: bool = False
    fault: str = "not asked yet"
    in_flight: int = 0

    @property
    def is_up(self) -> bool:
        return not self.fault

    async def chat(self, body: bytes, headers: Headers, *, is_stream: bool) -> Response:
        """Send a chat. Raises GatewayError for a failure to reach the backend or to get the head of an answer."""
        return await self._ask("POST", vllm.CHAT_PATH, body, headers, is_stream=is_stream)

    async def discover(self) -> None:
        """Read /v1/models again; afterwards `listings` and `fault` tell what was found."""
        try:
            response = await self._ask("GET", vllm.MODELS_PATH, b"", ())
            found = _listings(response.status, await _read_and_close(response))
        except GatewayError as error:
            self.lost(error.message)
        except UpstreamError as error:
            self.lost(str(error))
        else:
            self.listings, self.fault, self.is_probed = found, "", True

    def lost(self, fault: str) -> None:
        """Count as down until discovery finds it again; what it listed is remembered."""
        self.fault, self.is_probed = fault, True

    async def count_prompt(self, request: ChatRequest, backend_model: str) -> int | None:
        """Tokens of a chat's prompt by the backend's own count; None where it cannot tell."""
        try:
            response = await self._ask("POST", vllm.TOKENIZE_PATH, vllm.tokenize_body(request, backend_model), ())
            body = await _read_and_close(response)
            count = orjson.loads(body).get("count") if response.status == 200 else None
        except (GatewayError, UpstreamError, orjson.JSONDecodeError, AttributeError):
            return None
        return count if isinstance(count, int) else None

    async def _ask(self, method: str, path: str, body: bytes, headers: Headers, *, is_stream: bool = False) -> Response:
        sent = [_JSON, *headers]
        if self.api_key:
            sent.append((b"authorization", b"Bearer " + self.api_key.encode()))
        try:
            return await self.origin.request(method, path, sent, body, is_stream=is_stream)
        except UpstreamError as error:
            raise failure(error) from error


async def _read_and_close(response: Response) -> bytes:
    try:
        return await response.read()
    finally:
        response.close()


def failure(error: UpstreamError, *, has_started: bool = False) -> GatewayError:
    """A transport's error in the words of the error table: the one border between the two."""
    match error:
        case ConnectFailed():
            return GatewayError("connect_failed", "The backend of this model cannot be reached.")
        case TimedOut(which="first_token"):
            return GatewayError("first_token_timeout", "The backend brought no token in time.")
        case TimedOut():
            code = "backend_died" if has_started else "backend_error"
            return GatewayError(code, "The backend took too long to answer.")
        case ConnectionDied():
            return GatewayError("backend_died", "The backend's connection broke before the answer was whole.")
        case BadResponse() | ResponseTooLarge():
            return GatewayError("backend_error", "The backend's answer could not be understood.")
    return GatewayError("backend_error", "The backend failed.")


def _listings(status: int, body: bytes) -> dict[str, Listing]:
    if status != 200:
        raise GatewayError("backend_error", f"its list of models answered {status}")
    try:
        rows = orjson.loads(body)["data"]
        return {row["id"]: _listing(row) for row in rows}
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raise GatewayError("backend_error", "its list of models could not be understood") from None


def _listing(row: dict[str, Any]) -> Listing:
    length = row.get("max_model_len")
    return Listing(
        id=str(row["id"]),
        owned_by=str(row.get("owned_by") or "vllm"),
        created_at_s=0,  # vLLM writes the time of the call; a constant keeps lists the same
        max_model_len=length if isinstance(length, int) and length > 0 else None,
    )
