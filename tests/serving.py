"""The real gateway behind a real server and socket, in a test's own loop; accounts, keys and clients for it."""

import asyncio
import contextlib
import logging
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, cast

import httpx2
import openai
import orjson
from pydantic import SecretStr
from starlette.types import ASGIApp

from http_api.app import build_app, operations_in
from http_api.connection import Bounds, Census, Connection
from http_api.operations import AnyOperation
from http_api.program import census_of, mcp_door
from http_api.protected_resources import ProtectedResources
from http_api.serve import DrainingServer, config_of
from mcp_gateway.core.caller import Role
from mcp_gateway.core.config import Settings
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.gateway import Desk, Gateway, open_desk, open_gateway
from mcp_gateway.core.identity.accounts import Accounts
from mcp_gateway.core.identity.admin_keys import AdminKeys
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.ids import new_id, now_ms
from mcp_gateway.core.ledger.entries import HeldNow
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.store.sqlite.database import DATABASE
from mcp_gateway.mcp_door.endpoints import McpDoor
from tests import databases
from tests.databases import kept_by, migrated, outside, store_of
from tests.declared import Declared
from tests.listening import closed
from tests.logged import lines_logged
from tests.patience import PATIENCE_S, eventually

UPSTREAM = {"start_wait_s": PATIENCE_S, "discovery_interval_s": 1e9}
"""Backends are asked how they are as a gateway starts, and from then on when a test says so."""
WORST: dict[str, Any] = {"ample_holds": 0}
"""Settings of the wallet with which every request holds its worst case, however little its account has."""
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients that speak plain HTTP: each would take milliseconds to make a context of its own."""
BASE_URL = "http://gateway.test"
valkey_urls: Iterator[str] | None = None
"""Of empty databases, where every gateway that is served is to have its limits in one."""
NOON_S = 1_900_000_000 // 86_400 * 86_400 + 43_200.0
UNLIMITED = OwnLimits(None, None, None, None)
MESSAGES = [{"role": "user", "content": "Say hello."}]
PRICED: dict[str, Any] = {
    "id": "priced/tiny",
    "backend_model": "tiny",
    "context_window": 2048,
    "pricing": {"prompt": "0.0000003", "completion": "0.0000007"},
}
FREE: dict[str, Any] = {"id": "free/tiny", "backend_model": "tiny", "context_window": 2048, "free": True}


class Clock:
    """The wall clock that limits go by; stands still unless a test moves it."""

    def __init__(self, now_s: float = NOON_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Door:
    """A served gateway."""

    gateway: Gateway
    server: DrainingServer
    url: str
    port: int
    http: httpx2.AsyncClient
    clock: Clock
    data_dir: Path
    errors: list[str]
    """What the server, the loop or the gateway logged as an error since it began."""
    operations: Sequence[AnyOperation]
    mcp_door: McpDoor
    _stack: contextlib.AsyncExitStack
    _desk: Desk | None = None

    @property
    def is_on_sqlite(self) -> bool:
        """Whether its database is a file, and not PostgreSQL's."""
        return self.gateway.settings.database_url is None

    @property
    def is_replica(self) -> bool:
        """Whether others may serve from its database beside it, so that it holds of what it has drawn alone."""
        return self.gateway.settings.database_place.is_shared

    async def account(self, credit_usd: str = "0") -> str:
        """A new account's id."""
        account = await Accounts(store_of(self.gateway), new_id=new_id, now_ms=now_ms).create("test")
        if parse_usd(credit_usd):
            await self.gateway.ledger.credit(account.id, parse_usd(credit_usd), account.id)
        return account.id

    async def desk(self) -> Desk:
        """What the command line works on beside the server; opened when it is first asked for, which few tests do."""
        if self._desk is None:
            self._desk = await self._stack.enter_async_context(open_desk(self.gateway.settings))
        return self._desk

    async def key(
        self, account_id: str | None = None, *, limits: OwnLimits = UNLIMITED, credit: str = "0", **rights: Any
    ) -> str:
        """A new key, raw; of a new account where none is named."""
        account_id = account_id or await self.account(credit)
        return (await self.gateway.keys.create(account_id, limits=limits, **rights))[1]

    async def person(
        self, account_id: str | None = None, *, role: Role = "owner", is_administrator: bool = False
    ) -> str:
        """The token of a new user; of a new account where none is named."""
        sign_in = self.gateway.sign_in
        person = await sign_in.people.create(
            f"{new_id('user')}@example.com",
            password_hash=None,
            account_id=account_id or await self.account(),
            role=role,
            is_administrator=is_administrator,
        )
        return (await sign_in.open_session(person, "tests", "127.0.0.1")).token

    async def admin_key(self, **rights: Any) -> str:
        """A new administrator's key, raw."""
        return (await AdminKeys(store_of(self.gateway), new_id=new_id, now_ms=now_ms).create("test", **rights))[1]

    async def balance_nano(self, account_id: str) -> int:
        balance = await self.gateway.ledger.balance(account_id)
        assert balance.held_nano == 0
        return balance.spendable_nano

    async def chat(self, key: str | None = None, **fields: Any) -> httpx2.Response:
        """POST a chat of the free model, unless `fields` say otherwise; as a guest without a key."""
        return await self.post(orjson.dumps(chat_body(**fields)), key)

    async def post(
        self, body: bytes, key: str | None = None, path: str = "/v1/chat/completions", **headers: str
    ) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(
            path, content=body, headers=bearer(key) | {"content-type": "application/json"} | named
        )

    async def mcp(
        self, method: str, key: str | None = None, *, path: str = "/v1/mcp", **params: Any
    ) -> httpx2.Response:
        """POST a request of MCP, without a session."""
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        headers = {"accept": "application/json, text/event-stream", "mcp_protocol_version": "2025-06-18"}
        return await self.post(orjson.dumps(message), key, path, **headers)

    async def call(self, tool: str, key: str | None = None, **arguments: Any) -> httpx2.Response:
        """Call a tool over MCP."""
        return await self.mcp("tools/call", key, name=tool, arguments=arguments)

    async def get(self, path: str, key: str | None = None, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.get(path, headers=bearer(key) | named)

    async def health(self) -> httpx2.Response:
        """GET /health as the operator, from this machine."""
        return await self.http.get("/health")

    def openai(self, key: str, prefix: str = "/v1") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(api_key=key, base_url=self.url + prefix, max_retries=0)

    async def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; all that comes back until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def nothing_is_left(self) -> None:
        """Wait for the last accounts; then no hold, slot or task may be left, no nano missing and no error logged."""
        assert await self.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        await eventually(lambda: not self.server.server_state.tasks)
        assert self.gateway.limiter.in_flight == 0
        pool = self.gateway.pool
        assert not any(backend.work.in_flight for backend in (*pool.backends, *pool.providers.values()))
        assert self.gateway.pool.demo.work.in_flight == 0
        await self.gateway.ledger._store.flushed()
        assert self.gateway.ledger.held_now() == HeldNow(0, 0, 0.0, 0)
        assert await self.gateway.ledger.check() == []
        assert self.errors == [], self.errors

    async def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What stands in the database once everything written so far is committed."""
        found: list[tuple[Any, ...]] = await self._read("rows", sql, parameters)
        return found

    async def records(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """The same by the names of their columns."""
        found: list[dict[str, Any]] = await self._read("records", sql, parameters)
        return found

    async def _read(self, shape: str, sql: str, parameters: Sequence[object]) -> Any:
        await self.gateway.ledger._store.flushed()
        with outside(self.gateway.settings) as another:
            return getattr(another, shape)(sql, *parameters)

    async def kept(self) -> bytes:
        """All that it has written by now, wherever."""
        await self.gateway.ledger._store.flushed()
        return kept_by(self.gateway.settings)

    @property
    def environ(self) -> dict[str, str]:
        """By which a command works on what this gateway does, beside it or after it."""
        return environ_of(self.gateway.settings)

    def leave_copy(self, folder: Path) -> None:
        """In `folder`, where nothing is yet, what a process leaves that can do nothing more, if this were one."""
        shutil.copytree(self.data_dir, folder)
        if (url := self.gateway.settings.database_place.url) is not None:
            from tests.postgres_stores import leave_copy  # noqa: PLC0415 - its server takes long to begin

            leave_copy(url, folder)

    async def record(self, response: httpx2.Response) -> dict[str, Any]:
        """The request log's row of an answer."""
        assert await self.gateway.lifecycle.wait_until_idle(PATIENCE_S)
        (found,) = await self.records("SELECT * FROM requests WHERE id = ?", response.headers["x-request-id"])
        return found


def unread(door: Door) -> int:
    """How many connections have more written to them than their clients read."""
    connections = cast("set[Connection]", door.server.server_state.connections)
    return sum(connection.unread is not None for connection in connections)


_addresses = count(1)


def fresh_guest() -> dict[str, str]:
    """A header that makes a guest one who was never seen; for a door that trusts 127.0.0.1 as its proxy."""
    number = next(_addresses)
    return {"x-forwarded-for": f"198.51.{number >> 8}.{number & 255}"}


def bearer(key: str | None) -> dict[str, str]:
    return fresh_guest() if key is None else {"authorization": f"Bearer {key}"}


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": "free/tiny", "messages": MESSAGES} | fields


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error object, after a check that it has the one shape."""
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert {"message", "type", "code", "param"} <= error.keys()
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    return error


LONG_KEPT = {"requests_keep_days": 36_500}
"""Some tests have records of fixed days, which a gateway that lasts for a minute would delete once they are old."""


@contextlib.contextmanager
def database_at(tree: Settings) -> Iterator[Settings]:
    """Settings with a database, whose schema is of today, on the engine that was chosen where they name none."""
    if not databases.is_on_postgres or tree.database_url is not None:
        migrated(tree.data_dir / DATABASE)
        yield tree
        return
    from tests.postgres_stores import database_of  # noqa: PLC0415 - its server takes long to begin

    with database_of(tree.data_dir) as url:
        yield tree.model_copy(update={"database_url": SecretStr(url)})


@contextlib.contextmanager
def servers_at(tree: Settings) -> Iterator[Settings]:
    """The same, and with an empty Valkey, where that was chosen and they name none."""
    if valkey_urls is not None and tree.valkey_url is None:
        tree = tree.model_copy(update={"valkey_url": SecretStr(next(valkey_urls))})
    with database_at(tree) as tree:
        yield tree


def environ_of(tree: Settings) -> dict[str, str]:
    """By which a program works where gateways with these settings do."""
    urls = {"GATEWAY_DATABASE_URL": tree.database_url, "GATEWAY_VALKEY_URL": tree.valkey_url}
    named = {name: url.get_secret_value() for name, url in urls.items() if url is not None}
    return {"GATEWAY_DATA_DIR": str(tree.data_dir)} | named


@contextlib.asynccontextmanager
async def open_door(data_dir: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Door]:
    """Serve on a free port with these settings; 127.0.0.1 is a trusted proxy, so that guests can be told apart.

    `environ` among them has the keys of providers, `resources` what others give tokens for; `listener` is who listens
    already, at an address that the settings name, `base_url` where clients are told that they reach it.
    """
    environ, load, resources = settings.pop("environ", {}), settings.pop("load", None), settings.pop("resources", None)
    listener: socket.socket | None = settings.pop("listener", None)
    base_url = settings.pop("base_url", BASE_URL)
    upstream = UPSTREAM | settings.pop("upstream", {})
    given = {"data_dir": data_dir, "trusted_proxies": ["127.0.0.1"], "upstream": upstream} | LONG_KEPT
    tree = Settings.model_validate(given | settings)
    resources = resources or ProtectedResources.of(tree)
    clock = clock or Clock()
    async with contextlib.AsyncExitStack() as stack:
        tree = stack.enter_context(servers_at(tree))
        gateway = await stack.enter_async_context(open_gateway(tree, now_s=clock, environ=environ, load=load))
        mcp = mcp_door(gateway)
        await stack.enter_async_context(mcp.run())
        app = build_app(gateway, mcp, base_url=base_url, resources=resources)
        mcp.answer_by(app)
        census = census_of(gateway, tree.max_connections or 1000)
        operations = operations_in(gateway, mcp, base_url=BASE_URL, resources=resources)
        declared = Declared(app.for_our_connections, operations)
        server, port = await stack.enter_async_context(served(gateway, declared, census, listener))
        url = f"http://127.0.0.1:{port}"
        errors = stack.enter_context(lines_logged(logging.ERROR))
        operations = operations_in(gateway, mcp, base_url=BASE_URL, resources=resources)

        async def written(_: httpx2.Request) -> None:
            """A row that nobody waits for PostgreSQL has a moment later, and SQLite at once."""
            if not is_on_sqlite and gateway.ledger._store.waiting and gateway.ledger.is_writable:
                with contextlib.suppress(GatewayError):
                    await gateway.ledger._store.flushed()

        is_on_sqlite = tree.database_url is None
        client = httpx2.AsyncClient(
            base_url=url, timeout=PATIENCE_S * 3, verify=NO_TLS, trust_env=False, event_hooks={"request": [written]}
        )
        http = await stack.enter_async_context(client)
        yield Door(gateway, server, url, port, http, clock, data_dir, errors, operations, mcp, stack)
        await declared.check()


@contextlib.asynccontextmanager
async def served(
    gateway: Gateway, app: ASGIApp, census: Census, listener: socket.socket | None = None
) -> AsyncIterator[tuple[DrainingServer, int]]:
    """uvicorn without its signals and its ticks, which an end would wait for; ends when the last answer has."""
    settings = gateway.settings
    bounds = Bounds(settings.max_header_bytes, settings.client_stall_timeout_s)
    note = gateway.refusals.note
    config = config_of(
        app, host="127.0.0.1", port=0, bounds=bounds, census=census, note_refusal=note, drain_timeout_s=0
    )
    config.load()
    ports: list[int] = []

    def ended() -> bool:
        connections = list(server.server_state.connections)
        for connection in connections:
            connection.shutdown()
        return bool(connections)

    server = DrainingServer(config, gateway.lifecycle, 0, 0, lambda _, port: ports.append(port))
    server.lifespan = config.lifespan_class(config)
    await server.startup(None if listener is None else [listener])
    await server.on_tick(0)
    try:
        yield server, ports[0]
    finally:
        await closed(server.servers, ended)
        await eventually(lambda: not server.server_state.tasks)
