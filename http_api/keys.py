"""GET, POST, PATCH and DELETE /keys: a caller's own account's keys; no key may do more than the one that made it."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from http_api.idempotency import idempotency_key_of, replayed
from http_api.key_objects import CreatedKey, KeyObject, KeyObjects, KeyPage, KeyStanding, RevokedKey
from http_api.operations import Answered, Asked, Nothing
from http_api.paging import PageQuery, cursor_key, page_of
from http_api.query import Query
from mcp_gateway.core.caller import SCOPES, SERVER_LABEL, Caller, KeyScope
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency
from mcp_gateway.core.identity.authenticator import Authenticator
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import MAX_KEPT_S, Key, State
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES
from mcp_gateway.core.identity.particulars import MAX_NOTE_CHARS, ParticularsChange, check_networks
from mcp_gateway.core.key_pools import named_pool
from mcp_gateway.core.ledger.budgets import BudgetWindow
from mcp_gateway.core.minting import (
    MAX_BUDGETS,
    MAX_MODELS,
    MAX_NAME_CHARS,
    Mint,
    WantedBudget,
    WantedEnd,
    WantedKey,
    budget_amount,
)
from mcp_gateway.core.moments import unix_ms
from mcp_gateway.core.networks import MAX_NETWORKS, networks_of
from mcp_gateway.core.optimization import MAX_POOL_NAMES, RoutingChange, mode_named
from mcp_gateway.core.tags import MAX_TAG_CHARS, MAX_TAGS, tags_of
from mcp_gateway.core.text import shown

_Limit = Annotated[int, Field(ge=1, le=2**53 - 1)]
"""Up to the largest number that every reader of JSON takes exactly (RFC 8259, 6); the database holds more."""

ModelName = Annotated[str, Field(max_length=1000)]
_Network = Annotated[str, Field(min_length=2, max_length=60)]
_Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS)]
ServerLabel = Annotated[str, Field(pattern=rf"^(\*|{SERVER_LABEL.pattern})$")]

_MOST_NAMES = 1000


class KeysQuery(PageQuery):
    cursor: Annotated[str | None, cursor_key(re.compile(r"key_[0-9a-z]+"))] = None
    state: State | None = None


class SaidOfKey(BaseModel):
    """What may be said of a key at any time."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    model_pool: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_POOL_NAMES)] | None = None
    optimize_mode: Annotated[str, Field(max_length=100)] | None = None
    routing_event: bool | None = None
    networks: Annotated[list[_Network], Field(min_length=1, max_length=MAX_NETWORKS)] | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE_CHARS)] | None = None
    tags: Annotated[list[_Tag], Field(max_length=MAX_TAGS)] | None = None


class KeyChange(SaidOfKey):
    """What PATCH takes; what is left out stays as it is.

    `null` clears a pool, a mode, that an event is told, networks, a note and tags.
    """

    requests_per_minute: _Limit | None = None
    requests_per_day: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    in_flight: _Limit | None = None


class NewBudget(BaseModel):
    """What a new key may spend in each window of time, with whatever it makes.

    A lease is set aside at once, from the budgets above and from the wallet, and what is left returns with its end.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    amount_usd: Annotated[str, Field(max_length=40)]
    window: BudgetWindow
    lease: bool = False


class GivenToKey(BaseModel):
    """What a key is made with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    test: bool | None = None
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=len(SCOPES))] | None = None
    expires_at: int | str | None = None
    expires_in_s: Annotated[int, Field(ge=1, le=10**9)] | None = None
    models: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_MODELS)] | None = None
    mcp_servers: Annotated[list[ServerLabel], Field(max_length=MAX_MODELS)] | None = None
    offer_mcp_tools: bool | None = None
    budgets: Annotated[list[NewBudget], Field(max_length=MAX_BUDGETS)] | None = None
    mint_over_mcp: bool | None = None


class NewKey(KeyChange, GivenToKey):
    """What POST takes.

    Limits, scopes, models, routing, networks, tags and the end are those of the key that asks, where left out.
    """


class Rotation(BaseModel):
    """What a rotation takes: for how long the secret that the key has is still of use; 0 for not at all."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_old_in_s: Annotated[int, Field(ge=0, le=MAX_KEPT_S)]


class RevokeQuery(Query):
    """What DELETE takes."""

    with_made: bool = False


class Keys:
    def __init__(
        self,
        keys: KeyRing,
        mint: Mint,
        authenticator: Authenticator,
        idempotency: Idempotency,
        objects: KeyObjects,
        published: Published,
        now_ms: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._mint = mint
        self._objects = objects
        self._published = published
        self._now_ms = now_ms
        self._idempotency = idempotency
        self._authenticator = authenticator

    async def list(self, asked: Asked[KeysQuery, Nothing]) -> KeyPage:
        query = asked.query
        found = await self._keys.page(
            asked.caller.account_id,
            before_id=query.cursor,
            limit=query.limit + 1,
            state=query.state,
            within=asked.caller.within,
        )
        standings = await self._objects.standings(asked.caller.account_id, found)
        return page_of(
            KeyPage,
            found,
            query.limit,
            lambda key: key.id,
            lambda key: KeyObject(**self._objects.fields(key, standings[key.id])),
        )

    async def names(self, asked: Asked[Any, Any]) -> dict[str, str]:
        """What the keys that `list` would tell of are called, by id: of the thousand that were made last."""
        return await self._keys.names(asked.about.account_id, most=_MOST_NAMES, within=asked.about.within)

    async def get(self, asked: Asked[Query, Nothing]) -> KeyObject:
        return await self._told(await self._own_key(asked))

    async def create(self, asked: Asked[Query, NewKey]) -> CreatedKey | Answered[CreatedKey]:
        caller, wanted = asked.caller, self._wanted(asked.body)
        idempotency_key = idempotency_key_of(asked)
        async with self._idempotency.answering(caller.account_id, idempotency_key, "keys", asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            made = await self._mint.make(
                caller,
                wanted,
                lambda key, budgets: request.answered(201, self._objects.fields(key, KeyStanding(budgets))),
            )
            return CreatedKey(**self._objects.fields(made.key, KeyStanding(made.budgets)), key=made.raw)

    async def change(self, asked: Asked[Query, KeyChange]) -> KeyObject:
        key = await self._own_key(asked)
        routing = routing_of(asked.body)
        if pool := routing.get("model_pool"):
            routing["model_pool"] = named_pool(pool, self._published, key.models)
        particulars = particulars_of(asked.body)
        if "networks" in particulars:
            check_networks(particulars["networks"], asked.caller.networks, "This API key")
        changed = await self._keys.change(
            key.id,
            name=asked.body.name,
            limits=_limits_of(asked.body),
            lowered_from=self._authenticator.defaults,
            routing=routing,
            particulars=particulars,
        )
        return await self._told(changed)

    async def rotate(self, asked: Asked[Query, Rotation]) -> CreatedKey | Answered[CreatedKey]:
        """Any key may rotate itself; with the scope `manage` those that may no more than itself."""
        key_id = asked.path["key_id"]
        if key_id != asked.caller.key_id and not asked.caller.may("manage"):
            raise _unknown(key_id)
        key = await self._own_key(asked)
        standing = await self._objects.standing(key)
        name, once = f"keys/{key.id}/rotate", idempotency_key_of(asked)
        async with self._idempotency.answering(key.account_id, once, name, asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            await self._mint.check_may_take(asked.caller, key, self._authenticator.allowance_of(key.limits))
            rotated, raw = await self._keys.rotate(
                key.id,
                asked.body.expires_old_in_s * 1000,
                lambda rotated: request.answered(200, self._objects.fields(rotated, standing)),
            )
            return CreatedKey(**self._objects.fields(rotated, standing), key=raw)

    async def revoke(self, asked: Asked[RevokeQuery, Nothing]) -> RevokedKey:
        key = await self._own_key(asked)
        standing = await self._objects.standing(key)  # of budgets that may end with it
        if not asked.query.with_made:
            return RevokedKey(**self._objects.fields(await self._keys.revoke(key.id), standing))
        key, made_count = await self._keys.revoke_with_made(key.id)
        return RevokedKey(**self._objects.fields(key, standing), made_revoked=made_count)

    def _wanted(self, asked: NewKey) -> WantedKey:
        """Raises GatewayError `invalid_value` for what is no amount or no time."""
        return WantedKey(
            name=asked.name or "",
            is_test=asked.test or False,
            limits=_limits_of(asked),
            scopes=asked.scopes,
            end=end_of(asked, self._now_ms()),
            models=asked.models,
            mcp_servers=asked.mcp_servers,
            offers_mcp_tools=asked.offer_mcp_tools,
            routing=routing_of(asked),
            particulars=particulars_of(asked),
            budgets=budgets_of(asked.budgets or ()),
            may_mint_over_mcp=asked.mint_over_mcp or False,
        )

    async def _own_key(self, asked: Asked[Any, Any]) -> Key:
        key_id = asked.path["key_id"]
        key = await self._keys.get(key_id)
        if not _may_see(asked.caller, key):
            raise _unknown(key_id)
        return key

    async def _told(self, key: Key) -> KeyObject:
        return KeyObject(**self._objects.fields(key, await self._objects.standing(key)))


def _unknown(key_id: str) -> GatewayError:
    return GatewayError("not_found", f"There is no key '{shown(key_id)}'.")


def _may_see(caller: Caller, key: Key) -> bool:
    """A key that was minted sees itself and what it has made; any other, and a person, all of their account."""
    if caller.is_minted:
        return caller.key_id in (key.id, *(maker.key_id for maker in key.makers))
    return caller.account_id == key.account_id


def _limits_of(asked: KeyChange) -> dict[str, int]:
    """The limits that are asked for, by name."""
    named = ((name, getattr(asked, name)) for name in LIMIT_NAMES)
    return {name: limit for name, limit in named if limit is not None}


def routing_of(asked: SaidOfKey) -> RoutingChange:
    """What is said of the choice of models. Raises GatewayError `invalid_value` for what is no mode."""
    change = RoutingChange()
    if "model_pool" in asked.model_fields_set:
        change["model_pool"] = None if asked.model_pool is None else tuple(asked.model_pool)
    if "optimize_mode" in asked.model_fields_set:
        mode = asked.optimize_mode
        change["mode"] = None if mode is None else mode_named(mode, "optimize_mode")
    if "routing_event" in asked.model_fields_set:
        change["tells_event"] = asked.routing_event or False
    return change


def particulars_of(asked: SaidOfKey) -> ParticularsChange:
    """Raises GatewayError `invalid_value` for what is no network or no tag."""
    change = ParticularsChange()
    named = asked.model_fields_set
    try:
        if param := "networks" if "networks" in named else "":
            change["networks"] = None if asked.networks is None else networks_of(asked.networks)
        if param := "note" if "note" in named else "":
            change["note"] = asked.note or None
        if param := "tags" if "tags" in named else "":
            change["tags"] = tags_of(asked.tags or ())
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`{param}`: {fault}.", param=param) from None
    return change


def budgets_of(asked: Sequence[NewBudget], param: str = "budgets") -> list[WantedBudget]:
    """Raises GatewayError `invalid_value` for what is no amount."""
    return [
        WantedBudget(budget_amount(one.amount_usd, f"{param}.{number}.amount_usd"), one.window, one.lease)
        for number, one in enumerate(asked)
    ]


def end_of(asked: GivenToKey, now_ms: int) -> WantedEnd | None:
    """When a new key is to expire, by the name under which that is asked for."""
    if asked.expires_at is None and asked.expires_in_s is None:
        return None
    return WantedEnd(_time_asked(asked, now_ms), "expires_at" if asked.expires_in_s is None else "expires_in_s")


def _time_asked(asked: GivenToKey, now_ms: int) -> int:
    """Unix milliseconds. Raises GatewayError `invalid_value`."""
    if asked.expires_in_s is not None:
        if asked.expires_at is not None:
            raise GatewayError("invalid_value", "Say `expires_at` or `expires_in_s`, not both.", param="expires_in_s")
        return now_ms + asked.expires_in_s * 1000
    try:
        return unix_ms(str(asked.expires_at))
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`expires_at` {fault}.", param="expires_at") from None
