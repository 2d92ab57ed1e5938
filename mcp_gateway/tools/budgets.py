"""Budgets as tools tell of them: as data, and in words. Knows no ledger."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from mcp_gateway.core.ledger.budgets import BUDGET_WINDOWS, BudgetStanding, window_in_words
from mcp_gateway.tools.tool import without_nulls

BUDGET_PROPERTIES: dict[str, Any] = {
    "id": {"type": "string"},
    "amount_usd": {"type": "string"},
    "window": {"type": "string", "enum": list(BUDGET_WINDOWS)},
    "group": {"type": "string", "description": "The group of keys that has it."},
    "spent_usd": {"type": "string"},
    "held_usd": {"type": "string", "description": "Set aside for requests that are running."},
    "left_usd": {"type": "string"},
    "starts_anew_at": {"type": "integer", "description": "When its window ends, Unix seconds."},
    "lease": {"type": "boolean", "description": "Whether it was set aside, so that nobody else can spend it."},
    "ends_at": {"type": "integer", "description": "When a lease ends, Unix seconds."},
}
BUDGETS: dict[str, Any] = {"type": "array", "items": {"type": "object", "properties": BUDGET_PROPERTIES}}
EXPIRES_AT: dict[str, Any] = {"type": "integer", "description": "When the key ends, Unix seconds."}


def told(standing: BudgetStanding) -> dict[str, Any]:
    return without_nulls(standing.as_object().model_dump())


def told_in_words(budgets: Iterable[Mapping[str, Any]]) -> str:
    """What is left of each, as `told` tells it."""
    return ", ".join(map(_in_words, budgets))


def moment_in_words(at_s: int) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _in_words(budget: Mapping[str, Any]) -> str:
    amount = f"{budget['amount_usd']} USD {window_in_words(budget['window'])}"
    anew = f", anew at {moment_in_words(budget['starts_anew_at'])}" if "starts_anew_at" in budget else ""
    return f"{budget['left_usd']} USD left of {amount} ({budget['id']}{anew})"
