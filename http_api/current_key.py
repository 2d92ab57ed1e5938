"""GET /key: what the key that asks may spend and has spent, in the words in which OpenRouter's clients ask for it."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from http_api.moments import timestamps
from http_api.operations import Asked, Nothing, Told
from http_api.query import AnyQuery
from http_api.usage import end_of_hour_ms
from mcp_gateway.core.caller import Caller
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.ledger.budgets import BudgetStanding, BudgetWindow, span_at
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.limits.limiter import Limiter, Standing
from mcp_gateway.core.money import usd_number
from mcp_gateway.core.observe.history import Among, Groups, History

_NOTE = "Requests a minute of this key alone, -1 for any number; GET /v1/limits tells all limits."
_RESETS: dict[BudgetWindow, str | None] = {
    "5h": "5h", "day": "daily", "week": "weekly", "month": "monthly", "total": None,
}  # fmt: skip
"""When a limit starts anew, in OpenRouter's words where it has one."""
_USAGE_WINDOWS: dict[str, BudgetWindow] = {
    "usage": "total", "usage_daily": "day", "usage_weekly": "week", "usage_monthly": "month",
}  # fmt: skip
"""Each begins with a day."""


class RateLimit(Told):
    requests: int
    interval: Literal["1m"]
    note: str


class KeyBudget(Told):
    """A budget that bounds what the key spends; `remaining_usd` is less what is held for requests that run."""

    scope: Literal["key_limit", "workspace"]
    """Whether it is of the key itself, or of its group, a maker or its account."""
    budget_id: str
    guardrail_id: None
    include_byok: Literal[False]
    limit_usd: float
    spend_usd: float
    remaining_usd: float
    reset_interval: str | None
    resets_at: str | None


class DailyRequests(Told):
    """Of whatever limits the key's requests a day the most, free ones or not; -1 for any number."""

    limit: int
    remaining: int
    used: int


class CurrentKeyFields(Told):
    """Amounts are numbers, in USD; those of a key are with what the keys that it made have spent.

    `limit` is the budget that leaves the least, of the key, its makers and its account; null where none bounds it.
    Days, weeks (from Monday) and months are UTC's.
    """

    label: str
    limit: float | None
    limit_remaining: float | None
    limit_reset: str | None
    budgets: list[KeyBudget]
    effective_budget: KeyBudget | None
    usage: float
    usage_daily: float
    usage_weekly: float
    usage_monthly: float
    byok_usage: float
    byok_usage_daily: float
    byok_usage_weekly: float
    byok_usage_monthly: float
    include_byok_in_limit: Literal[False]
    is_free_tier: bool
    """Whether it is a test key, for which nothing is charged."""
    is_management_key: bool
    is_provisioning_key: bool
    creator_user_id: None
    organization_id: None
    workspace_id: None
    allowed_data_regions: list[Literal["global"]]
    expires_at: str | None
    free_model_daily_requests: DailyRequests
    rate_limit: RateLimit


class CurrentKeyObject(Told):
    data: CurrentKeyFields


class CurrentKey:
    def __init__(
        self, keys: KeyRing, limiter: Limiter, ledger: Ledger, history: History, now_ms: Callable[[], int]
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._ledger = ledger
        self._history = history
        self._now_ms = now_ms

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> CurrentKeyObject:
        caller = asked.caller
        if caller.key_id is None:
            raise GatewayError("not_found", "This tells of the key that asks, and you ask without one.")
        key = await self._keys.get(caller.key_id)
        standings = await self._ledger.budgets(caller.account_id, caller.spent_by)
        is_for_keys = caller.may("manage") and not caller.may("inference")
        most = caller.allowance.requests_per_minute
        return CurrentKeyObject(
            data=CurrentKeyFields(
                label=key.name or key.prefix,
                **_limit(standings, key.id),
                **await self._usage(caller),
                include_byok_in_limit=False,
                is_free_tier=key.is_test,
                is_management_key=is_for_keys,
                is_provisioning_key=is_for_keys,
                creator_user_id=None,
                organization_id=None,
                workspace_id=None,
                allowed_data_regions=["global"],
                expires_at=None if key.expires_at_ms is None else timestamps(key.expires_at_ms)["time"],
                free_model_daily_requests=_daily(self._limiter.standing(caller)),
                rate_limit=RateLimit(requests=-1 if most is None else most, interval="1m", note=_NOTE),
            )
        )

    async def _usage(self, caller: Caller) -> dict[str, Any]:
        """What it has spent in all, and since today, this week and this month began, by the sums of days."""
        now_ms = self._now_ms()
        until_ms = end_of_hour_ms(now_ms)
        by_day = await self._history.totals(caller.account_id, 0, until_ms, "day", among=Among(within=caller.key_id))
        spent = {
            name: usd_number(_spent_nano(by_day, _first_day(window, now_ms))) for name, window in _USAGE_WINDOWS.items()
        }
        return spent | {f"byok_{name}": 0.0 for name in spent}


def _first_day(window: BudgetWindow, now_ms: int) -> str:
    return datetime.fromtimestamp(span_at(window, now_ms, UTC).starts_at_ms / 1000, UTC).date().isoformat()


def _spent_nano(by_day: Groups, first_day: str) -> int:
    return sum(totals.cost_nano for (day,), totals in by_day.items() if str(day) >= first_day)


def _daily(standing: Standing) -> DailyRequests:
    limit, remaining = standing.day_limit, standing.day_remaining
    if limit is None or remaining is None:
        return DailyRequests(limit=-1, remaining=-1, used=0)
    return DailyRequests(limit=limit, remaining=remaining, used=limit - remaining)


def _limit(standings: Sequence[BudgetStanding], key_id: str) -> dict[str, Any]:
    """All of these budgets, and the one that leaves the least."""
    told = [_told(standing, key_id) for standing in standings]
    least = min(told, key=lambda budget: budget.remaining_usd, default=None)
    return {
        "limit": None if least is None else least.limit_usd,
        "limit_remaining": None if least is None else least.remaining_usd,
        "limit_reset": None if least is None else least.reset_interval,
        "budgets": told,
        "effective_budget": least,
    }


def _told(standing: BudgetStanding, key_id: str) -> KeyBudget:
    budget, ends_at_ms = standing.budget, standing.span.ends_at_ms
    return KeyBudget(
        scope="key_limit" if budget.holder == key_id else "workspace",
        budget_id=budget.id,
        guardrail_id=None,
        include_byok=False,
        limit_usd=usd_number(budget.amount_nano),
        spend_usd=usd_number(standing.spent_nano),
        remaining_usd=usd_number(standing.left_nano),
        reset_interval=_RESETS[budget.window],
        resets_at=None if ends_at_ms is None else timestamps(ends_at_ms)["time"],
    )
