"""A replica as a process of its own: for each line that it reads it makes attempts at once, and says how they ended.

It ends places only where it is told to, so that one can be killed while it has some.
"""

import asyncio
import sys
from collections import Counter
from typing import Any

import orjson

from mcp_gateway.core.caller import Allowance, Caller, KeyHolder, Quota
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.limits.shared import SharedLimiter
from tests.engines.replicas import replica
from tests.serving import Clock


def caller(subject: str, limits: dict[str, int | None], account: dict[str, int | None] | None = None) -> Caller:
    """A key with these limits, `rpm`, `rpd`, `tpm`, `places` and `listings`; and an account with others."""
    own, shared = _allowance(limits), _allowance(account or {})
    return Caller("acc_1", KeyHolder(subject), (Quota("key", subject, own), Quota("account", f"of {subject}", shared)))


def _allowance(limits: dict[str, int | None]) -> Allowance:
    return Allowance(*(limits.get(name) for name in ("rpm", "rpd", "tpm", "places", "listings")))


async def attempt(limiter: SharedLimiter, who: Caller, wanted: dict[str, Any]) -> str:
    try:
        if wanted.get("lists"):
            if (pending := limiter.count_listing(who)) is not None:
                await pending
            return "counted"
        turn = await limiter.admitted(who)
        if (tokens := wanted.get("tokens")) is not None and (pending := turn.reserve_tokens(tokens)) is not None:
            try:
                await pending
            except GatewayError:
                turn.release()
                raise
            turn.true_up(wanted.get("used", tokens))
        if wanted.get("ends"):
            turn.release()
    except GatewayError as error:
        return error.code
    return "counted"


async def main(url: str) -> None:
    async with replica(url, Clock()) as this:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.buffer.readline):
            wanted = orjson.loads(line)
            who = caller(wanted["subject"], wanted["limits"])
            ends = await asyncio.gather(*(attempt(this.limiter, who, wanted) for _ in range(wanted["attempts"])))
            await this.valkey.ask(("PING",))  # behind all that was told
            print(orjson.dumps(Counter(ends)).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
