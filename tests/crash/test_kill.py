"""`kill -9` of the real server under load, many times: what clients saw whole is paid exactly, and nothing is left.

Some clients have keys with budgets and leases, others make leases and end them.
Run by `make crash`, apart from the other tests, for it takes its time.
"""

import asyncio
import contextlib
import random
import signal
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import open_desk
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.ledger.entries import Balance
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.store.sqlite.database import DATABASE
from tests.patience import PATIENCE_S, eventually
from tests.program import Program, running_program
from tests.replaying import Asked, ReplayingBackend
from tests.serving import PRICED, bearer
from tests.surfaces import SPOKEN, WAYS, answers

pytestmark = pytest.mark.slow

KILLS = 20
CLIENTS = 24
CREDIT_NANO = 10**12
LEASE_S = 7200
PROMPT_PRICE_NANO, COMPLETION_PRICE_NANO = 300, 700
LIMITS = httpx2.Limits(max_connections=CLIENTS + 2)


@dataclass
class Seen:
    """What clients saw whole, by the gateway's request id: tokens of prompt and completion; and what was refused."""

    whole: dict[str, tuple[int, int]] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    ways: set[tuple[str, bool]] = field(default_factory=set)
    broken: int = 0


class Tokens:
    """A backend whose answers have a length of their own each, a token a frame.

    `made` are the tokens of prompt and completion, by the gateway's request id.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.made: dict[str, tuple[int, int]] = {}

    async def __call__(self, asked: Asked) -> None:
        spoken = next(one for one in SPOKEN if one.upstream == asked.path)
        prompt, output = self._random.randint(1, 40), self._random.randint(1, 16)
        self.made[asked.headers["x-request-id"]] = (prompt, output if spoken.is_generated else 0)
        if not asked.json.get("stream"):
            await asyncio.sleep(self._random.random() * 0.02)
            await answers(spoken, prompt, output)(asked)
            return
        asked.start_stream()
        for event in spoken.stream(prompt, output):
            asked.send_event(event)
            await asyncio.sleep(0.001)
        asked.end_stream()


async def client(http: httpx2.AsyncClient, key: str, seen: Seen, dice: random.Random) -> None:
    """Ask without end, in one way after the other, until the server is gone."""
    with contextlib.suppress(httpx2.HTTPError):
        while True:
            await ask(http, key, seen, dice)
    seen.broken += 1


async def ask(http: httpx2.AsyncClient, key: str, seen: Seen, dice: random.Random) -> None:
    """Note an answer that came whole, or why there is none."""
    spoken, is_stream = dice.choice(WAYS)
    body = orjson.dumps(spoken.body(is_stream=is_stream))
    response = await http.post(spoken.path, content=body, headers=bearer(key) | spoken.sent_headers)
    if (code := spoken.refusal_of(response)) is not None:
        seen.refused[code] += 1
    else:
        usage, _ = spoken.told(response, is_stream=is_stream)
        assert usage is not None
        seen.whole[spoken.request_id_in(response)] = usage[:2]
        seen.ways.add((spoken.name, is_stream))


async def lender(http: httpx2.AsyncClient, key: str, seen: Seen, dice: random.Random) -> None:
    """Make a key with a lease, have it spend of that, and end it, without end, until the server is gone."""
    with contextlib.suppress(httpx2.HTTPError):
        while True:
            made = await mint(http, key, "0.01", is_lease=True, lasts_s=LEASE_S // 2)
            await ask(http, made["key"], seen, dice)
            await http.delete(f"/v1/keys/{made['id']}", headers=bearer(key))
    seen.broken += 1


async def mint(
    http: httpx2.AsyncClient, key: str, amount_usd: str, *, is_lease: bool, lasts_s: int = 0
) -> dict[str, Any]:
    budget = {"amount_usd": amount_usd, "window": "total", "lease": is_lease}
    lifetime = {"expires_in_s": lasts_s} if lasts_s else {}
    answer = await http.post("/v1/keys", json={"budgets": [budget]} | lifetime, headers=bearer(key))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


@dataclass
class Line:
    """Raw keys, each made by the one before: the account's, one with a lease, and one with a shared budget under it."""

    top: str
    leased: dict[str, Any]
    bound: dict[str, Any]

    @property
    def keys(self) -> list[str]:
        return [self.top, self.leased["key"], self.bound["key"]]


async def minted_line(config: Path, top: str) -> Line:
    async with running_program(config) as program, httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_S) as http:
        leased = await mint(http, top, "100", is_lease=True, lasts_s=LEASE_S)
        line = Line(top, leased, await mint(http, leased["key"], "50", is_lease=False))
        await program.end()
    return line


async def killed_under_load(config: Path, line: Line, seen: Seen, dice: random.Random) -> None:
    """Start the server, let clients at it, and kill it once some more answers have come whole."""
    async with (
        running_program(config) as program,
        httpx2.AsyncClient(base_url=program.url, timeout=30, limits=LIMITS) as http,
    ):
        keys = line.keys * (CLIENTS // 3)
        load = [asyncio.create_task(client(http, key, seen, dice)) for key in keys]
        load += [asyncio.create_task(lender(http, key, seen, dice)) for key in line.keys[:2]]
        enough = len(seen.whole) + dice.randint(CLIENTS, 4 * CLIENTS)
        await eventually(lambda: len(seen.whole) >= enough)
        program.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*load)


def write_config(tmp_path: Path, backend: ReplayingBackend, ample_holds: int = 8) -> Path:
    config = tmp_path / "gateway.toml"
    pricing = "".join(f"{name} = {price!r}\n" for name, price in PRICED["pricing"].items())
    config.write_text(
        f'vllm_urls = ["{backend.url}"]\ndata_dir = "{tmp_path}"\nport = 0\n'
        f"[wallet]\nample_holds = {ample_holds}\n[limits]\nminted_keys_per_minute = 10000\n"
        f'[[models]]\nid = "{PRICED["id"]}"\n'
        f'backend_model = "tiny"\ncontext_window = 2048\n[models.pricing]\n{pricing}'
    )
    return config


@pytest.mark.parametrize("ample_holds", [8, 10**12], ids=["ample", "growing"])
async def test_a_server_killed_under_load_loses_no_bill_and_leaves_no_hold(tmp_path: Path, ample_holds: int) -> None:
    """Also where chats and completions are held for as they come, since no wallet is ever ample."""
    seen = Seen()
    dice = random.Random(20_26)
    tokens = Tokens(7)
    async with ReplayingBackend() as backend:
        backend.standing = tokens
        config = write_config(tmp_path, backend, ample_holds)
        async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
            account = (await desk.accounts.create("crash")).id
            await desk.ledger.credit(account, CREDIT_NANO, "start")
            top, key = await desk.keys.create(account, limits=OwnLimits(None, None, None, None))
        line = await minted_line(config, key)
        for _ in range(KILLS):
            await killed_under_load(config, line, seen, dice)
        async with running_program(config) as program:
            told = await wallet(program, key)
            assert (await program.weight()).open_holds == 0
            await end_with_made(program, key, top.id)
            await program.end()
    async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
        assert await desk.ledger.check() == []
        balance = await desk.ledger.balance(account)
    spent_nano = check_books(tmp_path / DATABASE, seen, tokens.made)
    assert (balance, told["held_usd"]) == (Balance(CREDIT_NANO - spent_nano), "0.00")
    assert parse_usd(told["balance_usd"]) + parse_usd(told["leased_usd"]) == CREDIT_NANO - spent_nano
    check_budgets(tmp_path / DATABASE, line)


async def wallet(program: Program, key: str) -> dict[str, str]:
    async with httpx2.AsyncClient(base_url=program.url, headers=bearer(key), timeout=PATIENCE_S) as http:
        told: dict[str, str] = (await http.get("/v1/credits")).json()
        return told


async def end_with_made(program: Program, key: str, key_id: str) -> None:
    async with httpx2.AsyncClient(base_url=program.url, headers=bearer(key), timeout=PATIENCE_S) as http:
        assert (await http.delete(f"/v1/keys/{key_id}?with_made=true")).status_code == 200


def check_budgets(database: Path, line: Line) -> None:
    """Of each budget as much was spent as by the keys that it bounds, now that all leases have returned."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        budgets = "SELECT holder, IFNULL(spent_nano, 0) FROM budgets LEFT JOIN budget_windows ON budget_id = id"
        spent = dict(connection.execute(budgets).fetchall())
        costs = Counter[str](dict(connection.execute("SELECT key_id, SUM(cost_nano) FROM requests GROUP BY key_id")))
        made_by = dict(connection.execute("SELECT key_id, made_by FROM key_rights").fetchall())
        assert connection.execute("SELECT COUNT(*) FROM leases WHERE returned_nano IS NULL").fetchall() == [(0,)]
    assert len(spent) > KILLS, "hardly any lease was made"
    assert min(spent[line.leased["id"]], spent[line.bound["id"]]) > 0, "a budget was not spent of"
    for holder, spent_nano in spent.items():
        assert spent_nano == sum(costs[key] for key in made_by if holder in makers_of(key, made_by))


def makers_of(key: str | None, made_by: dict[str, str | None]) -> list[str]:
    """A key, the one that made it, and so on."""
    return [] if key is None else [key, *makers_of(made_by.get(key), made_by)]


def check_books(database: Path, seen: Seen, made: dict[str, tuple[int, int]]) -> int:
    """Every entry is a settlement of exactly what the backend made; returns what all of them come to."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        entries = "SELECT reference, revenue_nano FROM ledger_transactions WHERE kind = 'settle'"
        settled = connection.execute(entries).fetchall()
        kinds = "SELECT DISTINCT kind FROM ledger_transactions ORDER BY kind"
        assert connection.execute(kinds).fetchall() == [("credit",), ("settle",)]
        costs = dict(connection.execute("SELECT id, cost_nano FROM requests WHERE cost_nano"))
    charged = dict(settled)
    assert len(seen.whole) > KILLS * CLIENTS, "hardly any load"
    assert len(seen.ways) == len(WAYS), "a surface was not served"
    assert seen.broken >= KILLS, "the kills hit nobody"
    for request_id, tokens in seen.whole.items():
        assert charged[request_id] == cost_nano(*tokens)
    assert len(charged) == len(settled), "a request was settled twice"
    for request_id, amount_nano in settled:
        assert request_id in made, "a bill for what never reached the backend"
        assert amount_nano == cost_nano(*made[request_id])
    assert costs == charged, "a request costs something that was not settled, or other than that"
    return sum(charged.values())


def cost_nano(prompt_tokens: int, completion_tokens: int) -> int:
    return prompt_tokens * PROMPT_PRICE_NANO + completion_tokens * COMPLETION_PRICE_NANO
