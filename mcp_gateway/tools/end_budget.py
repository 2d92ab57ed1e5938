"""end_budget: an end to a key that the caller's has made with a budget, before its time.

It takes the key's id and no budget's: it is the key that ends, with all of its budgets and with what it has made.
"""

from typing import Any

from mcp import types

from mcp_gateway.core.caller import KeyScope
from mcp_gateway.core.config import Task
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.identity.key_ring import KeyRing
from mcp_gateway.core.ledger.ledger import Ledger
from mcp_gateway.core.limits.limiter import Limiter, counted
from mcp_gateway.core.text import shown
from mcp_gateway.tools.arguments import Arguments
from mcp_gateway.tools.budgets import BUDGETS, told, told_in_words
from mcp_gateway.tools.tool import Invocation, Result, output_schema, result

ARGUMENTS = Arguments(
    {
        "type": "object",
        "properties": {
            "key_id": {"type": "string", "description": "`key_id` from create_budget or get_balance."},
        },
        "required": ["key_id"],
    }
)


class BudgetEnding:
    """Ends what runs for the key, too; one that has ended stays as it is."""

    scope: KeyScope = "manage"
    needs: Task | None = None
    is_for_minters = True
    is_regional: bool = False
    is_text_whole = True
    definition = types.Tool(
        name="end_budget",
        title="End budget",
        description="End an API key that your key has made, with its budgets and all that it has made itself.",
        input_schema=ARGUMENTS.schema,
        output_schema=output_schema(
            {
                "key_id": {"type": "string"},
                "made_ended": {"type": "integer", "description": "How many keys that it had made ended with it."},
                "budgets": BUDGETS | {"description": "As they stood at the end."},
            }
        ),
        annotations=types.ToolAnnotations(
            read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
        ),
    )

    def __init__(self, keys: KeyRing, ledger: Ledger, limiter: Limiter) -> None:
        self._keys = keys
        self._ledger = ledger
        self._limiter = limiter

    async def __call__(self, arguments: dict[str, Any], invocation: Invocation) -> Result:
        caller = invocation.caller
        await counted(self._limiter, caller)
        key_id: str = ARGUMENTS.taken(arguments)["key_id"].strip()
        key = await self._keys.minted(key_id, by=caller.key_id)
        if key is None:
            message = f"Your key has made no key '{shown(key_id)}' with a budget; get_balance lists those that it has."
            raise GatewayError("not_found", message, param="key_id")
        budgets = [told(one) for one in await self._ledger.budgets_held_by(key.account_id, [key.id])]
        _, made_count = await self._keys.revoke_with_made(key.id)  # its budgets end with it
        with_made = f", with {made_count} that it had made" if made_count else ""
        left = f": {told_in_words(budgets)}" if budgets else ""
        facts = {"key_id": key.id, "made_ended": made_count, "budgets": budgets}
        return result(f"The key {key.id} has ended{with_made}{left}.", facts)
