"""Requests that run when the process is killed count in the day, by whichever door and whatever they cost."""

import asyncio
from pathlib import Path
from typing import Any

from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.databases import outside
from tests.loop_clock import pass_time
from tests.patience import eventually
from tests.replaying import ReplayingBackend, in_two, stream
from tests.serving import FREE, MESSAGES, PRICED, UNLIMITED, Clock, Door, open_door

TEN_A_DAY = OwnLimits(None, 10, None, None)


def counted(door: Door) -> dict[str, int]:
    """What the database has of the day at this moment."""
    with outside(door.gateway.settings) as another:
        return dict(another.rows("SELECT subject, requests FROM admitted_requests"))


def streams(door: Door, key: str, *models: str) -> list["asyncio.Task[Any]"]:
    return [asyncio.create_task(door.chat(key, model=model, stream=True)) for model in models]


def called(door: Door, key: str, model: str) -> "asyncio.Task[Any]":
    """The same over MCP."""
    return asyncio.create_task(door.call("chat_completion", key, model=model, messages=MESSAGES))


async def day_of(door: Door, key: str) -> dict[str, int]:
    day: dict[str, int] = (await door.get("/v1/limits", key)).json()["requests_per_day"]
    return day


async def test_what_ran_at_a_kill_counts_today_and_not_tomorrow(tmp_path: Path) -> None:
    clock, end, free, priced = Clock(), asyncio.Event(), FREE["id"], PRICED["id"]
    killed, tomorrow = tmp_path / "killed", tmp_path / "tomorrow"
    async with ReplayingBackend() as backend:
        settings: dict[str, Any] = {"vllm_urls": [backend.url], "models": [FREE, PRICED]}
        async with open_door(tmp_path / "first", clock, **settings) as door:
            account = await door.account("1")
            key, unlimited = await door.key(account, limits=TEN_A_DAY), await door.key(account)
            only_running = await door.key(limits=TEN_A_DAY)
            assert (await door.chat(key)).status_code == 200
            assert (await door.chat(key, model="nope")).status_code == 404
            backend.standing = in_two(stream()[:2], end, stream()[2:])
            running = streams(door, key, free, free, priced)
            running += [
                called(door, key, priced),
                *streams(door, unlimited, priced),
                *streams(door, only_running, free),
            ]
            await backend.chats_asked(1 + len(running))
            pass_time(1)
            await eventually(lambda: counted(door).get(account) == 1 + len(running))
            for folder in (killed, tomorrow):
                door.leave_copy(folder)
            end.set()
            await asyncio.gather(*running)
        async with open_door(killed, clock, **settings) as door:
            assert await day_of(door, key) == {"limit": 10, "remaining": 10 - 6}
            assert await day_of(door, only_running) == {"limit": 10, "remaining": 10 - 1}
            (other,) = [one for one in await door.gateway.keys.list(account) if one.limits == UNLIMITED]
            await door.gateway.keys.change(other.id, limits={"requests_per_day": 10})
            assert await day_of(door, unlimited) == {"limit": 10, "remaining": 10 - 1}
            response = await door.chat(key)
            assert response.headers["x-ratelimit-remaining"] == "3"
        clock.now_s += 86_400
        async with open_door(tomorrow, clock, **settings) as door:
            assert await day_of(door, only_running) == {"limit": 10, "remaining": 10}
