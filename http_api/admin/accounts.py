"""/admin/accounts: all accounts, with what each has and may; made, changed and switched off by the operator."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from http_api.admin.actors import Desks, desk_for
from http_api.admin.own_limits import OwnLimitsChange, OwnLimitsObject, own_limits_in
from http_api.operations import Asked, Nothing, Told
from http_api.paging import Page, PageQuery, cursor_key, page_of
from http_api.query import Query
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.accounts import Account, Accounts, in_percent, margin_of
from mcp_gateway.core.ledger.budgets import SetZone
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.minting import MAX_NAME_CHARS
from mcp_gateway.core.wallet import WalletObject
from mcp_gateway.core.zones import zone_of


class AccountsQuery(PageQuery):
    """Filters hold together; `name` is the whole name."""

    cursor: Annotated[str | None, cursor_key(re.compile(r"acc_[0-9a-z]+"))] = None
    name: str | None = None
    active: bool | None = None


class NewAccount(BaseModel):
    """What POST takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class AccountChange(OwnLimitsChange):
    """What PATCH takes; what is left out stays as it is. A zone is named as in Europe/Berlin."""

    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    active: bool | None = None
    margin_percent: Annotated[str, Field(max_length=20)] | None = None
    proxy: bool | None = None
    attribution: bool | None = None
    zone: Annotated[str, Field(max_length=100)] | None = None


class AccountObject(WalletObject, Told):
    """An account with its wallet; its limits are what was set for all its keys together.

    `margin_percent` is what it pays above the prices of the settings, `proxy` whether it may ask /proxy,
    `attribution` whether its requests are attributed to users and tags, and `zone` where its days begin. `created_at`
    in Unix seconds.
    """

    object: Literal["account"]
    id: str
    name: str
    active: bool
    created_at: int
    margin_percent: str
    proxy: bool
    attribution: bool
    zone: str
    limits: OwnLimitsObject


class AccountPage(Page[AccountObject]):
    """Accounts, the newest first."""


class AccountsDoor:
    def __init__(self, accounts: Accounts, ledger: Ledger, desks: Desks) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._desks = desks

    async def list(self, asked: Asked[AccountsQuery, Nothing]) -> AccountPage:
        query = asked.query
        found = await self._accounts.page(
            before_id=query.cursor, limit=query.limit + 1, name=query.name, is_active=query.active
        )
        told = {account.id: await self._told(account) for account in found[: query.limit]}
        return page_of(AccountPage, found, query.limit, lambda one: one.id, lambda one: told[one.id])

    async def get(self, asked: Asked[Query, Nothing]) -> AccountObject:
        return await self._told(await self._accounts.get(asked.path["account_id"]))

    async def create(self, asked: Asked[Query, NewAccount]) -> AccountObject:
        return await self._told(await desk_for(self._desks, asked).accounts.create(asked.body.name))

    async def change(self, asked: Asked[Query, AccountChange]) -> AccountObject:
        """All of it or nothing."""
        account_id, body, desk = asked.path["account_id"], asked.body, desk_for(self._desks, asked)
        zone = _zone_in(body)
        await desk.accounts.change(
            account_id,
            name=body.name,
            limits=own_limits_in(body),
            margin=_margin_in(body),
            may_proxy=body.proxy,
            is_attributed=body.attribution,
            is_active=body.active,
            and_then=() if zone is None else (SetZone(account_id, zone),),
        )
        await desk.heard()
        return await self._told(await self._accounts.get(account_id))

    async def _told(self, account: Account) -> AccountObject:
        wallet = (await self._ledger.balance(account.id)).as_object()
        return AccountObject(
            **dict(wallet),
            object="account",
            id=account.id,
            name=account.name,
            active=account.is_active,
            created_at=account.created_at_ms // 1000,
            margin_percent=in_percent(account.margin),
            proxy=account.may_proxy,
            attribution=account.is_attributed,
            zone=await self._ledger.zone(account.id),
            limits=OwnLimitsObject.model_validate(account.limits.as_object()),
        )


def _margin_in(body: AccountChange) -> int | None:
    """Hundredths of a percent. Raises GatewayError `invalid_value`."""
    if body.margin_percent is None:
        return None
    try:
        return margin_of(body.margin_percent)
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`margin_percent` {fault}.", param="margin_percent") from None


def _zone_in(body: AccountChange) -> str | None:
    """Raises GatewayError `invalid_value` for one that is not known here."""
    try:
        if body.zone is not None:
            zone_of(body.zone)
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`zone`: {fault}.", param="zone") from None
    return body.zone
