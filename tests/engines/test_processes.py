"""Replicas as programs of their own: whichever is killed or stands still, others serve and every bill is right."""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import pytest

from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.limits.shared import LEASE_S
from mcp_gateway.core.store.postgres.session import GRACE_S
from tests.crash.test_kill import Seen, Tokens, ask, cost_nano
from tests.engines.gateways import Site, client_of, site_at
from tests.patience import becomes, eventually
from tests.program import Program
from tests.replaying import held, unary
from tests.serving import PRICED, bearer, chat_body

pytestmark = pytest.mark.engines

CLIENTS = 6
"""Of each replica."""
CREDIT_NANO = 10**12
FREELY = OwnLimits(None, None, None, None)
PASSWORD = "correct horse battery staple, and more"


@pytest.fixture
async def site(tmp_path: Path, valkey_url: str) -> AsyncIterator[Site]:
    async with site_at(tmp_path, valkey_url) as site:
        yield site


class Load:
    """Clients of all replicas, which ask without end with the keys of one wallet."""

    def __init__(self, key: str, clients: int = CLIENTS) -> None:
        self.seen = Seen()
        self._key = key
        self._clients = clients
        self._dice = random.Random(20_26)
        self._ends: dict[Program, asyncio.Event] = {}
        self._asking: dict[Program, list[asyncio.Task[None]]] = {}

    def at(self, program: Program) -> None:
        self._ends[program] = ends = asyncio.Event()
        self._asking[program] = [asyncio.create_task(self._ask(program, ends)) for _ in range(self._clients)]

    async def more(self) -> None:
        """Once more answers have come whole."""
        enough = len(self.seen.whole) + 4 * self._clients
        await eventually(lambda: len(self.seen.whole) >= enough)

    def one_more(self) -> Callable[[], bool]:
        """Whether one more answer has come whole since this call."""
        before = len(self.seen.whole)
        return lambda: len(self.seen.whole) > before

    async def end(self, program: Program) -> None:
        """Once what runs there has come whole, or broken."""
        self._ends.pop(program).set()
        await asyncio.gather(*self._asking.pop(program))

    async def leave(self, program: Program) -> None:
        """It ends while what its clients asked for last is under way."""
        self._ends[program].set()
        await program.end()
        await self.end(program)

    async def end_all(self) -> None:
        for program in list(self._ends):
            await self.end(program)

    async def _ask(self, program: Program, ends: asyncio.Event) -> None:
        async with client_of(program) as http:
            try:
                while not ends.is_set():
                    await ask(http, self._key, self.seen, self._dice)
            except httpx2.HTTPError:
                self.seen.broken += 1


async def test_bills_are_right_whichever_replica_is_killed_or_stands_still_and_the_others_serve_meanwhile(
    site: Site,
) -> None:
    site.backend.standing = tokens = Tokens(7)
    async with site.desk() as desk:
        account = (await desk.accounts.create("killed")).id
        await desk.ledger.credit(account, CREDIT_NANO, "start")
        _, key = await desk.keys.create(account, limits=FREELY)
    load = Load(key)
    async with contextlib.AsyncExitStack() as stack:
        programs = {name: await stack.enter_async_context(site.replica(name)) for name in ("one", "two")}
        for program in programs.values():
            load.at(program)
        for name in ("one", "two"):
            await load.more()
            programs[name].process.send_signal(signal.SIGSTOP)
            await load.more()
            programs[name].process.send_signal(signal.SIGCONT)
            await load.more()
            programs[name].process.send_signal(signal.SIGKILL)
            await programs[name].process.wait()
            await load.more()
            await load.end(programs.pop(name))
            if name == "one":
                programs[name] = await stack.enter_async_context(site.replica(name))
                load.at(programs[name])
        await load.end(programs["one"])
        await programs["one"].end()
    assert load.seen.broken > 0, "the kills hit nobody"
    async with site.desk() as desk:
        assert await desk.ledger.check(of_all_entries=True) == []
        assert await desk.ledger.balance(account) == Balance(CREDIT_NANO - charged_nano(site, load.seen, tokens))


def charged_nano(site: Site, seen: Seen, tokens: Tokens) -> int:
    """What came whole was charged by what was made for it, and nothing twice."""
    with site.outside() as outside:
        settled = outside.rows("SELECT reference, revenue_nano FROM ledger_transactions WHERE kind = 'settle'")
        costs = dict(outside.rows("SELECT id, cost_nano FROM requests WHERE cost_nano > 0"))
    charged = dict(settled)
    assert len(charged) == len(settled), "a request was settled twice"
    assert costs == charged
    for request_id, made in seen.whole.items():
        assert charged[request_id] == cost_nano(*made)
    for request_id, amount_nano in settled:
        assert amount_nano == cost_nano(*tokens.made[request_id])
    return sum(charged.values())


async def test_what_a_killed_replica_held_and_the_places_that_it_had_are_given_to_others(site: Site) -> None:
    never = asyncio.Event()
    asked = chat_body(model=PRICED["id"], max_tokens=16)
    async with site.desk() as desk:
        keys = []
        for credit_nano, limits in ((cost_nano(10, 16), FREELY), (CREDIT_NANO, OwnLimits(None, None, None, 1))):
            account = (await desk.accounts.create("killed")).id
            await desk.ledger.credit(account, credit_nano, account)
            keys.append((await desk.keys.create(account, limits=limits))[1])
    async with (
        site.replica("one") as one,
        site.replica("two") as two,
        client_of(one) as first,
        client_of(two) as second,
    ):

        async def refusal(http: httpx2.AsyncClient, key: str) -> str:
            answer = await http.post("/v1/chat/completions", json=asked, headers=bearer(key))
            return "" if answer.status_code == 200 else answer.json()["error"]["code"]

        site.backend.answer_with(*[held(never, unary())] * 2)
        site.backend.standing = unary(10, 16)
        running = [asyncio.create_task(refusal(first, key)) for key in keys]
        await site.backend.chats_asked(2)
        assert [await refusal(second, key) for key in keys] == ["balance_held", "in_flight"]
        one.process.send_signal(signal.SIGKILL)
        assert all(isinstance(end, httpx2.HTTPError) for end in await asyncio.gather(*running, return_exceptions=True))
        loop = asyncio.get_running_loop()
        killed_at_s = loop.time()
        for key, within_s in zip(keys, (GRACE_S, LEASE_S), strict=True):
            await becomes(lambda key=key: refusal(second, key), lambda code: not code)  # type: ignore[misc]
            assert loop.time() - killed_at_s > within_s / 2  # else nothing was held
    async with site.desk() as desk:
        assert await desk.ledger.check(of_all_entries=True) == []


async def test_what_is_done_at_one_replica_is_so_at_the_other_at_once_and_orders_outlive_who_was_elected(
    site: Site,
) -> None:
    site.backend.standing = unary(10, 16)
    signed_in = {"email": "ann@example.com", "password": PASSWORD}
    async with contextlib.AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(site.replica(name)) for name in ("one", "two")]
        first, second = [await stack.enter_async_context(client_of(program)) for program in (one, two)]

        registered = await first.post("/v1/auth/register", json=signed_in)
        assert registered.status_code == 201, registered.text
        token = bearer(registered.json()["token"])
        account = registered.json()["user"]["account_id"]
        assert (await second.get("/v1/auth/me", headers=token)).status_code == 200
        again = await second.post("/v1/auth/login", json=signed_in)
        assert (await first.get("/v1/auth/me", headers=bearer(again.json()["token"]))).status_code == 200
        assert (await second.post("/v1/auth/logout", headers=token)).status_code < 300
        await becomes(lambda: first.get("/v1/auth/me", headers=token), lambda told: told.status_code == 401)

        made = (await first.post("/v1/auth/keys", json={}, headers=bearer(again.json()["token"]))).json()
        key = bearer(made["key"])
        asked = chat_body(model=PRICED["id"], max_tokens=16)
        await site.command("accounts", "credit", account, "0.10")
        for http in (second, first):
            assert (await http.post("/v1/chat/completions", json=asked, headers=key)).status_code == 200

        elected, other = (one, two) if await is_elected(one) else (two, one)
        await site.command("accounts", "adjust", account, "-0.01")
        elected.process.send_signal(signal.SIGKILL)
        await elected.process.wait()
        await site.command("accounts", "adjust", account, "-0.02")
        assert await is_elected(other)

        left = first if other is one else second
        spent_nano = 2 * cost_nano(10, 16)
        async with site.desk() as desk:
            assert await desk.ledger.balance(account) == Balance(70_000_000 - spent_nano)
            await desk.keys.revoke(made["id"])
        await becomes(lambda: left.get("/v1/credits", headers=key), lambda told: told.status_code == 401)


async def is_elected(program: Program) -> bool:
    async with client_of(program) as http:
        return "\ngateway_elected 1.0\n" in (await http.get("/metrics")).text
