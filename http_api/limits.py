"""GET /limits: what the caller may use, and what is left of it; where every 429 points to."""

from typing import Any, Literal

from http_api.operations import Absent, Asked, Nothing, Told
from http_api.query import AnyQuery
from mcp_gateway.core.caller import Caller, Quota
from mcp_gateway.core.ledger.budgets import BudgetObject
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.limits.limiter import Limiter, Standing

_NOTE = (
    "Minutes are clock minutes, days are UTC days. Inference counts, by whichever door it comes in. "
    "What is shared (by a key and those that it made, by all keys of an account, by the guests of a network) "
    "bounds all of them together."
)


class Window(Told):
    """Null for no limit."""

    limit: int | None
    remaining: int | None


class InFlightLimit(Told):
    """How many requests may run at once, null for any number; and how many do."""

    limit: int | None
    running: int


class QuotaObject(Told):
    """What one subject may use, and what is left of it."""

    requests_per_minute: Window
    requests_per_day: Window
    tokens_per_minute: Window
    in_flight: InFlightLimit


class LimitsObject(QuotaObject):
    """The caller's own, and those that it shares; `resets_at` is when the minute ends, in Unix seconds."""

    object: Literal["limits"]
    is_guest: bool
    makers: list[QuotaObject] | Absent = None
    account: QuotaObject | Absent = None
    origin: QuotaObject | Absent = None
    """Of all accounts together that were registered from the same address and have not paid yet."""
    site: QuotaObject | Absent = None
    guests: QuotaObject | Absent = None
    budgets: list[BudgetObject] | Absent = None
    resets_at: int
    note: str


class Limits:
    def __init__(self, limiter: Limiter, ledger: Ledger) -> None:
        self._limiter = limiter
        self._ledger = ledger

    async def get(self, asked: Asked[AnyQuery, Nothing]) -> LimitsObject:
        caller = asked.caller
        (own, standing), *shared = self._limiter.standings(caller)
        together: dict[str, Any] = {}
        for quota, left in shared:
            if quota.whose == "maker":
                together.setdefault("makers", []).append(self._object(quota, left))
            else:
                together[quota.whose] = self._object(quota, left)
        if not caller.is_guest:
            together["budgets"] = await self._budgets(caller)
        return LimitsObject(
            object="limits",
            is_guest=caller.is_guest,
            **self._fields(own, standing),
            **together,
            resets_at=standing.minute_ends_at_s,
            note=_NOTE,
        )

    async def _budgets(self, caller: Caller) -> list[BudgetObject]:
        """Those that bound what the caller spends: its own, those of its makers, and its account's."""
        standings = await self._ledger.budgets(caller.account_id, caller.spent_by)
        return [standing.as_object() for standing in standings]

    def _object(self, quota: Quota, standing: Standing) -> QuotaObject:
        return QuotaObject(**self._fields(quota, standing))

    def _fields(self, quota: Quota, standing: Standing) -> dict[str, Any]:
        running = self._limiter.running(quota)
        return {
            "requests_per_minute": Window(limit=standing.minute_limit, remaining=standing.minute_remaining),
            "requests_per_day": Window(limit=standing.day_limit, remaining=standing.day_remaining),
            "tokens_per_minute": Window(limit=standing.tokens_limit, remaining=standing.tokens_remaining),
            "in_flight": InFlightLimit(limit=quota.allowance.in_flight, running=running),
        }
