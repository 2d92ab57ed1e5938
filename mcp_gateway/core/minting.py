"""Keys that keys make, by whichever door it is asked for: within what their maker may, and with budgets of their own.

Meets identity, the ledger and the catalog, which do not know each other. Knows neither door.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import NamedTuple

from mcp_gateway.core.caller import SCOPES, Allowance, Caller, KeyScope, User, lacking_right, lacking_scope
from mcp_gateway.core.catalog import Published
from mcp_gateway.core.engine import Write
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import TEST_SCOPES, Key, check_lowered, check_servers, servers_within
from mcp_gateway.core.identity.own_limits import LIMIT_NAMES, OwnLimits
from mcp_gateway.core.identity.particulars import Particulars, ParticularsChange, check_networks
from mcp_gateway.core.identity.people import NoteMadeBy
from mcp_gateway.core.key_pools import gone_from, named_pool
from mcp_gateway.core.ledger.budgets import Budget, BudgetStanding, BudgetWindow, MakeBudgets
from mcp_gateway.core.ledger.leases import Leases
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.networks import are_within
from mcp_gateway.core.optimization import RoutingChange, RoutingDefaults
from mcp_gateway.core.text import shown

MAX_NAME_CHARS = 200
MAX_MODELS = 100
MAX_BUDGETS = 8
"""Of one new key."""


class WantedBudget(NamedTuple):
    """What a new key may spend in each window, with whatever it makes."""

    amount_nano: int
    window: BudgetWindow
    is_lease: bool = False
    """Set aside at once; it ends with the key."""


class WantedEnd(NamedTuple):
    """When a new key expires; `param` is what whoever asks calls it."""

    at_ms: int
    param: str


@dataclass(frozen=True, slots=True)
class WantedKey:
    """What is asked for.

    Limits, scopes, models, servers, routing, networks, tags and the end are the maker's where left out.
    """

    name: str = ""
    is_test: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)
    scopes: Collection[KeyScope] | None = None
    end: WantedEnd | None = None
    models: Sequence[str] | None = None
    budgets: Sequence[WantedBudget] = ()
    may_mint_over_mcp: bool = False
    mcp_servers: Collection[str] | None = None
    offers_mcp_tools: bool | None = None
    routing: RoutingChange = field(default_factory=RoutingChange)
    particulars: ParticularsChange = field(default_factory=ParticularsChange)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyForAccount:
    """What the operator gives a key of an account: nothing bounds it but what is said here."""

    account_id: str
    name: str
    is_test: bool
    limits: OwnLimits
    scopes: Collection[KeyScope] | None
    expires_at_ms: int | None
    models: Collection[str] | None
    budgets: Sequence[WantedBudget]
    group: str | None
    may_mint_over_mcp: bool
    mcp_servers: Collection[str]
    offers_mcp_tools: bool
    routing: RoutingDefaults
    particulars: Particulars


class MintedKey(NamedTuple):
    """A new key with its budgets; `raw` is the key itself, which is not kept."""

    key: Key
    raw: str
    budgets: Sequence[BudgetStanding]


class Mint:
    """Makes keys for callers with the scope `manage`, be they keys or people."""

    def __init__(
        self, keys: KeyRing, ledger: Ledger, leases: Leases, published: Published, new_id: Callable[[str], str]
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._leases = leases
        self._published = published
        self._new_id = new_id

    async def make(
        self,
        caller: Caller,
        wanted: WantedKey,
        keep: Callable[[Key, Sequence[BudgetStanding]], Write[None] | None],
        and_then: Callable[[Key], Sequence[Write[None]]] = lambda _: (),
    ) -> MintedKey:
        """A key that the caller's has made, with its budgets and with what `keep` makes of both, in one transaction.

        What `and_then` makes of it is written behind the key there. Raises GatewayError as KeyRing.create, and for what
        the caller's key may not do itself: `insufficient_scope`, `insufficient_permissions`, `model_not_found`; for a
        lease as Leases.make.
        """
        caller.check_secret_is_current()
        maker = await self._maker_for(caller)
        check_lowered(caller.allowance, wanted.limits)
        scopes = _granted(maker, wanted.scopes, is_test=wanted.is_test)
        if wanted.may_mint_over_mcp and not maker.may_mint_over_mcp:
            raise lacking_right("mint_over_mcp")
        expires_at_ms = _ending(maker, wanted.end)
        models = maker.models if wanted.models is None else self._models_of(caller, wanted.models)
        routing = self._routing_of(maker, wanted, models)
        mcp_servers = maker.mcp_servers if wanted.mcp_servers is None else frozenset(wanted.mcp_servers)
        check_servers(mcp_servers, maker.mcp_servers, "This API key")
        particulars = _particulars_of(maker, wanted.particulars)
        if wanted.budgets:
            await self._ledger.budgets_held_by(maker.account_id, ())  # so that its zone is known
        key_id = self._new_id("key")
        budgets = self._budgets(maker.account_id, key_id, wanted.budgets, expires_at_ms)
        standings = [self._ledger.new_budget(budget) for budget in budgets]
        above = () if caller.key_id is None else tuple(maker.holders)

        async def create(decided: MakeBudgets) -> MintedKey:
            key, raw = await self._keys.create(
                maker.account_id,
                name=wanted.name,
                is_test=wanted.is_test,
                limits=replace(maker.limits, **wanted.limits),
                scopes=scopes,
                expires_at_ms=expires_at_ms,
                made_by=caller.key_id,
                models=models,
                has_budget=bool(budgets),
                may_mint_over_mcp=wanted.may_mint_over_mcp,
                mcp_servers=mcp_servers,
                offers_mcp_tools=maker.offers_mcp_tools if wanted.offers_mcp_tools is None else wanted.offers_mcp_tools,
                routing=routing,
                particulars=particulars,
                key_id=key_id,
                keep=lambda key: keep(key, standings),
                and_then=lambda key: [decided, *_notes_of(caller, key), *and_then(key)],
            )
            return MintedKey(key, raw, standings)

        try:
            return await self._leases.make(MakeBudgets(budgets, above=above), create)
        except GatewayError as refusal:
            if wanted.end is None or refusal.param != "expires_at":
                raise
            raise GatewayError(refusal.code, refusal.message, param=wanted.end.param) from None

    async def give(
        self,
        keys: KeyRing,
        wanted: KeyForAccount,
        keep: Callable[[Key, Sequence[BudgetStanding]], Write[None] | None],
    ) -> MintedKey:
        """A key that the operator makes, through a ring that notes that; with its budgets, in one transaction.

        Raises GatewayError as KeyRing.create; for a lease as Leases.make.
        """
        account_id, key_id = wanted.account_id, self._new_id("key")
        group = None if wanted.group is None else await self._ledger.group(account_id, wanted.group)
        if wanted.budgets:
            await self._ledger.budgets_held_by(account_id, ())  # so that its zone is known
        budgets = self._budgets(account_id, key_id, wanted.budgets, wanted.expires_at_ms)
        standings = [self._ledger.new_budget(budget) for budget in budgets]

        async def create(decided: MakeBudgets) -> MintedKey:
            key, raw = await keys.create(
                account_id,
                name=wanted.name,
                is_test=wanted.is_test,
                limits=wanted.limits,
                scopes=wanted.scopes,
                expires_at_ms=wanted.expires_at_ms,
                group=wanted.group,
                models=wanted.models,
                may_mint_over_mcp=wanted.may_mint_over_mcp,
                mcp_servers=wanted.mcp_servers,
                offers_mcp_tools=wanted.offers_mcp_tools,
                routing=wanted.routing,
                particulars=wanted.particulars,
                key_id=key_id,
                keep=lambda key: keep(replace(key, group=wanted.group), standings),
                and_then=lambda _: [decided] if decided.budgets else [],
            )
            return MintedKey(key, raw, standings)

        above = () if group is None else (group.id,)
        return await self._leases.make(MakeBudgets(budgets, above=above), create)

    async def check_may_take(self, caller: Caller, key: Key, allowance: Allowance) -> None:
        """Of whoever is to be given a secret of this key, which has this allowance.

        An owner may have that of each key of the account, to which the operator gave whatever it may; a key may not,
        nor an owner's token that names scopes, else they would gain. Raises GatewayError `insufficient_permissions` for
        a secret that was replaced itself, and for another key than the caller's own that may do what it may not.
        """
        caller.check_secret_is_current()
        principal = caller.principal
        if key.id == caller.key_id or (
            isinstance(principal, User) and principal.is_whole and principal.role == "owner"
        ):
            return
        maker = await self._maker_for(caller)
        more = next(self._more(caller, maker, key, allowance), None)
        if more is None and await self._escapes_a_budget(caller, key):
            more = "to spend beside a budget of yours"
        if more is not None:
            message = f"Rotating {key.id} would give you more than you have: {more}."
            raise GatewayError("insufficient_permissions", message)

    async def _maker_for(self, caller: Caller) -> Key:
        """The caller's key; for a person one that may what the account's keys may by default."""
        if caller.key_id is not None:
            return await self._keys.get(caller.key_id)
        return Key("", caller.account_id, "", "", False, 0, None, OwnLimits(), caller.scopes)

    def _more(self, caller: Caller, maker: Key, key: Key, allowance: Allowance) -> Iterator[str]:
        """What a key may that its maker, the caller's, could not have given it."""
        yield from (f"the scope `{scope}`" for scope in SCOPES if scope in key.scopes - maker.scopes)
        if key.may_mint_over_mcp and not maker.may_mint_over_mcp:
            yield "the right to mint over MCP"
        if maker.expires_at_ms is not None and (key.expires_at_ms or inf) > maker.expires_at_ms:
            yield "a later end"
        yield from self._more_models(caller, maker, key)
        servers = key.mcp_servers - servers_within(key.mcp_servers, maker.mcp_servers)
        yield from (f"the server '{label}'" for label in sorted(servers))
        if not all(any(are_within(own, theirs) for own in key.networks) for theirs in maker.networks):
            yield "other networks"
        if caller.key_id not in key.holders:  # what a key made counts against the key's own limits, too
            yield from (f"a higher `{name}`" for name in LIMIT_NAMES if _is_higher(name, allowance, caller.allowance))

    def _more_models(self, caller: Caller, maker: Key, key: Key) -> Iterator[str]:
        if maker.models is None:
            return
        if key.models is None:
            yield "all models"
            return
        catalog = self._published.seen_by(caller)
        for name in sorted(key.models - maker.models):
            try:
                catalog.find(name)
            except GatewayError:
                yield f"the model '{shown(name)}'"

    async def _escapes_a_budget(self, caller: Caller, key: Key) -> bool:
        """Whether one that bounds the caller does not bound the key."""
        bounding = await self._ledger.budgets_held_by(caller.account_id, caller.spent_by) if caller.spent_by else ()
        return any(one.budget.holder not in key.holders for one in bounding)

    def _budgets(
        self, account_id: str, key_id: str, wanted: Sequence[WantedBudget], expires_at_ms: int | None
    ) -> tuple[Budget, ...]:
        """Raises GatewayError `invalid_value` for a lease of a key without an end."""
        if expires_at_ms is None and any(one.is_lease for one in wanted):
            message = "A lease ends with its key: say `expires_in_s` or `expires_at`."
            raise GatewayError("invalid_value", message, param="expires_in_s")
        return tuple(
            Budget(
                self._new_id("bud"), account_id, key_id, one.amount_nano, one.window,
                lease_ends_at_ms=expires_at_ms if one.is_lease else None,
            )
            for one in wanted
        )  # fmt: skip

    def _routing_of(self, maker: Key, wanted: WantedKey, models: Collection[str] | None) -> RoutingDefaults:
        """A new key's, which may ask for these models. Raises GatewayError as `named_pool`.

        A pool is no right, so that it need not be within its maker's; of that one, what it may not ask for is left out.
        """
        its_models = None if models is None else frozenset(models)
        routing = maker.routing._replace(**wanted.routing)
        pool = routing.model_pool
        if pool is None:
            return routing
        if "model_pool" in wanted.routing:
            return routing._replace(model_pool=named_pool(pool, self._published, its_models))
        if wanted.models is None:
            return routing
        gone = gone_from(pool, self._published, its_models)
        return routing._replace(model_pool=tuple(name for name in pool if name not in gone) or None)

    def _models_of(self, caller: Caller, asked: Sequence[str]) -> Collection[str]:
        """The ids of what a new key may ask for. Raises GatewayError `model_not_found` for what its maker may not."""
        catalog = self._published.seen_by(caller)
        try:
            return {catalog.find(name).id for name in asked}
        except GatewayError as refusal:
            raise GatewayError(refusal.code, refusal.message, param="models") from None


def _is_higher(name: str, allowance: Allowance, most: Allowance) -> bool:
    return _bound(allowance, name) > _bound(most, name)


def _bound(allowance: Allowance, name: str) -> float:
    limit: int | None = getattr(allowance, name)
    return inf if limit is None else limit


def _notes_of(caller: Caller, key: Key) -> Sequence[Write[None]]:
    return [NoteMadeBy(key.id, caller.principal.user_id)] if isinstance(caller.principal, User) else []


def budget_amount(text: str, param: str) -> int:
    """Nano-USD. Raises GatewayError `invalid_value` about `param`."""
    try:
        amount_nano = parse_usd(text)
    except ValueError as fault:
        raise GatewayError("invalid_value", f"`{param}`: {fault}.", param=param) from None
    if amount_nano <= 0:
        raise GatewayError("invalid_value", f"`{param}` must be more than nothing.", param=param)
    return amount_nano


def _granted(maker: Key, asked: Collection[KeyScope] | None, *, is_test: bool) -> Collection[KeyScope]:
    """The scopes of a new key. Raises GatewayError `insufficient_scope` for one that its maker does not have."""
    wanted = asked or (TEST_SCOPES if is_test else maker.scopes)
    for scope in wanted:
        if scope not in maker.scopes:
            raise lacking_scope(scope)
    return wanted


def _particulars_of(maker: Key, wanted: ParticularsChange) -> Particulars:
    """Of a new key. Raises GatewayError `insufficient_permissions` for networks that its maker may not be used from."""
    networks = wanted.get("networks")
    if networks is None:
        networks = next(iter(maker.networks), None)
    else:
        check_networks(networks, maker.networks, "This API key")
    return Particulars(networks, wanted.get("note"), wanted.get("tags", maker.particulars.tags))


def _ending(maker: Key, wanted: WantedEnd | None) -> int | None:
    """When a new key expires. Raises GatewayError for a time after its maker's end."""
    if wanted is None:
        return maker.expires_at_ms
    if maker.expires_at_ms is not None and wanted.at_ms > maker.expires_at_ms:
        message = f"`{wanted.param}` must not be after {maker.expires_at_ms // 1000}, when the key that asks expires."
        raise GatewayError("insufficient_permissions", message, param=wanted.param)
    return wanted.at_ms
