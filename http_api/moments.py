"""How an answer writes a moment."""

from datetime import UTC, datetime
from typing import Any


def timestamps(at_ms: int) -> dict[str, Any]:
    """A moment in Unix milliseconds: `created_at` in Unix seconds, as OpenAI writes it, and `time` in ISO 8601."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {"created_at": at_ms // 1000, "time": moment.strftime(f"%Y-%m-%dT%H:%M:%S.{at_ms % 1000:03}Z")}
