"""`kill -9` of the real server under load, many times: what clients saw whole is paid exactly, and nothing is left.

Run by `make crash`, apart from the other tests, for it takes its time.
"""

import asyncio
import contextlib
import random
import signal
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import orjson
import pytest

from mcp_gateway.core.config import Settings
from mcp_gateway.core.gateway import DATABASE, open_desk
from mcp_gateway.core.identity.own_limits import OwnLimits
from tests.program import running_program
from tests.replaying import Asked, ReplayingBackend
from tests.serving import PRICED
from tests.surfaces import SPOKEN, WAYS, answers

pytestmark = pytest.mark.slow

KILLS = 20
CLIENTS = 24
PROMPT_PRICE_NANO, COMPLETION_PRICE_NANO = 300, 700
LIMITS = httpx2.Limits(max_connections=CLIENTS)


@dataclass
class Seen:
    """What clients saw whole, by the gateway's request id: the tokens of prompt and completion."""

    whole: dict[str, tuple[int, int]] = field(default_factory=dict)
    ways: set[tuple[str, bool]] = field(default_factory=set)
    broken: int = 0


class Tokens:
    """A backend whose answers have a length of their own each, a token a frame."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def __call__(self, asked: Asked) -> None:
        spoken = next(one for one in SPOKEN if one.upstream == asked.path)
        prompt, output = self._random.randint(1, 40), self._random.randint(1, 16)
        if not asked.json.get("stream"):
            await asyncio.sleep(self._random.random() * 0.02)
            await answers(spoken, prompt, output)(asked)
            return
        asked.start_stream()
        for event in spoken.stream(prompt, output):
            asked.send_event(event)
            await asyncio.sleep(0.001)
        asked.end_stream()


async def client(http: httpx2.AsyncClient, seen: Seen, dice: random.Random) -> None:
    """Ask without end, in one way after the other, until the server is gone; note each answer that came whole."""
    while True:
        spoken, is_stream = dice.choice(WAYS)
        body = orjson.dumps(spoken.body(is_stream=is_stream))
        try:
            response = await http.post(spoken.path, content=body, headers=spoken.sent_headers)
        except httpx2.HTTPError:
            seen.broken += 1
            return
        if spoken.refusal_of(response) is None:
            usage, _ = spoken.told(response, is_stream=is_stream)
            assert usage is not None
            seen.whole[spoken.request_id_in(response)] = usage[:2]
            seen.ways.add((spoken.name, is_stream))


async def killed_under_load(config: Path, key: str, seen: Seen, dice: random.Random) -> None:
    """Start the server, let clients at it, and kill it at some moment."""
    async with (
        running_program(config) as program,
        httpx2.AsyncClient(
            base_url=program.url, headers={"authorization": f"Bearer {key}"}, timeout=30, limits=LIMITS
        ) as http,
    ):
        load = [asyncio.create_task(client(http, seen, dice)) for _ in range(CLIENTS)]
        await asyncio.sleep(0.2 + dice.random() * 0.4)
        program.process.send_signal(signal.SIGKILL)
        await asyncio.gather(*load)


def write_config(tmp_path: Path, backend: ReplayingBackend) -> Path:
    config = tmp_path / "gateway.toml"
    pricing = "".join(f"{name} = {price!r}\n" for name, price in PRICED["pricing"].items())
    config.write_text(
        f'vllm_urls = ["{backend.url}"]\ndata_dir = "{tmp_path}"\nport = 0\n[[models]]\nid = "{PRICED["id"]}"\n'
        f'backend_model = "tiny"\ncontext_window = 2048\n[models.pricing]\n{pricing}'
    )
    return config


async def test_a_server_killed_under_load_loses_no_bill_and_leaves_no_hold(tmp_path: Path) -> None:
    seen = Seen()
    dice = random.Random(20_26)
    asked_ids: set[str] = set()
    async with ReplayingBackend() as backend:
        backend.standing = Tokens(7)
        config = write_config(tmp_path, backend)
        async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
            account = (await desk.accounts.create("crash")).id
            await desk.ledger.credit(account, 10**12, "start")
            key = (await desk.keys.create(account, limits=OwnLimits(None, None, None, None)))[1]
        for _ in range(KILLS):
            await killed_under_load(config, key, seen, dice)
            asked_ids |= {asked.headers["x-request-id"] for asked in backend.chats}
        async with running_program(config) as program:
            await program.end()
    async with open_desk(Settings.model_validate({"data_dir": tmp_path})) as desk:
        assert await desk.ledger.check() == []
    check_books(tmp_path / DATABASE, seen, asked_ids)


def check_books(database: Path, seen: Seen, asked_ids: set[str]) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        settled = connection.execute(
            "SELECT reference, revenue_nano FROM ledger_transactions WHERE kind = 'settle'"
        ).fetchall()
        held = dict(connection.execute("SELECT reference, held_nano FROM ledger_transactions WHERE kind = 'hold'"))
        assert connection.execute("SELECT COUNT(*) FROM holds").fetchone() == (0,)
    charged = dict(settled)
    assert len(seen.whole) > KILLS * CLIENTS, "hardly any load"
    assert len(seen.ways) == len(WAYS), "a surface was not served"
    assert seen.broken >= KILLS, "the kills hit nobody"
    for request_id, (prompt, completion) in seen.whole.items():
        assert charged[request_id] == prompt * PROMPT_PRICE_NANO + completion * COMPLETION_PRICE_NANO
    assert len(charged) == len(settled), "a request was settled twice"
    for request_id, amount_nano in settled:
        assert request_id in asked_ids, "a bill for what never reached the backend"
        assert amount_nano <= held[request_id]
