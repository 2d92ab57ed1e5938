"""Names looked up in threads, so many at once."""

import asyncio
import socket
import threading

import pytest

from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.image_fetching.resolver import Resolver, addresses_of


async def test_an_account_has_so_many_look_ups_as_run_also_those_that_nobody_waits_for_any_more() -> None:
    may_end, begun = threading.Event(), []

    def look_up(host: str) -> list[str]:
        begun.append(host)
        may_end.wait()
        return ["192.0.2.1"]

    resolver = Resolver(2, look_up)
    left = asyncio.create_task(resolver("a.example", "acc_1"))
    waiting = asyncio.create_task(resolver("b.example", "acc_1"))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    with pytest.raises(GatewayError, match="overloaded"):
        await resolver("c.example", "acc_1")
    other = asyncio.create_task(resolver("d.example", "acc_2"))
    may_end.set()
    assert await waiting == await other == ["192.0.2.1"]
    assert await resolver("e.example", "acc_1") == ["192.0.2.1"]
    assert set(begun) == {"a.example", "b.example", "d.example", "e.example"}


async def test_all_accounts_together_have_64() -> None:
    may_end = threading.Event()

    def look_up(host: str) -> list[str]:
        may_end.wait()
        return []

    resolver = Resolver(2, look_up)
    tasks = [asyncio.create_task(resolver("a.example", f"acc_{number}")) for number in range(64)]
    await asyncio.sleep(0)
    with pytest.raises(GatewayError, match="overloaded"):
        await resolver("a.example", "acc_64")
    may_end.set()
    assert await asyncio.gather(*tasks) == [[]] * 64


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "\ud800"])
def test_what_is_no_name_has_no_address(host: str) -> None:
    assert addresses_of(host) == []


def test_the_system_is_asked_for_that_very_name_and_none_of_its_own_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        addresses = [("2606:4700::1111", 0, 0, 0), ("1.1.1.1", 0), ("1.1.1.1", 0)]
        return [(0, 0, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert addresses_of("example.com") == ["2606:4700::1111", "1.1.1.1"]
    assert asked == ["example.com."]
