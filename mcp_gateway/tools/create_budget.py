"""create_budget: a key for an agent, with an amount that it may spend and an end.

The key stands in the result, and so in the context of the model that asked: it may do nothing but inference.
"""

from collections.abc import Callable
from typing import Any

import orjson
from mcp import types

from mcp_gateway.core.caller import Caller, KeyScope
from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.idempotency import Idempotency, IdempotentRequest
from mcp_gateway.core.json_bounds import JsonBounds
from mcp_gateway.core.limits.limiter import Limiter, counted
from mcp_gateway.core.minting import (
    MAX_MODELS,
    MAX_NAME_CHARS,
    Mint,
    MintedKey,
    WantedBudget,
    WantedEnd,
    WantedKey,
    budget_amount,
)
from mcp_gateway.core.text import check_one_line
from mcp_gateway.tools.arguments import Arguments, parser_for
from mcp_gateway.tools.budgets import BUDGET_PROPERTIES, EXPIRES_AT, moment_in_words, told, told_in_words
from mcp_gateway.tools.tool import Invocation, Result, output_schema, result

_SCOPES: tuple[KeyScope, ...] = ("inference",)
_MAX_IDEMPOTENCY_KEY_CHARS = 255
_EXACT_BELOW_USD = 10**6
"""A float has all digits that the amount was written with, to the nano-USD."""

ARGUMENTS = Arguments(
    {
        "type": "object",
        "properties": {
            "amount_usd": {"type": ["string", "number"], "description": "What may be spent in all, as in 0.50."},
            "lifetime_s": {"type": "integer", "minimum": 1, "description": "Seconds until key and budget end."},
            "name": {"type": "string", "description": "A name for people."},
            "models": {
                "type": ["array", "string"],
                "items": {"type": "string"},
                "description": "The only model ids that it may be used for.",
            },
            "lease": {
                "type": "boolean",
                "description": "Whether the amount is set aside now, so that nobody else can spend it; by default not.",
            },
            "idempotency_key": {
                "type": "string",
                "description": "A text of your own: the same call with it makes no second budget.",
            },
        },
        "required": ["amount_usd", "lifetime_s"],
    }
)


class BudgetCreation:
    """Makes a child of the caller's key, by the same rules as POST /v1/keys."""

    scope: KeyScope = "manage"
    needs: Task | None = None
    is_for_minters = True
    is_regional: bool = False
    is_text_whole = True
    definition = types.Tool(
        name="create_budget",
        title="Create budget",
        description="Make an API key for another agent that may spend a fixed amount of your account's money until it "
        "ends. The key is shown this once; whoever reads it can spend the budget.",
        input_schema=ARGUMENTS.schema,
        output_schema=output_schema(
            {
                "budget": {"type": "object", "properties": BUDGET_PROPERTIES},
                "key": {"type": "string", "description": "The API key itself; not told again to a repeated call."},
                "key_id": {"type": "string", "description": "What end_budget takes."},
                "name": {"type": "string"},
                "models": {"type": "array", "items": {"type": "string"}},
                "expires_at": EXPIRES_AT,
            }
        ),
        annotations=types.ToolAnnotations(
            read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
        ),
    )

    def __init__(
        self,
        mint: Mint,
        idempotency: Idempotency,
        limiter: Limiter,
        json_bounds: JsonBounds,
        *,
        max_lifetime_s: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._mint = mint
        self._idempotency = idempotency
        self._limiter = limiter
        self._json_bounds = json_bounds
        self._max_lifetime_s = max_lifetime_s
        self._now_ms = now_ms

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result:
        caller = invocation.caller
        await counted(self._limiter, caller)
        given = ARGUMENTS.taken(await ARGUMENTS.opened(arguments, parser_for(self._json_bounds, caller)))
        lifetime_s, once = self._lifetime_of(given), _once(caller, given)
        name, models = _name_of(given), _models_of(given)
        is_lease: bool = given.get("lease", False)
        amount_nano = budget_amount(_decimal(given["amount_usd"]), "amount_usd")
        wanted = WantedKey(
            name=name,
            scopes=_SCOPES,
            end=WantedEnd(self._now_ms() + lifetime_s * 1000, "lifetime_s"),
            models=models,
            budgets=[WantedBudget(amount_nano, "total", is_lease)],
        )
        asked = orjson.dumps([amount_nano, lifetime_s, name, models, is_lease])
        async with self._idempotency.answering(caller.account_id, once, "create_budget", asked) as request:
            return await self._made(caller, wanted, request)

    async def _made(self, caller: Caller, wanted: WantedKey, request: IdempotentRequest) -> Result:
        if request.kept is not None:
            return result(_again(request.kept.body), request.kept.body)
        made = await self._mint.make(
            caller, wanted, lambda key, budgets: request.answered(200, _facts(MintedKey(key, "", budgets)))
        )
        return result(_text(made), _facts(made) | {"key": made.raw})

    def _lifetime_of(self, given: dict[str, Any]) -> int:
        lifetime_s: int = given["lifetime_s"]
        if lifetime_s > self._max_lifetime_s:
            message = f"`lifetime_s` must be at most {self._max_lifetime_s} here."
            raise GatewayError("invalid_value", message, param="lifetime_s")
        return lifetime_s


def _once(caller: Caller, given: dict[str, Any]) -> str | None:
    """The name of this call, which no other key's calls share."""
    written = given.get("idempotency_key")
    if written is None:
        return None
    check_one_line(written, "idempotency_key")
    _check_length(written, _MAX_IDEMPOTENCY_KEY_CHARS, "idempotency_key", "characters")
    return f"{caller.key_id} {written}"


def _name_of(given: dict[str, Any]) -> str:
    name: str = given.get("name", "")
    _check_length(name, MAX_NAME_CHARS, "name", "characters")
    return name


def _models_of(given: dict[str, Any]) -> list[str] | None:
    """A single text is one id, or several between commas."""
    models: list[str] | str | None = given.get("models")
    if isinstance(models, str):
        models = [name.strip() for name in models.split(",")]
    if models is not None:
        if not all(isinstance(name, str) for name in models):
            raise GatewayError("invalid_type", "`models` must be a list of model ids.", param="models")
        _check_length(models, MAX_MODELS, "models", "ids")
    return models


def _check_length(value: str | list[str], most: int, param: str, of: str) -> None:
    if len(value) > most:
        raise GatewayError("invalid_value", f"`{param}` may have at most {most} {of}.", param=param)


def _decimal(amount: str | float) -> str:
    """As it was written. Raises GatewayError for a number that may have had more digits."""
    if isinstance(amount, float) and abs(amount) >= _EXACT_BELOW_USD:
        message = "`amount_usd` must be a decimal string: a number of this size loses digits."
        raise GatewayError("invalid_type", message, param="amount_usd")
    return str(amount).strip()


def _facts(made: MintedKey) -> dict[str, Any]:
    """All but the key itself, which is kept nowhere."""
    key, (standing,) = made.key, made.budgets
    assert key.expires_at_ms is not None
    facts = {"budget": told(standing), "key_id": key.id, "expires_at": key.expires_at_ms // 1000}
    if key.name:
        facts["name"] = key.name
    if key.models is not None:
        facts["models"] = sorted(key.models)
    return facts


def _text(made: MintedKey) -> str:
    facts = _facts(made)
    for_models = f" for {', '.join(facts['models'])}" if "models" in facts else ""
    return (
        f"Made the API key {facts['key_id']}{for_models}, which ends at {moment_in_words(facts['expires_at'])}: "
        f"{told_in_words([facts['budget']])}. The key, shown this once: {made.raw}"
    )


def _again(facts: dict[str, Any]) -> str:
    return (
        f"An earlier call with this idempotency_key made the API key {facts['key_id']} with {facts['budget']['id']}, "
        f"which ends at {moment_in_words(facts['expires_at'])}. It was shown then and cannot be shown again: if it "
        "is lost, end it with end_budget and make another."
    )
