"""The JSON response of the handlers that take a Request, and how it writes a moment."""

from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.responses import Response


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, media_type="application/json")


def timestamps(at_ms: int) -> dict[str, Any]:
    """A moment in Unix milliseconds: `created_at` in Unix seconds, as OpenAI writes it, and `time` in ISO 8601."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {"created_at": at_ms // 1000, "time": moment.strftime(f"%Y-%m-%dT%H:%M:%S.{at_ms % 1000:03}Z")}
