"""/admin/accounts/{account_id}/budgets: what an account, a key or a group of its keys may spend in a window of time."""

import re
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from http_api.admin.actors import Desks, desk_for, own_idempotency_key
from http_api.idempotency import replayed
from http_api.keys import NewBudget
from http_api.operations import Answered, Asked, Nothing, Told
from http_api.paging import Page, PageQuery, cursor_key, page_of
from http_api.query import Query
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.budgets import (
    LEASES_ARE_TOTAL,
    Budget,
    BudgetGroup,
    BudgetObject,
    BudgetStanding,
    MakeBudgets,
    check_group_name,
)
from mcp_gateway.core.ledger.ledger import Ledger, check_can_own
from mcp_gateway.core.minting import budget_amount
from mcp_gateway.core.text import shown


class BudgetsQuery(PageQuery):
    """`holder` is the id of a key, a group or the account."""

    cursor: Annotated[str | None, cursor_key(re.compile(r"bud_[0-9a-z]+"))] = None
    holder: str | None = None


class NewAccountBudget(NewBudget):
    """What POST takes: the budget of a key or of a group, else of the account; a group's new name makes one.

    A lease needs `expires_in_s`, after which what is left of it returns.
    """

    key_id: str | None = None
    group: str | None = None
    expires_in_s: Annotated[int, Field(ge=1, le=10**9)] | None = None


class AccountBudgetObject(BudgetObject, Told):
    """A budget, and whose it is: `holder` is the id of a key, a group or the account."""

    object: Literal["budget"]
    account_id: str
    holder: str


class AccountBudgetPage(Page[AccountBudgetObject]):
    """Open budgets, the newest first."""


class EndedBudget(Told):
    id: str
    ended: Literal[True]


class BudgetsDoor:
    def __init__(
        self, desks: Desks, keys: KeyRing, ledger: Ledger, idempotency: Idempotency, now_ms: Callable[[], int]
    ) -> None:
        self._desks = desks
        self._keys = keys
        self._ledger = ledger
        self._idempotency = idempotency
        self._now_ms = now_ms

    async def list(self, asked: Asked[BudgetsQuery, Nothing]) -> AccountBudgetPage:
        query, account_id = asked.query, asked.about.account_id
        standings = (
            await self._ledger.budgets(account_id)
            if query.holder is None
            else await self._ledger.budgets_held_by(account_id, [query.holder])
        )
        found = sorted(standings, key=lambda one: one.budget.id, reverse=True)
        behind = [one for one in found if query.cursor is None or one.budget.id < query.cursor]
        return page_of(AccountBudgetPage, behind, query.limit, lambda one: one.budget.id, _told)

    async def make(self, asked: Asked[Query, NewAccountBudget]) -> AccountBudgetObject | Answered[AccountBudgetObject]:
        account_id, body, desk = asked.about.account_id, asked.body, desk_for(self._desks, asked)
        check_can_own(account_id)
        amount_nano, ends_at_ms = budget_amount(body.amount_usd, "amount_usd"), self._end_of(body)
        once = own_idempotency_key(asked)
        async with self._idempotency.answering(account_id, once, "admin/budgets", asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            holder, group, above = await self._holder_of(account_id, body)
            budget = Budget(
                new_id("bud"), account_id, holder, amount_nano, body.window, body.group, lease_ends_at_ms=ends_at_ms
            )
            await self._ledger.budgets_held_by(account_id, ())  # so that its zone is known
            told = _told(self._ledger.new_budget(budget))
            keep = request.answered(201, told.model_dump())
            await desk.leases.make(MakeBudgets((budget,), group, above, keep=keep), desk.store.write)
            return told

    async def end(self, asked: Asked[Query, Nothing]) -> EndedBudget:
        account_id, budget_id = asked.about.account_id, asked.path["budget_id"]
        if not await desk_for(self._desks, asked).leases.end(account_id, budget_id):
            raise GatewayError("not_found", f"{account_id} has no open budget '{shown(budget_id)}'.")
        return EndedBudget(id=budget_id, ended=True)

    def _end_of(self, body: NewAccountBudget) -> int | None:
        """Raises GatewayError for a lease without an end or of a window, and an end of what is no lease."""
        if body.lease and body.expires_in_s is None:
            raise GatewayError("missing_parameter", "A lease has an end: give `expires_in_s`.", param="expires_in_s")
        if body.lease and body.window != "total":
            raise GatewayError("invalid_value", LEASES_ARE_TOTAL, param="window")
        if body.expires_in_s is None:
            return None
        if not body.lease:
            raise GatewayError("invalid_value", "Only a lease ends by itself.", param="expires_in_s")
        return self._now_ms() + body.expires_in_s * 1000

    async def _holder_of(
        self, account_id: str, body: NewAccountBudget
    ) -> tuple[str, BudgetGroup | None, tuple[str, ...]]:
        """The holder's id, the group that it is, if it is one, and who is above it. Raises GatewayError."""
        if body.key_id is not None and body.group is not None:
            raise GatewayError("invalid_value", "Say `key_id` or `group`, not both.", param="group")
        if body.key_id is not None:
            key = await self._keys.get(body.key_id)
            if key.account_id != account_id:
                raise GatewayError("not_found", f"{account_id} has no key '{shown(body.key_id)}'.")
            return key.id, None, key.above
        if body.group is None:
            return account_id, None, ()
        check_group_name(body.group, "group")
        group = await self._ledger.group(account_id, body.group)
        group = group or BudgetGroup(new_id("grp"), account_id, body.group)
        return group.id, group, ()


def _told(standing: BudgetStanding) -> AccountBudgetObject:
    budget = standing.budget
    return AccountBudgetObject(
        **dict(standing.as_object()), object="budget", account_id=budget.account_id, holder=budget.holder
    )
