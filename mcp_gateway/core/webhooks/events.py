"""What is told: which thresholds were crossed, and the bodies that say so. All pure; nothing of content is known here.

A body is as Standard Webhooks have it: `type`, `timestamp` of what happened, `data`.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.money import format_usd

LEAST_PERCENT = 50
PERCENTS = (LEAST_PERCENT, 80, 100)
"""The thresholds of a budget."""


def crossed(before_nano: int, after_nano: int, amount_nano: int) -> list[int]:
    """The thresholds of a budget, in percent, that what was spent of it has come to just now."""
    return [one for one in PERCENTS if 100 * before_nano < one * amount_nano <= 100 * after_nano]


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


class AutoTopUpSwitch(NamedTuple):
    """Whether an account is topped up by itself: it is, where nothing has switched it off."""

    off_reason: str | None


def low_balance(
    at_ms: int, account_id: str, balance_nano: int, mark_nano: int, topped_up: AutoTopUpSwitch | None
) -> str:
    """An account owns less than the mark that was set for it; `topped_up` where it has set an auto top-up."""
    data: dict[str, Any] = {
        "account_id": account_id,
        "balance_usd": format_usd(balance_nano),
        "low_balance_usd": format_usd(mark_nano),
    }
    if topped_up is not None:
        data["auto_topup"] = {"enabled": topped_up.off_reason is None, "off_reason": topped_up.off_reason}
    return _body("balance.low", at_ms, data)


def auto_topup(at_ms: int, account_id: str, amount_nano: int, balance_nano: int, reason: str | None) -> str:
    """A payment by which an account was to be topped up has arrived, or failed for this reason."""
    data = {"account_id": account_id, "amount_usd": format_usd(amount_nano), "balance_usd": format_usd(balance_nano)}
    if reason is None:
        return _body("auto_topup.succeeded", at_ms, data)
    return _body("auto_topup.failed", at_ms, data | {"reason": reason})


def auto_topup_off(at_ms: int, account_id: str, reason: str) -> str:
    """An account is topped up by itself no more, though no payment failed."""
    return _body("auto_topup.off", at_ms, {"account_id": account_id, "reason": reason})


def _body(kind: str, at_ms: int, data: dict[str, Any]) -> str:
    timestamp = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return orjson.dumps({"type": kind, "timestamp": timestamp, "data": data}).decode()
