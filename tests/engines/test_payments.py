"""Money that comes and goes at replicas under load: whoever of them hears of it, however often, and who is killed."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import orjson
import pytest

from mcp_gateway.core.ledger.by_hand import HandEntry
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.money import NANO_PER_CENT, parse_usd
from tests.crash.test_auto_topups import BODY, WEBHOOK
from tests.crash.test_kill import Seen, Tokens, cost_nano
from tests.engines.gateways import Site, client_of, site_at
from tests.engines.test_processes import FREELY, Load, is_elected
from tests.fake_stripe import (
    SECRET_KEY,
    WEBHOOK_SECRET,
    FakeStripe,
    dispute,
    event,
    refunded_charge,
    saving_intent,
    session,
    signed,
)
from tests.patience import becomes, eventually
from tests.postgres_server import Outside
from tests.program import Program
from tests.serving import PRICED, bearer, chat_body
from tests.surfaces import CHAT_SPOKEN, answers

pytestmark = pytest.mark.engines

AUTO_TOPUP = {"threshold_usd": "5.00", "amount_usd": "10.00", "max_per_day_usd": "1000.00"}
DEAR = """
[[models]]
id = "dear/tiny"
backend_model = "tiny"
context_window = 2048
[models.pricing]
prompt = "0.01"
completion = "0.01"
"""


@pytest.fixture
async def site(tmp_path: Path, valkey_url: str, stripe: FakeStripe) -> AsyncIterator[Site]:
    of_stripe = {"secret_key": SECRET_KEY, "webhook_secret": WEBHOOK_SECRET, "api_base": stripe.url, "auto_topup": True}
    lines = [f"{name} = {orjson.dumps(value).decode()}" for name, value in of_stripe.items()]
    async with site_at(tmp_path, valkey_url, "\n".join(["[stripe]", *lines, DEAR])) as site:
        yield site


class Pair:
    """Two replicas, and who asks each of them; one that was killed begins again."""

    def __init__(self, site: Site, stack: AsyncExitStack) -> None:
        self._site = site
        self._stack = stack
        self.programs: dict[str, Program] = {}
        self.clients: dict[str, httpx2.AsyncClient] = {}

    async def begin(self, name: str) -> None:
        self.programs[name] = program = await self._stack.enter_async_context(self._site.replica(name))
        self.clients[name] = await self._stack.enter_async_context(client_of(program))

    async def kill(self, name: str) -> None:
        program = self.programs.pop(name)
        program.process.send_signal(signal.SIGKILL)
        await program.process.wait()
        del self.clients[name]

    async def tell(self, told: bytes) -> None:
        """Those that are there, twice each and all at once."""
        posts = [post(http, told) for http in self.clients.values() for _ in range(2)]
        assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}

    async def killed_as_it_hears(self, name: str, told: bytes, until: Callable[[], object]) -> None:
        """Killed once that is so, while it takes what both are told; then the other is told again."""
        both = [asyncio.create_task(post(http, told)) for http in self.clients.values()]
        await eventually(until)
        await self.kill(name)
        await asyncio.gather(*both, return_exceptions=True)
        await self.tell(told)

    async def asked(self, key: str) -> list[str]:
        """What each refuses a chat with; nothing where it does not."""
        body = chat_body(model=PRICED["id"], max_tokens=16)
        told = [await http.post(CHAT_SPOKEN.path, json=body, headers=bearer(key)) for http in self.clients.values()]
        return [CHAT_SPOKEN.refusal_of(answer) or "" for answer in told]

    async def wallets(self, key: str) -> list[dict[str, str]]:
        return [(await http.get("/v1/credits", headers=bearer(key))).json() for http in self.clients.values()]


async def post(http: httpx2.AsyncClient, told: bytes) -> httpx2.Response:
    headers = {"Content-Type": "application/json", "Stripe-Signature": signed(told)}
    return await http.post(WEBHOOK, content=told, headers=headers)


async def test_what_is_paid_goes_back_and_is_adjusted_is_booked_once_and_spent_once_whoever_hears_of_it_and_is_killed(
    site: Site,
) -> None:
    site.backend.standing = tokens = Tokens(7)
    async with site.desk() as desk, AsyncExitStack() as stack:
        account = (await desk.accounts.create("paying")).id
        _, key = await desk.keys.create(account, limits=FREELY)
        load, pair, outside = Load(key, clients=2), Pair(site, stack), stack.enter_context(site.outside())
        for name in ("one", "two"):
            await pair.begin(name)
        for number, killed in enumerate(("one", "two", "one")):
            payment, disputed = f"pi_{number}", f"dp_{number}"
            assert await pair.asked(key) == ["insufficient_balance"] * 2
            await pair.tell(event("checkout.session.completed", session(account, 100, payment=payment)))
            assert await pair.asked(key) == ["", ""]
            load.seen.refused.clear()
            for program in pair.programs.values():
                load.at(program)
            await load.more()
            await pair.tell(event("charge.refunded", refunded_charge(40, payment=payment)))
            await desk.cashier.enter(HandEntry(account_id=account, kind="adjustment", amount_nano=-10 * NANO_PER_CENT))
            withdrawn = dispute(30, "needs_response", payment=payment, id=disputed)
            await pair.tell(event("charge.dispute.created", withdrawn))
            await desk.cashier.enter(HandEntry(account_id=account, kind="credit", amount_nano=5 * NANO_PER_CENT))
            await load.more()
            assert not load.seen.refused, "there was money"
            back = event("charge.refunded", refunded_charge(100, payment=payment))
            await pair.killed_as_it_hears(killed, back, is_noted(outside, back) if number else load.one_more())
            await becomes(lambda: pair.asked(key), lambda codes: codes == ["insufficient_balance"])
            await load.end_all()
            await pair.begin(killed)
            assert await pair.asked(key) == ["insufficient_balance"] * 2
            await pair.tell(event("charge.dispute.closed", dispute(30, "won", payment=payment, id=disputed)))
        await eventually(lambda: not outside.rows("SELECT 1 FROM allotments WHERE amount_nano > 0"))
        told = [parse_usd(wallet["balance_usd"]) for wallet in await pair.wallets(key)]
        for program in pair.programs.values():
            await program.end()
        assert load.seen.broken > 0, "the kills hit nobody"
        left_nano = 3 * -5 * NANO_PER_CENT - spent_nano(outside, load.seen, tokens)
        assert await desk.ledger.check(of_all_entries=True) == []
        assert await desk.ledger.balance(account) == Balance(left_nano)
        assert told == [left_nano] * 2


def is_noted(outside: Outside, told: bytes) -> Callable[[], object]:
    """Whether the event is in the database."""
    return lambda: outside.rows("SELECT 1 FROM stripe_events WHERE id = ?", orjson.loads(told)["id"])


def spent_nano(outside: Outside, seen: Seen, tokens: Tokens) -> int:
    """What came whole was charged by what its client was told; nothing twice, and no more than was made."""
    settled = outside.rows("SELECT reference, revenue_nano FROM ledger_transactions WHERE kind = 'settle'")
    charged = dict(settled)
    assert len(charged) == len(settled), "a request was settled twice"
    assert {one: charged[one] for one in seen.whole} == {one: cost_nano(*told) for one, told in seen.whole.items()}
    assert all(nano <= cost_nano(*tokens.made.get(one, (10, 16))) for one, nano in settled)
    return sum(charged.values())


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "frozen"])
async def test_a_low_balance_is_paid_for_once_though_who_asks_stripe_is_killed_or_stands_still(
    site: Site, stripe: FakeStripe, is_killed: bool
) -> None:
    """The other asks Stripe after that payment once it is elected; its event comes to all, and the answer to one."""
    site.backend.standing = answers(CHAT_SPOKEN, 10, 20)
    stripe.customers.add("cus_low")
    async with site.desk() as desk, AsyncExitStack() as stack:
        account = (await desk.accounts.create("low")).id
        await desk.ledger.credit(account, parse_usd("5.10"), "start")
        _, key = await desk.keys.create(account, limits=FREELY)
        pair, outside = Pair(site, stack), stack.enter_context(site.outside())
        for name in ("one", "two"):
            await pair.begin(name)
        saved = saving_intent(account, customer="cus_low", method="pm_1", payment="pi_saving")
        await pair.tell(event("payment_intent.succeeded", saved))
        put = await pair.clients["one"].put("/v1/billing/auto-topup", json=AUTO_TOPUP, headers=bearer(key))
        assert put.status_code == 200, put.text
        elected, other = ("one", "two") if await is_elected(pair.programs["one"]) else ("two", "one")
        stripe.gate.clear()
        sent = bearer(key) | CHAT_SPOKEN.sent_headers
        assert (await pair.clients[other].post(CHAT_SPOKEN.path, content=BODY, headers=sent)).status_code == 200
        await eventually(lambda: stripe.intents)
        if is_killed:
            await pair.kill(elected)
        else:
            pair.programs[elected].process.send_signal(signal.SIGSTOP)
        stripe.gate.set()
        await eventually(lambda: outside.rows("SELECT state FROM auto_payments") == [("paid",)])
        if not is_killed:
            pair.programs[elected].process.send_signal(signal.SIGCONT)
        [intent] = stripe.intents.values()
        await pair.tell(event("payment_intent.succeeded", intent))
        await eventually(lambda: not outside.rows("SELECT 1 FROM allotments WHERE amount_nano > 0"))
        assert {wallet["balance_usd"] for wallet in await pair.wallets(key)} == {"14.80"}
        for program in pair.programs.values():
            await program.end()
        assert len(stripe.intents) == 1
        assert await desk.ledger.check(of_all_entries=True) == []
