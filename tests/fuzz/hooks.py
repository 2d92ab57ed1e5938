"""What a schema cannot say, brought into the requests that schemathesis means to be right.

Loaded by schemathesis, in an environment of its own. Requests that are meant to be wrong are left as they are.
"""

import os
import uuid
from typing import Any

import schemathesis
from schemathesis import GenerationMode

TEXT = "Say hello."
KNOWN: dict[str, Any] = {
    "model": "demo/echo",
    "messages": [{"role": "user", "content": TEXT}],
    "prompt": TEXT,
    "input": TEXT,
    "query": TEXT,
    "documents": [TEXT],
    "text_1": TEXT,
    "text_2": TEXT,
    "tokens": [65, 66],
    "system": TEXT,
    "name": "a name",
    "note": "a note",
    "tags": ["a-tag"],
    "dimensions": 8,
    "n": 1,
    "best_of": 1,
    "optimize_mode": "balanced",
    "amount_usd": "12.50",
    "low_balance_usd": "12.50",
    "threshold_usd": "5.00",
    "max_per_day_usd": "50.00",
    "url": "https://hooks.example.com/gateway",
    "since": "2026-01-31",
    "month": "2026-01",
    "id": "req_0123456789abcdef",
    "text": "We are looking into it.",
    "reference": "a reference",
    "margin_percent": "12.50",
    "mint_over_mcp": False,
    "account_id": os.environ["FUZZ_ACCOUNT_ID"],
    "key_id": os.environ["FUZZ_KEY_ID"],
    "user_id": os.environ["FUZZ_USER_ID"],
}
"""By the name of a field or parameter: what the gateway gives names, and texts with words in them."""
LEFT_OUT = frozenset({
    "cursor", "provider", "until", "models", "usage", "expires_at", "budgets", "networks", "model_pool", "routing",
    "test", "tools", "zone", "add_budgets",
})  # fmt: skip
"""What is right only together with something else, or by an earlier answer: doors' own tests ask about these."""
OF_LEASES = frozenset({"lease", "expires_in_s", "group"})
"""The same beside a budget's window: a lease takes money, and a budget is a key's or a group's."""
ASKED = frozenset({"messages", "prompt", "input", "query", "text_1", "tokens"})
"""Of which a body for a model has one."""
ONE_OF = (("prompt", "messages"), ("input", "messages"))
"""Of which the second is passed over beside the first."""


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    for place in (case.query, case.path_parameters, case.body):
        if isinstance(place, dict):
            _make_known(place)
    if isinstance(case.body, dict):
        _ask_something(case.body)
    if case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = uuid.uuid4().hex  # one that is sent again is for the same request alone


def _make_known(place: dict[str, Any]) -> None:
    for name in LEFT_OUT | OF_LEASES if "window" in place else LEFT_OUT:
        place.pop(name, None)
    if place.keys() & {"messages", "prompt"}:
        place.setdefault("model", None)
    for name in place.keys() & KNOWN.keys():
        place[name] = KNOWN[name]
    if "email" in place:
        place["email"] = f"{uuid.uuid4().hex}@example.com"  # one that is taken is refused
    for first, second in ONE_OF:
        if first in place:
            place.pop(second, None)


def _ask_something(body: dict[str, Any]) -> None:
    """What a model is asked, where the schema lets it be left out; a filter by model asks nothing."""
    if "model" in body and not body.keys() & ASKED:
        body |= {"prompt": TEXT, "input": TEXT}
