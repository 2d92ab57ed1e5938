"""What is told: which thresholds were crossed, and the bodies that say so. All pure; nothing of content is known here.

A body is as Standard Webhooks have it: `type`, `timestamp` of what happened, `data`.
"""

from datetime import UTC, datetime
from typing import Any

import orjson

from mcp_gateway.core.money import format_usd

LEAST_PERCENT = 50
_PERCENTS = (LEAST_PERCENT, 80, 100)


def crossed(before_nano: int, after_nano: int, amount_nano: int) -> list[int]:
    """The thresholds of a budget, in percent, that what was spent of it has come to just now."""
    return [one for one in _PERCENTS if 100 * before_nano < one * amount_nano <= 100 * after_nano]


def budget_threshold(
    at_ms: int, account_id: str, budget: dict[str, Any], starts_at_ms: int, spent_nano: int, percent: int
) -> str:
    """So much of a budget is spent in its window; `budget` is its `id`, `holder`, `window` and `amount_nano`."""
    told = budget | {"amount_usd": format_usd(budget["amount_nano"])}
    del told["amount_nano"]
    data = {
        "account_id": account_id,
        "percent": percent,
        "spent_usd": format_usd(spent_nano),
        "budget": told,
        "window_started_at": starts_at_ms // 1000,
    }
    return _body("budget.threshold", at_ms, data)


def low_balance(at_ms: int, account_id: str, balance_nano: int, mark_nano: int) -> str:
    """An account owns less than the mark that was set for it."""
    amounts = {"balance_usd": format_usd(balance_nano), "low_balance_usd": format_usd(mark_nano)}
    return _body("balance.low", at_ms, {"account_id": account_id} | amounts)


def _body(kind: str, at_ms: int, data: dict[str, Any]) -> str:
    timestamp = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({"type": kind, "timestamp": timestamp, "data": data}).decode()
