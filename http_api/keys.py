"""GET, POST, PATCH and DELETE /keys: a caller's own account's keys; no key may do more than the one that made it."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from http_api.idempotency import idempotency_key_of, replayed
from http_api.operations import Absent, Answered, Asked, Nothing, Told
from http_api.paging import Page, PageQuery, cursor_key, page_of
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
from mcp_gateway.core.key_pools import gone_from, named_pool
from mcp_gateway.core.ledger.budgets import BudgetObject, BudgetStanding, BudgetWindow
from mcp_gateway.core.ledger.ledger import Ledger
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
from mcp_gateway.core.observe.history import UNUSED, History, KeyUse
from mcp_gateway.core.optimization import MAX_POOL_NAMES, Mode, RoutingChange, mode_named
from mcp_gateway.core.tags import MAX_TAG_CHARS, MAX_TAGS, tags_of
from mcp_gateway.core.text import shown

_Limit = Annotated[int, Field(ge=1, le=2**53 - 1)]
"""Up to the largest number that every reader of JSON takes exactly (RFC 8259, 6); the database holds more."""

_ModelName = Annotated[str, Field(max_length=1000)]
_Network = Annotated[str, Field(min_length=2, max_length=60)]
_Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS)]
_ServerLabel = Annotated[str, Field(pattern=rf"^(\*|{SERVER_LABEL.pattern})$")]


class KeysQuery(PageQuery):
    cursor: Annotated[str | None, cursor_key(re.compile(r"key_[0-9a-z]+"))] = None
    state: State | None = None


class KeyChange(BaseModel):
    """What PATCH takes; what is left out stays as it is.

    `null` clears a pool, a mode, that an event is told, networks, a note and tags.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    requests_per_minute: _Limit | None = None
    requests_per_day: _Limit | None = None
    tokens_per_minute: _Limit | None = None
    in_flight: _Limit | None = None
    model_pool: Annotated[list[_ModelName], Field(min_length=1, max_length=MAX_POOL_NAMES)] | None = None
    optimize_mode: Annotated[str, Field(max_length=100)] | None = None
    routing_event: bool | None = None
    networks: Annotated[list[_Network], Field(min_length=1, max_length=MAX_NETWORKS)] | None = None
    note: Annotated[str, Field(max_length=MAX_NOTE_CHARS)] | None = None
    tags: Annotated[list[_Tag], Field(max_length=MAX_TAGS)] | None = None


class NewBudget(BaseModel):
    """What a new key may spend in each window of time, with whatever it makes.

    A lease is set aside at once, from the budgets above and from the wallet, and what is left returns with its end.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    amount_usd: Annotated[str, Field(max_length=40)]
    window: BudgetWindow
    lease: bool = False


class NewKey(KeyChange):
    """What POST takes.

    Limits, scopes, models, routing, networks, tags and the end are those of the key that asks, where left out.
    """

    test: bool | None = None
    scopes: Annotated[list[KeyScope], Field(min_length=1, max_length=len(SCOPES))] | None = None
    expires_at: int | str | None = None
    expires_in_s: Annotated[int, Field(ge=1, le=10**9)] | None = None
    models: Annotated[list[_ModelName], Field(min_length=1, max_length=MAX_MODELS)] | None = None
    mcp_servers: Annotated[list[_ServerLabel], Field(max_length=MAX_MODELS)] | None = None
    offer_mcp_tools: bool | None = None
    budgets: Annotated[list[NewBudget], Field(max_length=MAX_BUDGETS)] | None = None
    mint_over_mcp: bool | None = None


class Rotation(BaseModel):
    """What a rotation takes: for how long the secret that the key has is still of use; 0 for not at all."""

    model_config = ConfigDict(extra="forbid", strict=True)

    expires_old_in_s: Annotated[int, Field(ge=0, le=MAX_KEPT_S)]


class RevokeQuery(Query):
    """What DELETE takes."""

    with_made: bool = False


class KeyObject(Told):
    """A key as its account sees it: never the key itself. Times in Unix seconds, limits as they are in force.

    `model_pool_gone` are the names of its pool that are no model which it may ask for, or not any more. Where it sets
    no `networks` they are those of the nearest key that made it and sets some; null for anywhere. Secrets
    that another has replaced are of use until `old_expires_at`; null where none is. `last_used_at` is the hour of its
    last request for inference, and `spent_usd` what all of them cost, without those of the keys that it made.
    """

    object: Literal["key"]
    id: str
    prefix: str
    name: str
    test: bool
    created_at: int
    revoked_at: int | None
    expires_at: int | None
    made_by: str | None
    old_expires_at: int | None
    group: str | None
    models: list[str] | None
    mcp_servers: list[str]
    offer_mcp_tools: bool
    model_pool: list[str] | None
    optimize_mode: Mode | None
    routing_event: bool
    model_pool_gone: list[str]
    networks: list[str] | None
    note: str | None
    tags: list[str]
    scopes: list[KeyScope]
    mint_over_mcp: bool
    requests_per_minute: int | None
    requests_per_day: int | None
    tokens_per_minute: int | None
    in_flight: int | None
    last_used_at: int | None
    spent_usd: str
    budgets: list[BudgetObject]


class CreatedKey(KeyObject):
    """The same with the key, which is shown this once."""

    key: str | Absent = None


class RevokedKey(KeyObject):
    """The same with the number of keys that went with it, where those were asked for."""

    made_revoked: int | Absent = None


class KeyPage(Page[KeyObject]):
    """Keys, the newest first."""


class KeyStanding(NamedTuple):
    """What a key has used, and its budgets with those of its group."""

    budgets: Sequence[BudgetStanding]
    use: KeyUse = UNUSED


class Keys:
    def __init__(
        self,
        keys: KeyRing,
        mint: Mint,
        authenticator: Authenticator,
        idempotency: Idempotency,
        ledger: Ledger,
        history: History,
        published: Published,
        now_ms: Callable[[], int],
    ) -> None:
        self._keys = keys
        self._mint = mint
        self._ledger = ledger
        self._history = history
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
        standings = await self._standings(asked.caller.account_id, found)
        return page_of(
            KeyPage,
            found,
            query.limit,
            lambda key: key.id,
            lambda key: KeyObject(**self._fields(key, standings[key.id])),
        )

    async def get(self, asked: Asked[Query, Nothing]) -> KeyObject:
        return await self._told(await self._own_key(asked))

    async def create(self, asked: Asked[Query, NewKey]) -> CreatedKey | Answered[CreatedKey]:
        caller, wanted = asked.caller, self._wanted(asked.body)
        idempotency_key = idempotency_key_of(asked)
        async with self._idempotency.answering(caller.account_id, idempotency_key, "keys", asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            made = await self._mint.make(
                caller, wanted, lambda key, budgets: request.answered(201, self._fields(key, KeyStanding(budgets)))
            )
            return CreatedKey(**self._fields(made.key, KeyStanding(made.budgets)), key=made.raw)

    async def change(self, asked: Asked[Query, KeyChange]) -> KeyObject:
        key = await self._own_key(asked)
        routing = _routing_of(asked.body)
        if pool := routing.get("model_pool"):
            routing["model_pool"] = named_pool(pool, self._published, key.models)
        particulars = _particulars_of(asked.body)
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
        standing = await self._standing(key)
        name, once = f"keys/{key.id}/rotate", idempotency_key_of(asked)
        async with self._idempotency.answering(key.account_id, once, name, asked.raw) as request:
            if request.kept is not None:
                return replayed(request.kept)
            await self._mint.check_may_take(asked.caller, key, self._authenticator.allowance_of(key.limits))
            rotated, raw = await self._keys.rotate(
                key.id,
                asked.body.expires_old_in_s * 1000,
                lambda rotated: request.answered(200, self._fields(rotated, standing)),
            )
            return CreatedKey(**self._fields(rotated, standing), key=raw)

    async def revoke(self, asked: Asked[RevokeQuery, Nothing]) -> RevokedKey:
        key = await self._own_key(asked)
        standing = await self._standing(key)  # of budgets that may end with it
        if not asked.query.with_made:
            return RevokedKey(**self._fields(await self._keys.revoke(key.id), standing))
        key, made_count = await self._keys.revoke_with_made(key.id)
        return RevokedKey(**self._fields(key, standing), made_revoked=made_count)

    def _wanted(self, asked: NewKey) -> WantedKey:
        """Raises GatewayError `invalid_value` for what is no amount or no time."""
        return WantedKey(
            name=asked.name or "",
            is_test=asked.test or False,
            limits=_limits_of(asked),
            scopes=asked.scopes,
            end=_end_of(asked, self._now_ms()),
            models=asked.models,
            mcp_servers=asked.mcp_servers,
            offers_mcp_tools=asked.offer_mcp_tools,
            routing=_routing_of(asked),
            particulars=_particulars_of(asked),
            budgets=[
                WantedBudget(budget_amount(one.amount_usd, f"budgets.{number}.amount_usd"), one.window, one.lease)
                for number, one in enumerate(asked.budgets or ())
            ],
            may_mint_over_mcp=asked.mint_over_mcp or False,
        )

    async def _own_key(self, asked: Asked[Any, Any]) -> Key:
        key_id = asked.path["key_id"]
        key = await self._keys.get(key_id)
        if not _may_see(asked.caller, key):
            raise _unknown(key_id)
        return key

    async def _told(self, key: Key) -> KeyObject:
        return KeyObject(**self._fields(key, await self._standing(key)))

    async def _standing(self, key: Key) -> KeyStanding:
        """Of one key: no report, since a key may have to be ended while one is running."""
        budgets = await self._budgets(key.account_id, [key])
        return KeyStanding(budgets[key.id], await self._history.use(key.account_id, key.id))

    async def _standings(self, account_id: str, keys: Sequence[Key]) -> Mapping[str, KeyStanding]:
        """Of each of these keys, by its id."""
        budgets = await self._budgets(account_id, keys)
        uses = await self._history.uses(account_id, [key.id for key in keys])
        return {key.id: KeyStanding(budgets[key.id], uses[key.id]) for key in keys}

    async def _budgets(self, account_id: str, keys: Sequence[Key]) -> Mapping[str, Sequence[BudgetStanding]]:
        """Of each of these keys, by its id, and of its group."""
        held = defaultdict[str, list[BudgetStanding]](list)
        holders = {holder for key in keys for holder in (key.id, key.group_id) if holder is not None}
        for one in await self._ledger.budgets_held_by(account_id, holders):
            held[one.budget.holder].append(one)
        return {key.id: [*held[key.id], *held[key.group_id or ""]] for key in keys}

    def _fields(self, key: Key, standing: KeyStanding) -> dict[str, Any]:
        allowance = self._authenticator.allowance_of(key.limits)
        return {
            "object": "key",
            "id": key.id,
            "prefix": key.prefix,
            "name": key.name,
            "test": key.is_test,
            "created_at": key.created_at_ms // 1000,
            "revoked_at": _seconds(key.revoked_at_ms),
            "expires_at": _seconds(key.expires_at_ms),
            "made_by": key.made_by,
            "old_expires_at": _seconds(key.replaced_until_ms) if key.is_replaced_one_valid_at(self._now_ms()) else None,
            "group": key.group,
            "models": None if key.models is None else sorted(key.models),
            "mcp_servers": sorted(key.mcp_servers),
            "offer_mcp_tools": key.offers_mcp_tools,
            **key.routing.as_object(),
            "model_pool_gone": gone_from(key.routing.model_pool or (), self._published, key.models),
            **key.particulars_told(),
            "scopes": [scope for scope in SCOPES if scope in key.scopes],
            "mint_over_mcp": key.may_mint_over_mcp,
            **{name: getattr(allowance, name) for name in LIMIT_NAMES},
            **standing.use.as_object(),
            "budgets": [one.as_object().model_dump() for one in standing.budgets],
        }


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


def _routing_of(asked: KeyChange) -> RoutingChange:
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


def _particulars_of(asked: KeyChange) -> ParticularsChange:
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


def _end_of(asked: NewKey, now_ms: int) -> WantedEnd | None:
    """When a new key is to expire, by the name under which that is asked for."""
    if asked.expires_at is None and asked.expires_in_s is None:
        return None
    return WantedEnd(_time_asked(asked, now_ms), "expires_at" if asked.expires_in_s is None else "expires_in_s")


def _time_asked(asked: NewKey, now_ms: int) -> int:
    """Unix milliseconds. Raises GatewayError `invalid_value`."""
    if asked.expires_in_s is not None:
        if asked.expires_at is not None:
            raise GatewayError("invalid_value", "Say `expires_at` or `expires_in_s`, not both.", param="expires_in_s")
        return now_ms + asked.expires_in_s * 1000
    try:
        return unix_ms(str(asked.expires_at))
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`expires_at` {fault}.", param="expires_at") from None


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000
