"""An account with a wallet at a served gateway, and the scripted backend behind it: with these bills are looked at."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

from mcp_gateway.core.ledger.entries import HeldNow
from mcp_gateway.core.money import format_usd
from tests.patience import PATIENCE_S
from tests.replaying import ReplayingBackend, held
from tests.serving import Door, bearer
from tests.surfaces import CHAT_SPOKEN, MODEL, Spoken, answers

PROMPT_PICO, COMPLETION_PICO = 301_007, 703_001
PRICED: dict[str, Any] = {
    "id": MODEL,
    "backend_model": "tiny",
    "context_window": 2048,
    "pricing": {"prompt": "0.000000301007", "completion": "0.000000703001"},
}
CREDIT_NANO = 10**9


def cost_nano(prompt_tokens: int, completion_tokens: int) -> int:
    """Rounded up once."""
    return -(-(prompt_tokens * PROMPT_PICO + completion_tokens * COMPLETION_PICO) // 1000)


@dataclass
class Stage:
    door: Door
    backend: ReplayingBackend
    account_id: str
    key: str

    async def ask(self, spoken: Spoken = CHAT_SPOKEN, **fields: Any) -> httpx2.Response:
        return await spoken.ask(self.door, self.key, **fields)

    @property
    def sent(self) -> dict[str, Any]:
        """What the backend was asked last."""
        sent: dict[str, Any] = self.backend.chats[-1].json
        return sent

    async def is_left_with(self, balance_nano: int) -> None:
        await self.door.nothing_is_left()
        assert await self.door.balance_nano(self.account_id) == balance_nano

    async def credited(self, amount_nano: int) -> "Stage":
        """Another account with exactly that much."""
        return await staged(self.door, self.backend, amount_nano)

    async def records(self) -> list[dict[str, Any]]:
        """The log's rows of its account, once all is over."""
        assert await self.door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        return await self.door.records("SELECT * FROM requests WHERE account_id = ? ORDER BY id", self.account_id)

    async def worst_nano(self, spoken: Spoken, **fields: Any) -> int:
        """What is held for such a request, where the wallet has it."""
        rich = await self.credited(CREDIT_NANO)
        await rich.ask(spoken, **fields)
        await self.door.nothing_is_left()
        return rich.held_nano

    @property
    def held_nano(self) -> int:
        """What was held as the backend was asked last, while no other request held anything."""
        return held_for_one(self.backend)

    async def race(self, spoken: Spoken, *, affords: int, asked: int) -> None:
        """Ask for all at once, with a wallet for some, of which not one is answered before each is decided.

        Nobody may wait: the door has `wallet.hold_wait_s = 0`.
        """
        worst_nano = await self.worst_nano(spoken)
        rich = await self.credited(affords * worst_nano)
        self.backend.answer_with()
        are_decided, refused = asyncio.Event(), []
        self.backend.standing = held(are_decided, answers(spoken, 9, 3))

        async def ask(http: httpx2.AsyncClient) -> str | None:
            body, headers = orjson.dumps(spoken.body()), bearer(rich.key) | spoken.sent_headers
            refusal = spoken.refusal_of(await http.post(spoken.path, content=body, headers=headers))
            if refusal is not None:
                refused.append(refusal)
                if len(refused) == asked - affords:
                    are_decided.set()
            return refusal

        limits = httpx2.Limits(max_connections=asked)
        async with httpx2.AsyncClient(base_url=self.door.url, timeout=60, limits=limits) as http:
            told = await asyncio.gather(*(ask(http) for _ in range(asked)))
        assert (told.count(None), set(refused)) == (affords, {spoken.word_for("balance_held")})
        assert len(self.backend.chats) == affords
        records = await rich.records()
        billed = sum(record["cost_nano"] for record in records)
        assert billed == affords * cost_nano(9, 3 if spoken.is_generated else 0)
        assert [record["http_status"] for record in records].count(429) == asked - affords
        await rich.is_left_with(affords * worst_nano - billed)

    async def leave_once_asked(self, spoken: Spoken = CHAT_SPOKEN, **fields: Any) -> None:
        """Ask, and hang up when the backend has it."""
        asking = asyncio.create_task(self.ask(spoken, **fields))
        (asked,) = await self.backend.chats_asked(1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asked.gone()


def held_for_one(backend: ReplayingBackend) -> int:
    """What the gateway held as its backend was asked last; the backend notes that, and one request alone held money."""
    held_then: HeldNow = backend.chats[-1].noted
    assert held_then.requests == 1
    return held_then.amount_nano


async def staged(door: Door, backend: ReplayingBackend, credit_nano: int = CREDIT_NANO) -> Stage:
    """A new account with so much, and its key. The backend notes from now on what is held as it is asked."""
    backend.note = door.gateway.ledger.held_now
    account_id = await door.account(format_usd(credit_nano))
    return Stage(door, backend, account_id, await door.key(account_id))
