"""What a gateway did beside passing requests on, counted after a load, and what its peers do in the same comparison.

Ours is what the gateway itself tells of the load: a request that was not recorded, charged or counted shows as a lower
number. The peers' columns say what each does as it is started for the comparison, by its documentation.
"""

import urllib.request
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

CREDIT_USD = Decimal(1_000_000)
NO = "no"
PEERS = ("smg", "nginx", "LiteLLM, no database", "bare MCP server")
_BESIDE = {
    "API key looked up": (NO, NO, "one master key", NO),
    "limits of requests, tokens, in flight": (NO, NO, NO, NO),
    "held before the answer": (NO, NO, NO, NO),
    "charged, exact, on disk before the answer": (NO, NO, NO, NO),
    "usage asked for, checked and told": (NO, NO, "as told", NO),
    "recorded, without content": (NO, NO, NO, NO),
    "sums by hour, key and model": (NO, NO, NO, NO),
    "metrics": ("yes", NO, NO, NO),
}


class Done(NamedTuple):
    """What a gateway tells that it has done since it began."""

    requests: int
    """That its usage counts."""
    tokens: int
    cost_usd: Decimal
    charged_usd: Decimal
    """What has left the wallet."""
    held_usd: Decimal
    counted: int
    """Requests that its metrics count as answered."""
    limited: int
    """Requests that the day's limit counts."""


def done_by(port: str, key: str) -> Done:
    """As it is told by the gateway on this port to the one key that has asked it for anything."""
    totals = _told(port, key, "/v1/usage")["totals"]
    credits_, limit = _told(port, key, "/v1/credits"), _told(port, key, "/v1/key")["data"]["free_model_daily_requests"]
    return Done(
        totals["requests"],
        totals["total_tokens"],
        Decimal(totals["cost_usd"]),
        CREDIT_USD - Decimal(credits_["balance_usd"]),
        Decimal(credits_["held_usd"]),
        _answered(_text(port, key, "/metrics")),
        limit["used"],
    )


def table(done: Done, answered: int) -> str:
    """The rows, ours beside those of the peers; `answered` is how many requests the load itself counted."""
    ours = {
        "API key looked up": "each request",
        "limits of requests, tokens, in flight": f"{done.limited:,} counted",
        "held before the answer": f"all; {done.held_usd} USD still held",
        "charged, exact, on disk before the answer": f"{done.charged_usd} USD",
        "usage asked for, checked and told": f"{done.tokens:,} tokens",
        "recorded, without content": f"{done.requests:,} of {answered:,}",
        "sums by hour, key and model": f"{done.cost_usd} USD",
        "metrics": f"{done.counted:,} counted",
    }
    heads = ("what is done", "this gateway", *PEERS)
    rows = [heads, *((name, ours[name], *_BESIDE[name]) for name in ours)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def check(done: Done, answered: int) -> None:
    """Raises AssertionError where the gateway has done less than it was measured with, or has charged otherwise."""
    assert done.requests >= answered, (done, answered)  # a stream that the load has left is one more
    assert done.counted >= answered, (done, answered)
    assert done.charged_usd == done.cost_usd > 0, done
    assert done.held_usd == 0, done


def _answered(metrics: str) -> int:
    lines = (line for line in metrics.splitlines() if line.startswith("gateway_requests_total{"))
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def _told(port: str, key: str, path: str) -> Any:
    return orjson.loads(_text(port, key, path))


def _text(port: str, key: str, path: str) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request) as answer:  # noqa: S310 - the gateway that was started here
        return str(answer.read().decode())
