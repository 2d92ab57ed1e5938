"""/admin/keys: the keys of all accounts, and whatever the operator gives them; nothing is bounded by who asks."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field

from http_api.admin.actors import Desks, desk_for, own_idempotency_key
from http_api.admin.own_limits import OwnLimitsChange, OwnLimitsObject, own_limits_in
from http_api.idempotency import replayed
from http_api.key_objects import KeyObject, KeyObjects, KeyStanding
from http_api.keys import (
    GivenToKey,
    NewBudget,
    RevokeQuery,
    Rotation,
    SaidOfKey,
    ServerLabel,
    budgets_of,
    end_of,
    particulars_of,
    routing_of,
)
from http_api.operations import Absent, Answered, Asked, Nothing
from http_api.paging import Page, PageQuery, cursor_key, page_of
from http_api.query import Query
from mcp_gateway.core.catalog import is_model_id
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.identity.key_ring import SHOWN_CHARACTERS, KeyRing
from mcp_gateway.core.identity.keys import Key, State
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.identity.particulars import Particulars
from mcp_gateway.core.ids import new_id
from mcp_gateway.core.ledger.budgets import Budget, MakeBudgets
from mcp_gateway.core.minting import MAX_BUDGETS, MAX_MODELS, KeyForAccount, Mint
from mcp_gateway.core.optimization import RoutingDefaults
from mcp_gateway.core.text import is_one_line

_GroupName = Annotated[str, Field(max_length=200)]


class AccountKeysQuery(PageQuery):
    """Filters hold together; `prefix` is what a key begins with, no more of it than lists show."""

    cursor: Annotated[str | None, cursor_key(re.compile(r"key_[0-9a-z]+"))] = None
    account_id: str | None = None
    key_id: str | None = None
    prefix: Annotated[str, Field(max_length=SHOWN_CHARACTERS)] | None = None
    state: State | None = None


class NewAccountKey(SaidOfKey, GivenToKey, OwnLimitsChange):
    """What POST takes. What is left out is the default: all scopes and models, no servers, no end.

    `group` is the name of one of the account's groups of keys.
    """

    account_id: Annotated[str, Field(max_length=100)]
    group: _GroupName | None = None


class AccountKeyChange(SaidOfKey, OwnLimitsChange):
    """What PATCH takes; what is left out stays as it is, and `add_budgets` bound the key beside those that it has.

    `null` clears a pool, a mode, that an event is told, networks, a note and tags; an empty `group` takes it out of it.
    """

    group: _GroupName | None = None
    mint_over_mcp: bool | None = None
    mcp_servers: Annotated[list[ServerLabel], Field(max_length=MAX_MODELS)] | None = None
    offer_mcp_tools: bool | None = None
    add_budgets: Annotated[list[NewBudget], Field(min_length=1, max_length=MAX_BUDGETS)] | None = None


class AccountKeyObject(KeyObject):
    """A key as its account sees it, with whose it is, its state, and the limits that were set for it."""

    account_id: str
    state: State
    limits: OwnLimitsObject


class CreatedAccountKey(AccountKeyObject):
    """The same with the key, which is shown this once."""

    key: str | Absent = None


class RevokedAccountKey(AccountKeyObject):
    """The same with the number of keys that went with it, where those were asked for."""

    made_revoked: int | Absent = None


class AccountKeyPage(Page[AccountKeyObject]):
    """Keys, the newest first."""


class AccountKeysDoor:
    def __init__(
        self,
        keys: KeyRing,
        mint: Mint,
        idempotency: Idempotency,
        objects: KeyObjects,
        desks: Desks,
        now_ms: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._mint = mint
        self._idempotency = idempotency
        self._objects = objects
        self._desks = desks
        self._now_ms = now_ms

    async def list(self, asked: Asked[AccountKeysQuery, Nothing]) -> AccountKeyPage:
        query = asked.query
        found = await self._keys.any_page(
            query.account_id,
            before_id=query.cursor,
            limit=query.limit + 1,
            state=query.state,
            key_id=query.key_id,
            beginning=query.prefix,
        )
        by_account = defaultdict[str, list[Key]](list)
        for key in found[: query.limit]:
            by_account[key.account_id].append(key)
        standings = dict[str, KeyStanding]()
        for account_id, keys in by_account.items():
            standings.update(await self._objects.standings(account_id, keys))
        return page_of(
            AccountKeyPage,
            found,
            query.limit,
            lambda key: key.id,
            lambda key: AccountKeyObject(**self._fields(key, standings[key.id])),
        )

    async def get(self, asked: Asked[Query, Nothing]) -> AccountKeyObject:
        return await self._told(await self._keys.get(asked.path["key_id"]))

    async def create(self, asked: Asked[Query, NewAccountKey]) -> CreatedAccountKey | Answered[CreatedAccountKey]:
        wanted, once = self._wanted(asked.body), own_idempotency_key(asked)
        async with self._idempotency.answering(wanted.account_id, once, "admin/keys", asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            made = await self._mint.give(
                desk_for(self._desks, asked).keys,
                wanted,
                lambda key, budgets: request.answered(201, self._fields(key, KeyStanding(budgets))),
            )
            return CreatedAccountKey(**self._fields(made.key, KeyStanding(made.budgets)), key=made.raw)

    async def change(self, asked: Asked[Query, AccountKeyChange]) -> AccountKeyObject:
        body, desk = asked.body, desk_for(self._desks, asked)
        key = await self._keys.get(asked.path["key_id"])
        budgets = _further(key, body.add_budgets or ())
        routing = routing_of(body)
        _check_models(routing.get("model_pool") or (), "model_pool")
        if body.model_fields_set - {"add_budgets"}:
            await desk.keys.change(
                key.id,
                name=body.name,
                limits=own_limits_in(body),
                group=body.group,
                may_mint_over_mcp=body.mint_over_mcp,
                mcp_servers=body.mcp_servers,
                offers_mcp_tools=body.offer_mcp_tools,
                routing=routing,
                particulars=particulars_of(body),
            )
        if budgets:
            await desk.store.write(MakeBudgets(budgets))
        return await self._told(await self._keys.get(key.id))

    async def rotate(self, asked: Asked[Query, Rotation]) -> CreatedAccountKey | Answered[CreatedAccountKey]:
        key = await self._keys.get(asked.path["key_id"])
        standing = await self._objects.standing(key)
        name, once = f"admin/keys/{key.id}/rotate", own_idempotency_key(asked)
        async with self._idempotency.answering(key.account_id, once, name, asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            rotated, raw = await desk_for(self._desks, asked).keys.rotate(
                key.id,
                asked.body.expires_old_in_s * 1000,
                lambda rotated: request.answered(200, self._fields(rotated, standing)),
            )
            return CreatedAccountKey(**self._fields(rotated, standing), key=raw)

    async def revoke(self, asked: Asked[RevokeQuery, Nothing]) -> RevokedAccountKey:
        key_id, keys = asked.path["key_id"], desk_for(self._desks, asked).keys
        standing = await self._objects.standing(await self._keys.get(key_id))  # of budgets that may end with it
        if not asked.query.with_made:
            return RevokedAccountKey(**self._fields(await keys.revoke(key_id), standing))
        key, made_count = await keys.revoke_with_made(key_id)
        return RevokedAccountKey(**self._fields(key, standing), made_revoked=made_count)

    def _wanted(self, body: NewAccountKey) -> KeyForAccount:
        """Raises GatewayError `invalid_value` for what is no amount, no time or no model's id."""
        end, routing = end_of(body, self._now_ms()), routing_of(body)
        _check_models(body.models or (), "models")
        _check_models(routing.get("model_pool") or (), "model_pool")
        return KeyForAccount(
            account_id=body.account_id,
            name=body.name or "",
            is_test=body.test or False,
            limits=OwnLimits(**own_limits_in(body)),
            scopes=body.scopes,
            expires_at_ms=None if end is None else end.at_ms,
            models=body.models,
            budgets=budgets_of(body.budgets or ()),
            group=body.group,
            may_mint_over_mcp=body.mint_over_mcp or False,
            mcp_servers=body.mcp_servers or (),
            offers_mcp_tools=body.offer_mcp_tools or False,
            routing=RoutingDefaults(**routing),
            particulars=Particulars(**particulars_of(body)),
        )

    async def _told(self, key: Key) -> AccountKeyObject:
        return AccountKeyObject(**self._fields(key, await self._objects.standing(key)))

    def _fields(self, key: Key, standing: KeyStanding) -> dict[str, Any]:
        return self._objects.fields(key, standing) | {
            "account_id": key.account_id,
            "state": key.state_at(self._now_ms()),
            "limits": key.limits.as_object(),
        }


def _further(key: Key, asked: Sequence[NewBudget]) -> tuple[Budget, ...]:
    """Budgets beside those that a key has. Raises GatewayError `invalid_value`, for a lease too."""
    for number, one in enumerate(asked):
        if one.lease:
            param = f"add_budgets.{number}.lease"
            raise GatewayError("invalid_value", "A lease is given to a new key alone.", param=param)
    wanted = budgets_of(asked, "add_budgets")
    return tuple(Budget(new_id("bud"), key.account_id, key.id, one.amount_nano, one.window) for one in wanted)


def _check_models(names: Sequence[str], param: str) -> None:
    """Raises GatewayError `invalid_value` for what is no id of a model, whether there is such a one now or not."""
    if not all(name and is_model_id(name) and is_one_line(name) for name in names):
        raise GatewayError("invalid_value", f"`{param}` takes ids of models.", param=param)
