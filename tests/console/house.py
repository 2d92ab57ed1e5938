"""A served gateway with a person of whom there is something to see, and one browser for a file of tests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Browser

from mcp_gateway.core.clock import DAY_MS, MINUTE_MS
from mcp_gateway.core.identity.passwords import Passwords
from mcp_gateway.core.ids import now_ms
from mcp_gateway.core.ledger.budgets import Budget, BudgetGroup, MakeBudgets
from mcp_gateway.core.observe.status_board import ComponentState, NoteMinute
from mcp_gateway.core.service_notice import TellIncident
from tests.console.browser import Watched, chromium
from tests.databases import store_of
from tests.serving import Door, open_door

PASSWORD = "a quiet river in May"


@dataclass(frozen=True, slots=True)
class House:
    """The gateway, the browser, and who signs in."""

    door: Door
    browser: Browser
    email: str
    account_id: str
    request_id: str
    prefix: str = ""

    async def sign_in(self, watched: Watched, email: str | None = None) -> None:
        page = watched.page
        await page.goto(f"{self.prefix}/console/sign-in")
        await page.get_by_label("E-mail").fill(email or self.email)
        await page.get_by_label("Password").fill(PASSWORD)
        await page.get_by_role("button", name="Sign in").click()
        await page.wait_for_url("**/console/keys")


@asynccontextmanager
async def open_house(data_dir: Path, prefix: str = "", **settings: Any) -> AsyncIterator[House]:
    """Under a path, where one is said, as if behind a proxy that leaves it in place."""
    async with (
        open_door(
            data_dir, base_url=f"http://gateway.test{prefix}", users={"registration": "open"}, **settings
        ) as door,
        chromium() as browser,
    ):
        sign_in = door.gateway.sign_in
        sign_in._passwords.close()
        sign_in._passwords = Passwords(time_cost=1, memory_kib=8)  # what hashes cost is told of elsewhere
        email = "ada@example.com"
        signed = await sign_in.register(
            email, PASSWORD, secret=None, counted_as="tests", agent="tests", address="127.0.0.1"
        )
        account_id = signed.person.account_id
        await sign_in.people.change(signed.person.id, role=None, is_administrator=True)
        _, raw = await door.gateway.keys.create(account_id, name="the laptop")
        await door.gateway.keys.create(account_id, name="<script>alert(1)</script>", is_test=True)
        await door.gateway.ledger.credit(account_id, 25_000_000_000, "pi_of_tests")
        await door.gateway.ledger.grant(account_id, 1_500_000_000, "welcome", expires_at_ms=4_000_000_000_000)
        await door.gateway.ledger._store.write(
            MakeBudgets(_budgets_of(account_id), BudgetGroup("grp_1", account_id, "agents"))
        )
        await _give_a_past(door)
        answers = [await door.chat(raw, model=model) for model in ("demo/echo", "demo/echo", "no/such")]
        request_id = answers[0].headers["x-request-id"]
        yield House(door, browser, email, account_id, request_id, prefix)
        await door.nothing_is_left()


def _budgets_of(account_id: str) -> tuple[Budget, ...]:
    return (
        Budget("bud_1", account_id, account_id, 20_000_000_000, "month"),
        Budget("bud_2", account_id, "grp_1", 5_000_000_000, "day"),
    )


async def _give_a_past(door: Door) -> None:
    """To the status page: good and bad days, and incidents that were told."""
    board, store, today = door.gateway.board, store_of(door.gateway), now_ms() // DAY_MS
    for one in board.components():
        for ago in (*range(1, 40), 60, 61):
            state: ComponentState = "down" if ago in (3, 60) else "degraded" if ago in (9, 10) else "operational"
            await store.write(NoteMinute((today - ago) * DAY_MS // MINUTE_MS, ((one.id, state),)))
    await board.restore()
    for text in ("Answers are slow.", "A disk is changed; answers stay slow for an hour.", None, "A model is missing."):
        await store.write(TellIncident(text))
