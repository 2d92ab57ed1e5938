"""get_balance: what the caller has left: its account's money, budgets, this window's limits; and what it gave away."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.config import GuestSettings, Task
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.identity.keys import Key
from mcp_gateway.core.ledger.budgets import BudgetStanding
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.limits.limiter import Limiter, counted
from mcp_gateway.core.minting import MAX_BUDGETS
from mcp_gateway.core.payments.auto_topups import AutoTopUps
from mcp_gateway.core.wallet import WalletObject
from mcp_gateway.tools.arguments import Arguments
from mcp_gateway.tools.budgets import BUDGET_PROPERTIES, BUDGETS, EXPIRES_AT, moment_in_words, told, told_in_words
from mcp_gateway.tools.tool import Invocation, Result, output_schema, result

ARGUMENTS = Arguments({"type": "object", "properties": {}})
_MOST_BUDGETS = 20
_MOST_MADE = 20
_WHOSE = ("key", "maker", "group", "account")
"""Of a budget: the caller's key, one that stands behind it, their groups, or all keys of the account."""
_LIMIT = {"type": "integer"}
_WALLET = {
    name: {word: said for word, said in schema.items() if word != "title"}
    for name, schema in WalletObject.model_json_schema()["properties"].items()
}
_OUTPUT = output_schema(
    {
        "account_id": {"type": "string"},
        "is_guest": {"type": "boolean"},
        **_WALLET,
        "topup_url": {"type": "string", "description": "Where the account is topped up."},
        "auto_topup": {
            "type": "object",
            "description": "How the account is topped up by itself, where it has set that.",
            "properties": {
                "enabled": {"type": "boolean"},
                "threshold_usd": {"type": "string", "description": "Below this balance."},
                "amount_usd": {"type": "string", "description": "By this amount."},
                "off_reason": {"type": "string", "description": "Why it is off."},
            },
        },
        "budgets": {
            "type": "array",
            "description": "What your requests are spent of, too, the least left first.",
            "items": {
                "type": "object",
                "properties": BUDGET_PROPERTIES | {"whose": {"type": "string", "enum": list(_WHOSE)}},
            },
        },
        "budgets_untold": {"type": "integer", "description": "How many more there are."},
        "made": {
            "type": "array",
            "description": "The keys that yours has made with budgets, the newest first.",
            "items": {
                "type": "object",
                "properties": {
                    "key_id": {"type": "string"},
                    "name": {"type": "string"},
                    "expires_at": EXPIRES_AT,
                    "budgets": BUDGETS,
                },
            },
        },
        "made_untold": {"type": "integer", "description": "How many more there are."},
        "limits": {
            "type": "object",
            "description": "Of your key or of all keys of your account together, whichever leaves less. What has no "
            "limit is left out.",
            "properties": {
                "requests_per_minute": _LIMIT,
                "requests_left_this_minute": _LIMIT,
                "requests_per_day": _LIMIT,
                "requests_left_today": _LIMIT,
                "tokens_per_minute": _LIMIT,
                "tokens_left_this_minute": _LIMIT,
                "max_tokens": _LIMIT,
                "minute_ends_at_unix_s": {"type": "integer"},
            },
        },
    }
)


class GetBalance:
    """The caller's own account; a guest learns what a guest may do, and a test key its limits alone."""

    scope: KeyScope = "inference"
    needs: Task | None = None
    is_for_minters = False
    is_regional: bool = False
    is_text_whole = True
    definition = types.Tool(
        name="get_balance",
        title="Get balance",
        description="Show your account's balance in USD, where to top it up, what is left of your budgets and rate "
        "limits, and the budgets that your key has made.",
        input_schema=ARGUMENTS.schema,
        output_schema=_OUTPUT,
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )

    def __init__(
        self,
        ledger: Ledger,
        auto_topups: AutoTopUps,
        keys: KeyRing,
        limiter: Limiter,
        guests: Callable[[], GuestSettings],
        *,
        topup_url: str | None = None,
    ) -> None:
        self._ledger = ledger
        self._auto_topups = auto_topups
        self._keys = keys
        self._limiter = limiter
        self._guests = guests
        self._topup_url = topup_url

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result:
        caller = invocation.caller
        await counted(self._limiter, caller)
        ARGUMENTS.taken(arguments)
        facts = {
            "account_id": caller.account_id,
            "is_guest": caller.is_guest,
            "currency": "USD",
            **({} if caller.is_test else await self._money(caller)),
            **await self._budgets(caller),
            "limits": self._limits(caller),
        }
        return result(self._guest_text() if caller.is_guest else _text(facts), facts)

    async def _money(self, caller: Caller) -> dict[str, Any]:
        money: dict[str, Any] = (await self._ledger.balance(caller.account_id)).as_object().model_dump()
        if self._topup_url is not None and not caller.is_guest:
            money["topup_url"] = self._topup_url
        return money | await self._auto_topup(caller)

    async def _auto_topup(self, caller: Caller) -> dict[str, Any]:
        """Nothing for most, who have set none; what a card is charged is told to whoever sees to that, as over HTTP."""
        if caller.is_guest or caller.is_minted or not caller.may("billing"):
            return {}
        standing = await self._auto_topups.of(caller.account_id)
        if standing.terms is None:
            return {}
        told = standing.as_object()
        names = ("enabled", "threshold_usd", "amount_usd", *(() if standing.is_on else ("off_reason",)))
        return {"auto_topup": {name: told[name] for name in names}}

    async def _budgets(self, caller: Caller) -> dict[str, Any]:
        """Those that bind the caller, and those of the keys that its key has made; nothing for most."""
        if caller.is_guest or caller.is_test:
            return {}
        binding = await self._ledger.budgets(caller.account_id, caller.spent_by)
        binding.sort(key=lambda one: one.left_nano)
        told_of = [_binding(caller, one) for one in binding[:_MOST_BUDGETS]]
        facts = _some("budgets", told_of, len(binding))
        return facts | (await self._made(caller) if caller.may("manage") else {})

    async def _made(self, caller: Caller) -> dict[str, Any]:
        made = await self._keys.newest_minted(caller.account_id, caller.key_id or "", _MOST_MADE)
        held = defaultdict[str, list[BudgetStanding]](list)
        for one in await self._ledger.budgets_held_by(caller.account_id, [key.id for key in made.newest]):
            held[one.budget.holder].append(one)
        return _some("made", [_child(key, held[key.id][:MAX_BUDGETS]) for key in made.newest], made.number)

    def _limits(self, caller: Caller) -> dict[str, Any]:
        standing = self._limiter.standing(caller)
        limits = {
            "requests_per_minute": standing.minute_limit,
            "requests_left_this_minute": standing.minute_remaining,
            "requests_per_day": standing.day_limit,
            "requests_left_today": standing.day_remaining,
            "tokens_per_minute": standing.tokens_limit,
            "tokens_left_this_minute": standing.tokens_remaining,
            "max_tokens": self._guests().max_tokens if caller.is_guest else None,
            "minute_ends_at_unix_s": standing.minute_ends_at_s,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}

    def _guest_text(self) -> str:
        return (
            "You are a guest: nothing is billed. Guests may use the models that list_models marks with guests, "
            f"{self._guests().requests_per_minute} requests a minute, {self._guests().max_tokens} output tokens each. "
            "An API key lifts these limits."
        )


def _text(facts: dict[str, Any]) -> str:
    limits = facts["limits"]
    parts = [_balance_text(facts)]
    for name, left, limit in (
        ("requests this minute", "requests_left_this_minute", "requests_per_minute"),
        ("requests today", "requests_left_today", "requests_per_day"),
        ("tokens this minute", "tokens_left_this_minute", "tokens_per_minute"),
    ):
        if limit in limits:
            parts.append(f"{limits[left]} of {limits[limit]} {name} left.")
    parts += _budgets_text(facts)
    if "auto_topup" in facts:
        parts.append(_auto_topup_text(facts["auto_topup"]))
    if "topup_url" in facts:
        parts.append(f"Top up at {facts['topup_url']}.")
    return " ".join(parts)


def _auto_topup_text(told: dict[str, Any]) -> str:
    if not told["enabled"]:
        return f"Auto top-up is off: {told['off_reason']}."
    return f"Auto top-up adds {told['amount_usd']} USD once the balance is below {told['threshold_usd']} USD."


def _some(name: str, told_of: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """Those that are told of so many, and how many are not."""
    facts: dict[str, Any] = {name: told_of} if told_of else {}
    return facts | ({f"{name}_untold": number - len(told_of)} if number > len(told_of) else {})


def _binding(caller: Caller, standing: BudgetStanding) -> dict[str, Any]:
    budget = standing.budget
    whose = {caller.key_id: "key", caller.account_id: "account"}.get(budget.holder)
    return told(standing) | {"whose": whose or ("maker" if budget.group is None else "group")}


def _child(key: Key, standings: Iterable[BudgetStanding]) -> dict[str, Any]:
    facts: dict[str, Any] = {"key_id": key.id, "budgets": [told(one) for one in standings]}
    if key.name:
        facts["name"] = key.name
    if key.expires_at_ms is not None:
        facts["expires_at"] = key.expires_at_ms // 1000
    return facts


def _budgets_text(facts: dict[str, Any]) -> Iterator[str]:
    for budget in facts.get("budgets", ()):
        yield f"Budget of your {budget['whose']}: {told_in_words([budget])}."
    if "budgets_untold" in facts:
        yield f"{facts['budgets_untold']} more budgets bind you."
    for child in facts.get("made", ()):
        name = f" '{child['name']}'" if "name" in child else ""
        end = f", which ends at {moment_in_words(child['expires_at'])}" if "expires_at" in child else ""
        left = told_in_words(child["budgets"]) or "no budget of its own"
        yield f"Your key made {child['key_id']}{name}{end}: {left}."
    if "made_untold" in facts:
        yield f"It has made {facts['made_untold']} more."


def _balance_text(facts: dict[str, Any]) -> str:
    if "balance_usd" not in facts:
        return "This is a test key: nothing is billed, and only live keys are shown the balance."
    granted, held, leased = facts["granted_usd"], facts["held_usd"], facts["leased_usd"]
    text = f"Balance: {facts['balance_usd']} USD, {granted} of it granted; {held} USD held for running requests"
    return f"{text}." if leased == "0.00" else f"{text}, {leased} USD set aside for leases."
