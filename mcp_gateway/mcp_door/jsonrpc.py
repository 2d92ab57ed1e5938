"""JSON-RPC 2.0: one message in, one answer out. Knows no method and no transport."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from mcp.shared.dispatcher import as_request_id
from mcp.types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
    ErrorData,
)

from mcp_gateway.core.errors import TABLE
from mcp_gateway.core.json_bounds import dump_json, parse_exactly
from mcp_gateway.wire.line_ends import without_line_ends

RequestId = str | int
_BOM = b"\xef\xbb\xbf"
_MAX_BATCH = 32
_MENDED_BYTES = 64 * 1024
"""As much as is mended within 10 ms, whatever it holds."""
_ESCAPE = re.compile(rb"\\(?:[^u]|u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|u)", re.DOTALL)
"""An escape of JSON; the group holds half of a character that stands alone."""
REFUSED = -32000
"""For what is well formed and not served now; JSON-RPC leaves the number to servers."""
RESOURCE_NOT_FOUND = -32002
_NAMES = {
    PARSE_ERROR: "parse_error",
    INVALID_REQUEST: "invalid_request",
    METHOD_NOT_FOUND: "method_not_found",
    INVALID_PARAMS: "invalid_params",
    INTERNAL_ERROR: "internal_error",
    HEADER_MISMATCH: "header_mismatch",
    MISSING_REQUIRED_CLIENT_CAPABILITY: "missing_client_capability",
    UNSUPPORTED_PROTOCOL_VERSION: "unsupported_protocol_version",
    RESOURCE_NOT_FOUND: "resource_not_found",
    REFUSED: "refused",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A request (id and method), a notification (method only) or a response (id only, with its result or error)."""

    id: RequestId | None
    method: str | None
    params: dict[str, Any] | None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def is_request(self) -> bool:
        return self.id is not None and self.method is not None

    @property
    def is_notification(self) -> bool:
        return self.id is None


Batch = list[Message]
"""Several messages in one body, as revision 2025-03-26 has them."""


class Refusal(Exception):
    """A message that is not served: what its sender is told, as a JSON-RPC error under an HTTP status.

    `reason` is for the operator, where the error's code does not say enough.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        request_id: RequestId | None = None,
        data: Any = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        reason: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        told = ErrorData(code=code, message=message, data=data)
        self.reason = reason or reason_of(told)
        self.payload = error_payload(request_id, told)


def reason_of(error: ErrorData) -> str:
    """One of few names for what an error is: the gateway's own code where it has one, else JSON-RPC's."""
    own = error.data.get("code") if isinstance(error.data, dict) else None
    return own if own in TABLE else _NAMES.get(error.code, "other")


def parse_message(raw: bytes) -> Message | Batch:
    """Read a body. Raises Refusal (400) for what is neither one JSON-RPC message nor a list of some.

    Raises GatewayError `invalid_json` for one that is nested too deep.
    """
    decoded = _decoded(raw.removeprefix(_BOM))
    if not isinstance(decoded, list):
        return _message(decoded)
    if not 0 < len(decoded) <= _MAX_BATCH:
        raise Refusal(400, INVALID_REQUEST, f"A batch must have from 1 to {_MAX_BATCH} messages.")
    return [_message(one) for one in decoded]


def _decoded(raw: bytes) -> Any:
    try:
        return parse_exactly(raw)
    except orjson.JSONDecodeError as error:
        if "surrogate" in error.msg and len(raw) <= _MENDED_BYTES and (mended := with_whole_characters(raw)) != raw:
            return _decoded(mended)
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise Refusal(400, PARSE_ERROR, f"The body is not JSON ({where}).") from None


def with_whole_characters(raw: bytes) -> bytes:
    """JSON in which each escape of half a character, as a text has it that was cut within an emoji, is U+FFFD."""
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found[1] else found[0], raw)


def _message(decoded: Any) -> Message:
    if not isinstance(decoded, dict) or decoded.get("jsonrpc") != "2.0":
        raise Refusal(400, INVALID_REQUEST, 'The body must be one JSON-RPC message: an object with "jsonrpc": "2.0".')
    request_id = as_request_id(decoded.get("id"))
    method, params = decoded.get("method"), decoded.get("params")
    if request_id is None and "id" in decoded and method is not None:
        raise Refusal(400, INVALID_REQUEST, "`id` must be a string or a whole number.")
    if method is None and not ("result" in decoded or "error" in decoded):
        raise Refusal(400, INVALID_REQUEST, "`method` is missing.", request_id=request_id)
    if method is not None and not isinstance(method, str):
        raise Refusal(400, INVALID_REQUEST, "`method` must be a string.", request_id=request_id)
    if params is not None and not isinstance(params, dict):
        raise Refusal(400, INVALID_REQUEST, "`params` must be an object.", request_id=request_id)
    return Message(request_id, method, params, _object(decoded.get("result")), _object(decoded.get("error")))


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def request_payload(request_id: RequestId, method: str, params: Mapping[str, Any] | None) -> bytes:
    """A message that wants an answer."""
    return _written({"jsonrpc": "2.0", "id": request_id, "method": method, **_given(params)})


def result_payload(request_id: RequestId | None, result: Mapping[str, Any]) -> bytes:
    """The answer to a request that was served."""
    return _written({"jsonrpc": "2.0", "id": request_id, "result": result})


def error_payload(request_id: RequestId | None, error: ErrorData) -> bytes:
    """The answer to a request that was not."""
    told = {"code": error.code, "message": error.message}
    if error.data is not None:
        told["data"] = error.data
    return _written({"jsonrpc": "2.0", "id": request_id, "error": told})


def notification_payload(method: str, params: Mapping[str, Any] | None) -> bytes:
    """A message that wants no answer."""
    return _written({"jsonrpc": "2.0", "method": method, **_given(params)})


def _written(message: Mapping[str, Any]) -> bytes:
    return without_line_ends(dump_json(message))


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"params": params} if params else {}
