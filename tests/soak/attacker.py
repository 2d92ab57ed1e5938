"""An attacker's share of the traffic: guests of many addresses and one key, who hold, pour and garble all the while."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from tests.attack.mutations import mutated_bytes
from tests.attack.target import MCP, guest
from tests.attack.test_dear_requests import NESTED_QUOTE
from tests.attack.test_kept import initialize, rpc
from tests.attack.wire import Answer, Wire, get, post, request, wires

ACTS_A_SECOND = 20
MOST_AT_ONCE = 60
HELD_S = 2.0
"""How long an attack holds what it has got."""


@dataclass
class Attacker:
    """Does one thing after the other, several at once, until it is cancelled; counts what it was answered."""

    port: int
    key: str
    model: str
    dice: Random
    statuses: Counter[int] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)

    async def rage(self) -> None:
        acts: list[Callable[[Wire], Awaitable[None]]] = [
            self.leave_events_unread, self.leave_a_chat_unread, self.never_finish, self.dawdle, self.burst, self.idle,
            self.say_much, self.churn_keys, self.ask_dearly, self.garble,
        ]  # fmt: skip
        places = asyncio.Semaphore(MOST_AT_ONCE)
        async with asyncio.TaskGroup() as running:
            for number in itertools.count():
                await places.acquire()
                task = running.create_task(self._one(acts[number % len(acts)]))
                task.add_done_callback(lambda _: places.release())
                await asyncio.sleep(1 / ACTS_A_SECOND)

    async def _one(self, act: Callable[[Wire], Awaitable[None]]) -> None:
        async with wires(self.port, 1, receive_buffer_bytes=4096) as (wire,):
            await act(wire)
            self.done[act.__name__] += 1
            if self.dice.random() < 0.5:
                wire.reset()

    def someone(self) -> str:
        """The headers of the key, or of one guest of many."""
        is_key = self.dice.random() < 0.5
        return f"authorization: Bearer {self.key}" if is_key else guest(self.dice.randrange(200))

    async def _answer(self, wire: Wire) -> Answer | None:
        try:
            async with asyncio.timeout(HELD_S):
                answer = await wire.answer()
        except TimeoutError:
            return None
        self.statuses[answer.status if answer else 0] += 1
        return answer

    async def leave_events_unread(self, wire: Wire) -> None:
        who = self.someone()
        await wire.send(get("/v1/mcp/sse", who, "accept: text/event-stream"))
        told = await wire.receive(4096)
        path = (told.partition(b"data: ")[2].split(b"\n")[0] or b"/v1/mcp/messages/?session_id=x").decode()
        messages = b"".join(post(path, rpc("tools/list"), who) for _ in range(64))
        async with wires(self.port, 1) as (posting,):
            await posting.send(post(path, initialize(), who) + messages)
            await self._answer(posting)
            await asyncio.sleep(HELD_S)

    async def leave_a_chat_unread(self, wire: Wire) -> None:
        await wire.send(post("/v1/chat/completions", self._chat(stream=True), self.someone()))
        await asyncio.sleep(HELD_S)

    async def never_finish(self, wire: Wire) -> None:
        path = self.dice.choice(("/v1/chat/completions", "/v1/mcp", "/v1/keys"))
        length = self.dice.choice((1000, 60_000, 200_000, 31_000_000))
        await wire.send(post(path, b"[" * min(length - 1, 2_000_000), self.someone(), length=length))
        await self._answer(wire)

    async def dawdle(self, wire: Wire) -> None:
        await wire.send(post("/v1/chat/completions", b"{", self.someone(), length=1000))
        for _ in range(10):
            await asyncio.sleep(HELD_S / 10)
            await wire.send(b" ")

    async def burst(self, wire: Wire) -> None:
        who = self.someone()
        await wire.send(get("/v1/mcp/sse", who, "accept: text/event-stream") + get("/", who) * 2000)
        await asyncio.sleep(HELD_S)

    async def idle(self, wire: Wire) -> None:
        async with wires(self.port, 20):
            await asyncio.sleep(HELD_S)

    async def say_much(self, wire: Wire) -> None:
        await wire.send(post("/v1/mcp", initialize("x" * 60_000), self.someone(), MCP))
        await self._answer(wire)

    async def churn_keys(self, wire: Wire) -> None:
        who = f"authorization: Bearer {self.key}"
        await wire.send(post("/v1/keys", {"name": "x"}, who))
        made = await self._answer(wire)
        if made is not None and made.status == 201:
            await wire.send(request("DELETE", f"/v1/keys/{orjson.loads(made.body)['id']}", None, who))
            await self._answer(wire)

    async def ask_dearly(self, wire: Wire) -> None:
        dear: dict[str, Any] = self.dice.choice(
            [{"logit_bias": {NESTED_QUOTE * 2000: 1}}, {"extra": [[]] * 80_000}, {"stop": ["x"] * 9000}]
        )
        await wire.send(post("/v1/chat/completions", self._chat(**dear), self.someone()))
        await self._answer(wire)

    async def garble(self, wire: Wire) -> None:
        whole = post("/v1/chat/completions", self._chat(), self.someone()) + get("/v1/models", self.someone())
        await wire.send(mutated_bytes(self.dice, whole))
        await self._answer(wire)

    def _chat(self, **fields: object) -> dict[str, object]:
        return {"model": self.model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16} | fields
