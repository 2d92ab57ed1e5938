"""How an answer writes a moment."""

from datetime import UTC, datetime
from typing import Any


def rfc_3339(at_s: int) -> str:
    """A moment in Unix seconds, as Anthropic's API writes it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def timestamps(at_ms: int) -> dict[str, Any]:
    """A moment in Unix milliseconds: `created_at` in Unix seconds, as OpenAI writes it, and `time` in ISO 8601."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return {"created_at": at_ms // 1000, "time": moment.strftime(f"%Y-%m-%dT%H:%M:%S.{at_ms % 1000:03}Z")}
