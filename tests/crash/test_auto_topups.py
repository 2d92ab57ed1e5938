"""`kill -9` of the real server while low balances are paid for: what Stripe took is credited once, and taken once.

Run by `make crash`.
"""

import asyncio
import contextlib
import random
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.money import NANO_PER_CENT, NANO_PER_USD
from mcp_gateway.core.payments.facts import ACCOUNT, AUTO_PAYMENT
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.fake_stripe import SECRET_KEY, WEBHOOK_SECRET, FakeStripe, event, saving_intent, signed
from tests.patience import PATIENCE_S, eventually
from tests.program import running_program
from tests.replaying import ReplayingBackend
from tests.serving import bearer
from tests.surfaces import CHAT_SPOKEN, answers

pytestmark = pytest.mark.slow

KILLS_OF_A_KIND = 3
ACCOUNTS = 3
START_NANO, THRESHOLD_NANO, AMOUNT_NANO = 6 * NANO_PER_USD, 5 * NANO_PER_USD, 10 * NANO_PER_USD
TERMS = {"threshold_usd": "5.00", "amount_usd": "10.00", "max_per_day_usd": "1000.00"}
WEBHOOK = "/v1/billing/webhook"
BODY = orjson.dumps({"model": "dear/tiny", "max_tokens": 20, "messages": [{"role": "user", "content": "x"}]})
"""0.30 USD by the answer that it gets."""


@dataclass(frozen=True)
class Scene:
    """The program beside its Stripe: what a kind of kill waits for."""

    http: httpx2.AsyncClient
    stripe: FakeStripe
    database: Path

    def is_begun(self) -> bool:
        """Whether a payment is due or asked for."""
        [count] = column(self.database, "SELECT COUNT(*) FROM auto_payments WHERE state IN ('due', 'asked')")
        return count > 0

    async def at_rest(self) -> None:
        """Once what an earlier kill has left is made and credited."""
        await eventually(lambda: not self.is_begun())

    async def made(self) -> None:
        """Once Stripe has taken further money, whatever has been heard of it."""
        before = len(self.stripe.intents)
        await eventually(lambda: len(self.stripe.intents) > before)


Kind = Callable[[Scene], Awaitable[None]]
"""Returns at the moment of the kill."""


async def as_it_begins(scene: Scene) -> None:
    """Or goes on with what another kill has left."""
    await eventually(scene.is_begun)


async def before_the_answer(scene: Scene) -> None:
    await scene.at_rest()
    scene.stripe.gate.clear()
    await scene.made()


async def after_a_lost_answer(scene: Scene) -> None:
    await scene.at_rest()
    scene.stripe.loses_answers = True
    await scene.made()


async def as_the_answer_arrives(scene: Scene) -> None:
    await scene.at_rest()
    await scene.made()
    await asyncio.sleep(random.random() * 0.01)


async def as_the_event_arrives(scene: Scene) -> None:
    """While the call still has no answer; what the killed server has answered nobody heard."""
    await before_the_answer(scene)
    told = asyncio.create_task(tell_of(scene.http, [*scene.stripe.intents.values()][-1]))
    await asyncio.sleep(random.random() * 0.01)
    told.add_done_callback(lambda done: done.cancelled() or done.exception())


KINDS: tuple[Kind, ...] = (
    as_it_begins,
    before_the_answer,
    after_a_lost_answer,
    as_the_answer_arrives,
    as_the_event_arrives,
)


async def tell_of(http: httpx2.AsyncClient, intent: dict[str, Any]) -> int:
    body = event("payment_intent.succeeded", intent)
    headers = {"Content-Type": "application/json", "Stripe-Signature": signed(body)}
    return (await http.post(WEBHOOK, content=body, headers=headers)).status_code


def column(database: Path, sql: str) -> list[int]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return [value for (value,) in connection.execute(sql)]


async def spend(http: httpx2.AsyncClient, key: str) -> None:
    """Ask without end, until the server is gone; seldom while there is no money."""
    with contextlib.suppress(httpx2.HTTPError):
        while True:
            answer = await http.post(CHAT_SPOKEN.path, content=BODY, headers=bearer(key) | CHAT_SPOKEN.sent_headers)
            if answer.status_code != 200:
                await asyncio.sleep(0.05)


async def killed_while_it_pays(config: Path, stripe: FakeStripe, keys: list[str], kind: Kind) -> None:
    async with running_program(config) as program, httpx2.AsyncClient(base_url=program.url, timeout=30) as http:
        load = [asyncio.create_task(spend(http, key)) for key in keys]
        await kind(Scene(http, stripe, config.parent / DATABASE))
        program.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*load)
    stripe.loses_answers = False
    stripe.gate.set()


def write_config(tmp_path: Path, backend: ReplayingBackend, stripe: FakeStripe) -> Path:
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'vllm_urls = ["{backend.url}"]\ndata_dir = "{tmp_path}"\nport = 0\n'
        f'[stripe]\nsecret_key = "{SECRET_KEY}"\nwebhook_secret = "{WEBHOOK_SECRET}"\napi_base = "{stripe.url}"\n'
        'auto_topup = true\n[[models]]\nid = "dear/tiny"\nbackend_model = "tiny"\ncontext_window = 2048\n'
        '[models.pricing]\nprompt = "0.01"\ncompletion = "0.01"\n'
    )
    return config


async def topped_up_accounts(config: Path, stripe: FakeStripe) -> dict[str, str]:
    """A key of each, by the account's id: each has a saved payment method, and is topped up by itself."""
    keys = {}
    async with open_desk(Settings.model_validate({"data_dir": config.parent})) as desk:
        for _ in range(ACCOUNTS):
            account = (await desk.accounts.create("crash")).id
            await desk.ledger.credit(account, START_NANO, f"start {account}")
            _, keys[account] = await desk.keys.create(account, limits=OwnLimits(None, None, None, None))
    async with running_program(config) as program, httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_S) as http:
        for account, key in keys.items():
            stripe.customers.add(customer := f"cus_{account}")
            intent = saving_intent(account, customer=customer, method="pm_1", payment=f"pi_of_{account}")
            assert await tell_of(http, intent) == 200
            put = await http.put("/v1/billing/auto-topup", json=TERMS, headers=bearer(key))
            assert put.status_code == 200, put.text
        await program.end()
    return keys


async def test_what_stripe_took_is_credited_once_and_taken_once_however_often_the_server_is_killed(
    tmp_path: Path, stripe: FakeStripe
) -> None:
    """By what the gateway asks of Stripe alone, until all events come at the end, again where the first was cut off."""
    database = tmp_path / DATABASE
    async with ReplayingBackend() as backend:
        backend.standing = answers(CHAT_SPOKEN, 10, 20)
        config = write_config(tmp_path, backend, stripe)
        keys = await topped_up_accounts(config, stripe)
        for _ in range(KILLS_OF_A_KIND):
            for kind in KINDS:
                await killed_while_it_pays(config, stripe, [*keys.values()], kind)
        async with (
            running_program(config) as program,
            httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_S) as http,
        ):
            await Scene(http, stripe, database).at_rest()
            check_payments(database, stripe, [*keys])
            assert {await tell_of(http, one) for one in stripe.intents.values()} == {200}
            check_payments(database, stripe, [*keys])
            await program.end()
    async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
        assert await desk.ledger.check() == []
        for account in keys:
            balance_nano = (await desk.ledger.balance(account)).spendable_nano
            assert THRESHOLD_NANO <= balance_nano < THRESHOLD_NANO + AMOUNT_NANO


def check_payments(database: Path, stripe: FakeStripe, accounts: list[str]) -> None:
    """Each payment that was begun is one at Stripe, and one entry of the ledger."""
    made = [*stripe.intents.values()]
    assert len(made) >= KILLS_OF_A_KIND * (len(KINDS) - 1), "hardly any payment"
    assert {(one["status"], one["amount"] * NANO_PER_CENT) for one in made} == {("succeeded", AMOUNT_NANO)}
    begun = [one["metadata"][AUTO_PAYMENT] for one in made]
    with contextlib.closing(sqlite3.connect(database)) as connection:
        states = dict(connection.execute("SELECT id, state FROM auto_payments").fetchall())
        entries = "SELECT account_id, reference, paid_nano FROM ledger_transactions WHERE kind = 'credit'"
        credited = connection.execute(f"{entries} AND reference LIKE 'pi_%'").fetchall()
    assert sorted(begun) == sorted(states), "something was taken twice, or never, or by nobody's wish"
    assert set(states.values()) == {"paid"}
    assert sorted(credited) == sorted((one["metadata"][ACCOUNT], one["id"], AMOUNT_NANO) for one in made)
    assert {account for account, _, _ in credited} == {*accounts}
