"""Several processes, one Valkey: every limit lets through exactly its number, and a dead process keeps no place."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.limits.shared import LEASE_S
from tests.cases import each
from tests.engines.attempts import attempt, caller
from tests.engines.replicas import replica
from tests.serving import Clock
from tests.valkey_server import ValkeyServer

pytestmark = [pytest.mark.engines, pytest.mark.asyncio(loop_scope="module")]
_ATTEMPTS = 200
"""Of each process."""


class OtherReplica:
    """A replica in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def attempts(self, **wanted: Any) -> Counter[str]:
        assert self.process.stdin is not None
        self.process.stdin.write(orjson.dumps({"attempts": _ATTEMPTS} | wanted) + b"\n")
        return Counter(orjson.loads(await self.said()))

    async def said(self) -> bytes:
        assert self.process.stdout is not None
        return await self.process.stdout.readline()

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()


async def begun(url: str) -> OtherReplica:
    program = [sys.executable, "-m", "tests.engines.attempts", url]
    other = OtherReplica(await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE))
    assert await other.said() == b"ready\n"
    return other


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def others(valkey_server: ValkeyServer) -> AsyncIterator[tuple[OtherReplica, OtherReplica]]:
    one, two = await asyncio.gather(*(begun(valkey_server.url(900)) for _ in range(2)))
    yield one, two
    await one.kill()
    await two.kill()


@each(
    ["limits", "wanted", "number", "code"],
    [
        ({"rpm": 100}, {"ends": True}, 100, "requests_per_minute"),
        ({"rpd": 77}, {"ends": True}, 77, "requests_per_day"),
        ({"tpm": 10_000}, {"tokens": 500, "ends": True}, 20, "tokens_per_minute"),
        ({"places": 10}, {}, 10, "in_flight"),
        ({"listings": 90}, {"lists": True}, 90, "requests_per_minute"),
    ],
)
async def test_two_processes_let_through_what_one_would(
    others: tuple[OtherReplica, OtherReplica], limits: dict[str, int], wanted: dict[str, Any], number: int, code: str
) -> None:
    tries = (other.attempts(subject=f"key_{limits}", limits=limits, **wanted) for other in others)
    ends = sum(await asyncio.gather(*tries), Counter[str]())
    assert ends == {"counted": number, code: 2 * _ATTEMPTS - number}


async def test_what_was_reserved_too_much_is_there_for_the_other(others: tuple[OtherReplica, OtherReplica]) -> None:
    one, two = others
    asked: dict[str, Any] = {"subject": "key_t", "limits": {"tpm": 1000}, "tokens": 500, "used": 250, "ends": True}
    assert await one.attempts(attempts=2, **asked) == {"counted": 2}
    assert await two.attempts(attempts=10, **asked | {"used": 500}) == {"counted": 1, "tokens_per_minute": 9}


async def test_places_are_never_more_than_there_are_while_they_come_and_go(
    others: tuple[OtherReplica, OtherReplica],
) -> None:
    asked: dict[str, Any] = {"subject": "key_p", "limits": {"places": 3}, "ends": True}
    for _ in range(3):
        ends = sum(await asyncio.gather(*(other.attempts(**asked) for other in others)), Counter[str]())
        assert ends.keys() <= {"counted", "in_flight"}
        assert ends["counted"] >= 3


async def test_a_killed_process_keeps_its_places_until_its_leases_end(valkey_server: ValkeyServer) -> None:
    clock, url = Clock(), valkey_server.url(901)
    limits: dict[str, int | None] = {"places": 10}
    other = await begun(url)
    assert await other.attempts(subject="key_k", limits=limits, attempts=7) == {"counted": 7}
    await other.kill()
    async with replica(url, clock) as this:
        who = caller("key_k", limits)

        async def attempts() -> Counter[str]:
            return Counter([await attempt(this.limiter, who, {}) for _ in range(11)])

        assert await attempts() == {"counted": 3, "in_flight": 8}
        clock.now_s += LEASE_S - 1
        await this.limiter.renew()
        assert await attempts() == {"in_flight": 11}
        clock.now_s += 1
        assert await attempts() == {"counted": 10 - 3, "in_flight": 4}
