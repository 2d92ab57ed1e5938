"""What is told of a key: never the key itself; its limits as they are in force, what it has used, and its budgets."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from http_api.operations import Absent, Told
from http_api.paging import Page
from mcp_gateway.core.caller import SCOPES, KeyScope
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.identity.authenticator import Authenticator
from mcp_gateway.core.identity.keys import Key
from mcp_gateway.core.identity.oauth.redirects import host_of
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES
from mcp_gateway.core.key_pools import gone_from
from mcp_gateway.core.ledger.budgets import BudgetObject, BudgetStanding
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.observe.history import UNUSED, History, KeyUse
from mcp_gateway.core.optimization import Mode


class KeyGrantObject(Told):
    """A program that somebody has let in by a browser: what it calls itself, and the host where it is answered."""

    client_id: str
    client_name: str
    host: str


class KeyObject(Told):
    """A key as its account sees it: never the key itself. Times in Unix seconds, limits as they are in force.

    `model_pool_gone` are the names of its pool that are no model which it may ask for, or not any more. Where it sets
    no `networks` they are those of the nearest key that made it and sets some; null for anywhere. Secrets
    that another has replaced are of use until `old_expires_at`; null where none is. `last_used_at` is the hour of its
    last request for inference, and `spent_usd` what all of them cost, without those of the keys that it made. `grant`
    is there for a key that a program was let in by (OAuth), which has no secret but the tokens that the program gets.
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
    grant: KeyGrantObject | None


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


class KeyObjects:
    """Makes them, for whoever asks."""

    def __init__(
        self,
        authenticator: Authenticator,
        ledger: Ledger,
        history: History,
        published: Published,
        now_ms: Callable[[], int],
    ) -> None:
        self._authenticator = authenticator
        self._ledger = ledger
        self._history = history
        self._published = published
        self._now_ms = now_ms

    async def standing(self, key: Key) -> KeyStanding:
        """Of one key: no report, since a key may have to be ended while one is running."""
        budgets = await self._budgets(key.account_id, [key])
        return KeyStanding(budgets[key.id], await self._history.use(key.account_id, key.id))

    async def standings(self, account_id: str, keys: Sequence[Key]) -> Mapping[str, KeyStanding]:
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

    def fields(self, key: Key, standing: KeyStanding) -> dict[str, Any]:
        """Of a KeyObject."""
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
            "grant": _grant(key),
        }


def _grant(key: Key) -> dict[str, str] | None:
    grant = key.grant
    if grant is None:
        return None
    return {
        "client_id": grant.client_id,
        "client_name": grant.client_name,
        "host": host_of(grant.redirect_uri),
    }


def _seconds(at_ms: int | None) -> int | None:
    return None if at_ms is None else at_ms // 1000
