"""Reading a request's body, within bounds."""

from starlette.types import Receive, Scope

from mcp_gateway.core.chat import CallerLeft
from mcp_gateway.core.errors import GatewayError


async def read_json_bytes(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole body of a JSON request. Raises GatewayError (`body_too_large`, `invalid_type`) or CallerLeft."""
    _check_head(scope, max_bytes)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        _check_size(len(body), max_bytes)
        return body
    pieces, size_bytes = [], 0
    while message["type"] == "http.request":
        pieces.append(message.get("body", b""))
        size_bytes += len(pieces[-1])
        _check_size(size_bytes, max_bytes)
        if not message.get("more_body"):
            return b"".join(pieces)
        message = await receive()
    raise CallerLeft


def _check_head(scope: Scope, max_bytes: int) -> None:
    """JSON only: a browser sends other types across sites without asking first."""
    content_type = b""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            _check_size(int(value), max_bytes)
        elif name == b"content-type":
            content_type = value
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise GatewayError("invalid_type", "Send JSON, with the header Content-Type: application/json.")


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise GatewayError("body_too_large", f"The request body may have at most {max_bytes} bytes.")
