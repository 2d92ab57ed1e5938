"""Why money cannot be held for a request, in words and figures that a program can act on. Decides nothing."""

from collections.abc import Sequence
from typing import Any

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.ledger.budget_book import Spender
from mcp_gateway.core.ledger.budgets import BudgetStanding, in_words
from mcp_gateway.core.ledger.entries import Short
from mcp_gateway.core.ledger.purse import Hold, Purse
from mcp_gateway.core.money import format_usd

_LONGEST_RETRY_S = 60
"""Of what a request is told to wait that its account's own requests leave no money for."""


class HoldRefusals:
    """By what requests need, and where money is added. Amounts in nano-USD."""

    def __init__(self, minimum_balance_nano: int, topup_url: str | None) -> None:
        self._minimum_balance_nano = minimum_balance_nano
        self._topup = {} if topup_url is None else {"topup_url": topup_url}

    def needed_nano(self, by: Spender) -> int:
        """What the wallet must have for a request."""
        return max(by.least_nano, self._minimum_balance_nano)

    def needed_of(self, short: Short, by: Spender) -> int:
        """The same of what it is short of: the least balance is one of the wallet's alone."""
        return by.least_nano if short.budget is not None or short.pocket is not None else self.needed_nano(by)

    def of(self, purse: Purse, by: Spender, now_ms: int) -> GatewayError:
        """What is final before what is held, and of these the first that it is short of."""
        shorts = tuple(purse.shorts(now_ms, by))
        for short in shorts:
            if not short.may_cover(self.needed_of(short, by)):
                if short.budget is not None:
                    return _exhausted(short.budget, by)
                return self._insufficient(short, purse.holds_of(short), by)
        for short in shorts:
            if not short.covers(self.needed_of(short, by)):
                return self._held(short, purse.holds_of(short), by, now_ms)
        money = next(short for short in shorts if short.budget is None)
        return _come_free(_details(money, purse.holds_of(money)))

    def _insufficient(self, short: Short, holds: Sequence[Hold], by: Spender) -> GatewayError:
        details = _details(short, holds) | self._topup
        if short.spendable_nano < by.least_nano:
            message = f"The balance of {details['balance_usd']} USD does not cover {_asked(by)}."
            return GatewayError("insufficient_balance", message, details=details)
        message = f"Requests need a balance of {format_usd(self._minimum_balance_nano)} USD."
        return GatewayError("below_minimum_balance", message, details=details)

    def _held(self, short: Short, holds: Sequence[Hold], by: Spender, now_ms: int) -> GatewayError:
        """Money that would be enough, once requests that run have ended."""
        details, needed_nano = _details(short, holds) | _of_budget(short.budget), self.needed_of(short, by)
        left, held = details["balance_usd"], details["held_usd"]
        what = f"The balance of {left} USD does" if short.budget is None else _left_of(short.budget, left)
        asked = f"this request, which needs {format_usd(needed_nano)} USD" if by.until_ms is None else _asked(by)
        message = f"{what} not cover {asked}: {held} USD are held for {len(holds)} of your running requests."
        wait_s = _expected_wait_s(holds, needed_nano - short.spendable_nano, now_ms)
        return GatewayError("balance_held", message, retry_after_s=wait_s, details=details)


def _details(short: Short, holds: Sequence[Hold]) -> dict[str, Any]:
    balance, held = format_usd(short.spendable_nano), format_usd(short.held_nano)
    return {"balance_usd": balance, "held_usd": held, "holding_requests": len(holds)}


def _come_free(details: dict[str, Any]) -> GatewayError:
    """What was missing is there by now, as where the window of a budget was over meanwhile."""
    message = "What this request lacked has come free since it was asked for: ask again."
    return GatewayError("balance_held", message, retry_after_s=1, details=details)


def _left_of(standing: BudgetStanding, left: str) -> str:
    return f"The {left} USD that are left of the budget of {in_words(standing.budget)} do"


def _asked(by: Spender) -> str:
    """What the money is for."""
    least = format_usd(by.least_nano)
    return f"this request, which may cost at least {least} USD" if by.until_ms is None else f"a lease of {least} USD"


def _exhausted(standing: BudgetStanding, by: Spender) -> GatewayError:
    """A budget that is used up, which is final in its window, or a lease whose time is over."""
    if standing.is_over:
        lent, ended_at = format_usd(standing.budget.amount_nano), standing.as_object().ends_at
        message = f"The lease of {lent} USD ended at {ended_at} (Unix seconds); what was left of it has returned."
        return GatewayError("budget_exhausted", message, details=_of_budget(standing))
    message = f"{_left_of(standing, format_usd(standing.left_nano))} not cover {_asked(by)}."
    return GatewayError("budget_exhausted", message, details=_of_budget(standing))


def _of_budget(standing: BudgetStanding | None) -> dict[str, Any]:
    """What is told of the budget that a refusal is about."""
    if standing is None:
        return {}
    told = standing.as_object().model_dump()
    return {"budget": told, "starts_anew_at": told["starts_anew_at"]}


def _expected_wait_s(holds: Sequence[Hold], missing_nano: int, now_ms: int) -> int:
    """1 to 60 s: as long again as those have run that hold what is missing, the latest first.

    Nothing else is known of when a request ends; of times without a scale the rest is expected to equal the age.
    """
    since_ms = now_ms
    for hold in reversed(holds):
        since_ms = hold.since_ms
        missing_nano -= hold.amount_nano
        if missing_nano <= 0:
            break
    return min(max(1, (now_ms - since_ms) // 1000), _LONGEST_RETRY_S)
