"""get_balance: what the caller's account has left, in money and in this window's limits."""

from typing import Any, Protocol

from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.config import GuestSettings, Task
from mcp_gateway.core.limits.limiter import Limiter
from mcp_gateway.core.wallet import WalletObject
from mcp_gateway.tools.arguments import Arguments
from mcp_gateway.tools.tool import Invocation, Result, output_schema, result

ARGUMENTS = Arguments({"type": "object", "properties": {}})
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


class SupportsWalletObject(Protocol):
    """Of a wallet, in the words of both doors."""

    def as_object(self) -> WalletObject: ...


class Wallets(Protocol):
    """The part of the ledger that is asked here."""

    async def balance(self, account_id: str) -> SupportsWalletObject: ...


class GetBalance:
    """The caller's own account; a guest learns what a guest may do, and a test key its limits alone."""

    scope: KeyScope = "inference"
    needs: Task | None = None
    is_text_whole = True
    definition = types.Tool(
        name="get_balance",
        title="Get balance",
        description="Show your account's balance in USD, where to top it up, and what is left of your rate limits.",
        input_schema=ARGUMENTS.schema,
        output_schema=_OUTPUT,
        annotations=types.ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )

    def __init__(
        self, wallets: Wallets, limiter: Limiter, guests: GuestSettings, *, topup_url: str | None = None
    ) -> None:
        self._wallets = wallets
        self._limiter = limiter
        self._guests = guests
        self._topup_url = topup_url

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result:
        caller = invocation.caller
        self._limiter.count_listing(caller)
        ARGUMENTS.taken(arguments)
        facts = {
            "account_id": caller.account_id,
            "is_guest": caller.is_guest,
            "currency": "USD",
            **({} if caller.is_test else await self._money(caller)),
            "limits": self._limits(caller),
        }
        return result(self._guest_text() if caller.is_guest else _text(facts), facts)

    async def _money(self, caller: Caller) -> dict[str, str]:
        money = (await self._wallets.balance(caller.account_id)).as_object().model_dump()
        if self._topup_url is not None and not caller.is_guest:
            money["topup_url"] = self._topup_url
        return money

    def _limits(self, caller: Caller) -> dict[str, Any]:
        standing = self._limiter.standing(caller)
        limits = {
            "requests_per_minute": standing.minute_limit,
            "requests_left_this_minute": standing.minute_remaining,
            "requests_per_day": standing.day_limit,
            "requests_left_today": standing.day_remaining,
            "tokens_per_minute": standing.tokens_limit,
            "tokens_left_this_minute": standing.tokens_remaining,
            "max_tokens": self._guests.max_tokens if caller.is_guest else None,
            "minute_ends_at_unix_s": standing.minute_ends_at_s,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}

    def _guest_text(self) -> str:
        return (
            "You are a guest: nothing is billed. Guests may use the models that list_models marks with guests, "
            f"{self._guests.requests_per_minute} requests a minute, {self._guests.max_tokens} output tokens each. "
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
    if "topup_url" in facts:
        parts.append(f"Top up at {facts['topup_url']}.")
    return " ".join(parts)


def _balance_text(facts: dict[str, Any]) -> str:
    if "balance_usd" not in facts:
        return "This is a test key: nothing is billed, and only live keys are shown the balance."
    granted, held = facts["granted_usd"], facts["held_usd"]
    return f"Balance: {facts['balance_usd']} USD, {granted} of it granted; {held} USD held for running requests."
