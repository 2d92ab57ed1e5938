"""Accounts, for administrators: all of them, and one's own page, where it is changed and money is entered."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from http_api.admin.accounts import AccountChange, AccountObject, AccountsQuery, NewAccount
from http_api.admin.money import EntryBody, GrantBody
from http_api.admin.table import AdminEndpoints
from http_api.console.addresses import older
from http_api.console.forms import Form
from http_api.console.pages_of import ACCOUNTS_PATH
from http_api.console.serving import AskedPage, Console, SeeOther, Shown, again, asking
from http_api.operations import Access, AnyOperation, Asked, Nothing
from http_api.query import Query
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES

_SWITCHES = ("active", "proxy", "attribution")
_DAYS = "expires_in_days"
_MOST_DAYS = 10_000
_FIELDS = (*AccountChange.model_fields, *GrantBody.model_fields, _DAYS)
"""Of the forms, below which what is wrong with them is told."""


class AccountQuery(Query):
    """Whether a change was just made."""

    changed: bool = False


class AccountPages:
    def __init__(self, admin: AdminEndpoints) -> None:
        self._accounts = admin.accounts
        self._entries = {
            "credit": (EntryBody, admin.of_account.about_one(admin.money.credit)),
            "grant": (GrantBody, admin.of_account.about_one(admin.money.grant)),
            "adjustment": (EntryBody, admin.of_account.about_one(admin.money.adjust)),
        }
        self._switch_off = admin.of_account.about_one(admin.auto_topups.switch_off)

    def rows(self, console: Console) -> list[AnyOperation]:
        one = f"{ACCOUNTS_PATH}/{{account_id}}"
        row: dict[str, Any] = {"access": Access.ADMINISTRATOR, "is_always_answered": True}
        form = row | {"method": "POST"}
        return [
            console.page(ACCOUNTS_PATH, self.list, query=AccountsQuery, **row),
            console.page(ACCOUNTS_PATH, self.create, **form),
            console.page(one, self.show, query=AccountQuery, **row),
            console.page(one, self.change, **form),
            console.page(f"{one}/entries", self.enter, **form),
            console.page(f"{one}/auto-topup-off", self.switch_off, **form),
        ]

    async def list(self, asked: Asked[AccountsQuery, Form]) -> Shown:
        return await self._listed(asked, asked.query, Form(), None)

    async def create(self, asked: AskedPage) -> Shown | SeeOther:
        try:
            made = await self._accounts.create(asking(asked, asked.body.as_body(NewAccount)))
        except GatewayError as error:
            shown = await self._listed(asked, AccountsQuery(), asked.body, error)
            return again(shown.template, shown.values, error)
        return SeeOther(f"{ACCOUNTS_PATH}/{made.id}")

    async def show(self, asked: Asked[AccountQuery, Form]) -> Shown:
        account = await self._accounts.get(asking(asked, Nothing()))
        values = _values_of(account, Form(), is_changed=asked.query.changed)
        return Shown("admin_account.html", values | {"error": None})

    async def change(self, asked: AskedPage) -> Shown | SeeOther:
        return await self._done(asked, self._change)

    async def enter(self, asked: AskedPage) -> Shown | SeeOther:
        return await self._done(asked, self._enter)

    async def switch_off(self, asked: AskedPage) -> Shown | SeeOther:
        return await self._done(asked, self._switch_off_in)

    async def _change(self, asked: AskedPage, account: AccountObject) -> None:
        body = asked.body.changed_from(_shown_of(account)).as_body(AccountChange)
        await self._accounts.change(asking(asked, body))

    async def _enter(self, asked: AskedPage, _account: AccountObject) -> None:
        kind = asked.body.get("kind")
        if kind not in self._entries:
            raise GatewayError("invalid_value", "`kind` is credit, grant or adjustment.", param="kind")
        form = asked.body
        if days := form.get(_DAYS).strip():
            if kind != "grant":
                raise GatewayError("invalid_value", "Only a grant is taken back.", param=_DAYS)
            form = form.having("expires_in_s", str(_whole_days(days) * 24 * 3600))
        body, enter = self._entries[kind]
        await enter(asking(asked, form.as_body(body)))

    async def _switch_off_in(self, asked: AskedPage, _account: AccountObject) -> None:
        await self._switch_off(asking(asked, Nothing()))

    async def _done(
        self, asked: AskedPage, do: Callable[[AskedPage, AccountObject], Awaitable[None]]
    ) -> Shown | SeeOther:
        account = await self._accounts.get(asking(asked, Nothing()))
        try:
            await do(asked, account)
        except GatewayError as error:
            return again("admin_account.html", _values_of(account, asked.body, is_changed=False), error)
        return SeeOther(f"{ACCOUNTS_PATH}/{account.id}?changed=1")

    async def _listed(self, asked: AskedPage, query: AccountsQuery, typed: Form, error: GatewayError | None) -> Shown:
        found = await self._accounts.list(asking(asked, Nothing(), query))
        active = "" if query.active is None else str(query.active).lower()
        kept = {"name": query.name or "", "active": active}
        values = {
            "accounts": found.data,
            "filter": kept,
            "older": older(found.next_cursor, kept),
            "typed": typed,
            "error": error,
        }
        return Shown("admin_accounts.html", values, part="table")


def _whole_days(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= _MOST_DAYS:
        raise GatewayError("invalid_value", f"Give whole days, 1 to {_MOST_DAYS}, or nothing.", param=_DAYS)
    return int(text)


def _values_of(account: AccountObject, typed: Form, *, is_changed: bool) -> dict[str, Any]:
    return {
        "account": account,
        "home": f"{ACCOUNTS_PATH}/{account.id}",
        "of_account": account.id,
        "typed": typed,
        "is_changed": is_changed,
        "fields": _FIELDS,
        "now": _shown_of(account),
        "limit_names": LIMIT_NAMES,
        "switches": (("true", "yes"), ("false", "no")),
    }


def _shown_of(account: AccountObject) -> Mapping[str, str]:
    """What stands in the fields of an account's page."""
    return {
        "name": account.name,
        "margin_percent": account.margin_percent,
        "zone": account.zone,
        **{name: str(getattr(account, name)).lower() for name in _SWITCHES},
        **{name: str(getattr(account.limits, name)) for name in LIMIT_NAMES},
    }
