"""Both doors as an ordinary ASGI app: under httpx's transport in process, and driven by hand where clients leave."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message

from http_api.any_server import AnyServer
from http_api.app import build_app
from http_api.connection import Bounds
from http_api.program import mcp_door
from http_api.serve import DrainingServer, config_of
from tests.cases import each
from tests.connections import uncapped, unheard
from tests.logged import lines_logged
from tests.patience import PATIENCE_S
from tests.replaying import Asked, ReplayingBackend, chunk, silence
from tests.serving import FREE, PRICED, Door, bearer, chat_body, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
DISCONNECT: Message = {"type": "http.disconnect"}
ORIGIN = "https://page.test"


@dataclass
class InProcess:
    """The app of a door that is also served, so that its books can be looked at; no socket is in between here."""

    door: Door
    backend: ReplayingBackend
    app: AnyServer
    http: httpx2.AsyncClient

    async def chat(self, key: str | None = None, **fields: Any) -> httpx2.Response:
        return await self.http.post("/v1/chat/completions", json=chat_body(**fields), headers=bearer(key))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[InProcess]:
    async with contextlib.AsyncExitStack() as stack:
        backend = await stack.enter_async_context(ReplayingBackend())
        settings: dict[str, Any] = {"vllm_urls": [backend.url], "models": [FREE, PRICED], "cors_origins": [ORIGIN]}
        door = await stack.enter_async_context(open_door(tmp_path_factory.mktemp("any_server"), **settings))
        app = AnyServer(door.server.config.app)  # type: ignore[arg-type]
        transport = httpx2.ASGITransport(app=app)
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, base_url="http://localhost"))
        yield InProcess(door, backend, app, http)


@pytest_asyncio.fixture(loop_scope="module")
async def house(_house: InProcess) -> AsyncIterator[InProcess]:
    _house.backend.answer_with()
    yield _house
    await _house.door.nothing_is_left()


async def test_a_chat_is_answered_in_process_as_over_a_socket(house: InProcess) -> None:
    key = await house.door.key(await house.door.account("1"))
    response = await house.chat(key, model="priced/tiny")
    assert response.status_code == 200
    served = await house.door.chat(key, model="priced/tiny")
    assert response.json()["choices"] == served.json()["choices"]
    assert response.headers.keys() == served.headers.keys() - {"date"}
    assert (await house.door.record(response))["cost_nano"] == (await house.door.record(served))["cost_nano"] > 0


async def test_a_stream_arrives_whole_in_process(house: InProcess) -> None:
    response = await house.chat(stream=True)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.content.endswith(b"data: [DONE]\n\n")
    assert (await house.door.record(response))["error_code"] is None


@each(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/livez", 200),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/chat/completions", 405),
        ("GET", "/v1/billing", 401),
        ("POST", "/v1/chat/completions", 400),
    ],
)
async def test_other_paths_and_refusals_are_served_in_process(
    house: InProcess, method: str, path: str, status: int
) -> None:
    response = await house.http.request(method, path)
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"].startswith("req_")
    if status >= 400:
        error_of(response)


async def test_a_page_of_a_named_origin_is_let_in_in_process(house: InProcess) -> None:
    preflight = {"origin": ORIGIN, "access-control-request-method": "POST"}
    response = await house.http.options("/v1/chat/completions", headers=preflight)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (204, ORIGIN)


async def test_a_request_that_takes_effect_once_is_served_in_process(house: InProcess) -> None:
    headers = bearer(await house.door.key()) | {"idempotency-key": "once"}
    response = await house.http.post("/v1/chat/completions", json=chat_body(), headers=headers)
    assert response.status_code == 200


async def test_the_tools_are_called_in_process(house: InProcess) -> None:
    call = {"name": "chat_completion", "arguments": {"model": "free/tiny", "messages": chat_body()["messages"]}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    headers = bearer(await house.door.key()) | {"accept": "application/json, text/event-stream"}
    response = await house.http.post("/v1/mcp", json=message, headers=headers)
    assert response.status_code == 200, response.text
    assert response.json()["result"]["isError"] is False


@dataclass
class ByHand:
    """A client in the server's place: what it sends is queued, what it is sent is kept."""

    messages: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    sent: list[Message] = field(default_factory=list)
    has_hung_up: bool = False

    @classmethod
    def asking(cls, *pieces: bytes) -> "ByHand":
        client = cls()
        for number, piece in enumerate(pieces, 1):
            client.messages.put_nowait({"type": "http.request", "body": piece, "more_body": number < len(pieces)})
        return client

    def leave(self) -> None:
        self.messages.put_nowait(DISCONNECT)

    async def send(self, message: Message) -> None:
        if self.has_hung_up:
            raise OSError("the client has left")
        self.sent.append(message)

    def call(self, app: AnyServer, key: str, *headers: tuple[bytes, bytes], **differing: Any) -> asyncio.Task[None]:
        named = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json"), *headers]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "query_string": b"",
            "headers": named,
        }

        async def serve() -> None:
            await app(scope | differing, self.messages.get, self.send)
            await asyncio.sleep(0)  # where a cancellation that is left over would come

        return asyncio.ensure_future(serve())


async def ends(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await task
    assert not task.cancelled()
    assert task.cancelling() == 0


async def codes_of(house: InProcess, account_id: str) -> list[Any]:
    assert await house.door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    rows = await house.door.rows("SELECT error_code FROM requests WHERE account_id = ?", account_id)
    return [code for (code,) in rows]


@each("fields", [{}, {"stream": True}, {"model": "priced/tiny"}, {"model": "priced/tiny", "stream": True, "n": 2}])
async def test_a_client_that_leaves_while_its_answer_is_made_frees_its_backend(
    house: InProcess, fields: dict[str, Any]
) -> None:
    house.backend.answer_with(silence)
    account_id = await house.door.account("1")
    before = len(house.backend.chats)
    client = ByHand.asking(orjson.dumps(chat_body(**fields)))
    task = client.call(house.app, await house.door.key(account_id))
    asked = (await house.backend.chats_asked(before + 1))[-1]
    client.leave()
    await ends(task)
    await asked.gone()
    assert client.sent == []
    assert await codes_of(house, account_id) == ["client_closed"]


class OneFrame:
    """A stream of one token, and no more until it is hung up on."""

    async def __call__(self, asked: Asked) -> None:
        asked.start_stream()
        asked.send_event(chunk("Hi", 9, 1))
        await asked.is_gone.wait()


async def test_a_client_that_leaves_between_two_frames_pays_what_it_was_sent(house: InProcess) -> None:
    house.backend.answer_with(OneFrame())
    account_id = await house.door.account("1")
    client = ByHand.asking(orjson.dumps(chat_body(model="priced/tiny", stream=True)))
    begun = asyncio.Event()

    async def send(message: Message) -> None:
        client.sent.append(message)
        if message["type"] == "http.response.body":
            begun.set()

    client.send = send  # type: ignore[method-assign]
    task = client.call(house.app, await house.door.key(account_id))
    await begun.wait()
    client.leave()
    await ends(task)
    assert await codes_of(house, account_id) == ["client_closed"]
    assert await house.door.balance_nano(account_id) < 10**9


async def test_a_server_that_says_by_an_error_of_sending_that_the_client_has_left_is_understood(
    house: InProcess,
) -> None:
    house.backend.answer_with(OneFrame())
    account_id = await house.door.account("1")
    client = ByHand.asking(orjson.dumps(chat_body(stream=True)))
    client.has_hung_up = True
    await ends(client.call(house.app, await house.door.key(account_id)))
    assert await codes_of(house, account_id) == ["client_closed"]


async def test_a_whole_answer_that_nobody_takes_is_billed_and_cancels_nothing_of_the_server(house: InProcess) -> None:
    account_id = await house.door.account("1")
    client = ByHand.asking(orjson.dumps(chat_body(model="priced/tiny")))
    client.has_hung_up = True
    await ends(client.call(house.app, await house.door.key(account_id)))
    assert await codes_of(house, account_id) == [None]


async def test_a_task_that_outlived_a_cancellation_of_its_own_ends_quietly_when_its_client_leaves(
    house: InProcess,
) -> None:
    house.backend.answer_with(silence)
    before = len(house.backend.chats)
    client = ByHand.asking(orjson.dumps(chat_body()))
    key = await house.door.key()

    async def outliving() -> int:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        headers = [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b""}
        await house.app(scope | {"headers": headers}, client.messages.get, client.send)
        return 1

    task = asyncio.ensure_future(outliving())
    await asyncio.sleep(0)
    task.cancel()
    await house.backend.chats_asked(before + 1)
    client.leave()
    async with asyncio.timeout(PATIENCE_S):
        assert await task == 1


@each("pieces", [[b"", b"rest"], [b'{"model":', b'"free/tiny"', b""]])
async def test_a_client_that_leaves_before_its_body_is_whole_is_not_answered(
    house: InProcess, pieces: Iterable[bytes]
) -> None:
    account_id = await house.door.account()
    client = ByHand.asking(*pieces)
    last = client.messages._queue.pop()  # type: ignore[attr-defined]
    assert not last["more_body"]
    client.leave()
    await ends(client.call(house.app, await house.door.key(account_id)))
    assert client.sent == []
    assert await codes_of(house, account_id) == ["client_closed"]


async def test_a_departure_behind_the_last_byte_cancels_nothing(house: InProcess) -> None:
    client = ByHand.asking(orjson.dumps(chat_body()))

    async def send(message: Message) -> None:
        client.sent.append(message)
        if not message.get("more_body"):
            client.leave()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    client.send = send  # type: ignore[method-assign]
    account_id = await house.door.account()
    await ends(client.call(house.app, await house.door.key(account_id)))
    assert client.sent[0]["status"] == 200
    assert await codes_of(house, account_id) == [None]


async def test_a_task_that_others_cancel_stays_cancelled(house: InProcess) -> None:
    house.backend.answer_with(silence)
    before = len(house.backend.chats)
    client = ByHand.asking(orjson.dumps(chat_body()))
    task = client.call(house.app, await house.door.key())
    await house.backend.chats_asked(before + 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@each("differing", [{}, {"client": None}, {"client": ["192.0.2.7", 5]}, {"http_version": "2", "scheme": "https"}])
async def test_what_a_scope_may_leave_out_is_not_needed(house: InProcess, differing: dict[str, Any]) -> None:
    body = orjson.dumps(chat_body())
    client = ByHand.asking(body[:20], body[20:])
    await ends(client.call(house.app, await house.door.key(), **differing))
    assert client.sent[0]["status"] == 200


@each("path", ["/v1/models", "/v1/chat/completions", "/v1/mcp", "/livez"])
async def test_it_serves_where_it_is_mounted_in_another_app(house: InProcess, path: str) -> None:
    transport = httpx2.ASGITransport(app=Starlette(routes=[Mount("/models", app=house.app)]))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost/models") as http:
        mounted, plain = await http.get(path), await house.http.get(path)
    assert mounted.status_code == plain.status_code != 404


async def test_a_root_path_that_the_path_does_not_begin_with_changes_nothing(house: InProcess) -> None:
    transport = httpx2.ASGITransport(app=house.app, root_path="/v")
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert (await http.get("/v1/models")).status_code == 200


async def test_the_scope_of_the_server_is_left_as_it_was_and_its_headers_may_be_any_pairs(house: InProcess) -> None:
    headers = ([b"content-type", b"application/json"], [b"content-type", b"text/plain"])
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    before = dict(scope)
    client = ByHand.asking(orjson.dumps(chat_body()))
    await house.app(scope, client.messages.get, client.send)
    assert client.sent[0]["status"] == 200  # the first of two headers counts
    assert scope == before


@each("kind", ["lifespan", "websocket"])
async def test_what_is_no_request_is_refused_as_asgi_has_it(house: InProcess, kind: str) -> None:
    client = ByHand()
    with pytest.raises(RuntimeError, match=kind):
        await house.app({"type": kind}, client.messages.get, client.send)
    assert client.sent == []


async def test_our_own_server_passes_it_by(house: InProcess) -> None:
    assert not isinstance(house.door.server.config.app, AnyServer)
    app = build_app(house.door.gateway, mcp_door(house.door.gateway), base_url="http://gateway.test")
    config = config_of(
        app, host="", port=0, bounds=Bounds(1, 1), census=uncapped(), note_refusal=unheard, drain_timeout_s=0
    )
    assert config.app is app.for_our_connections


async def test_an_address_that_nobody_can_listen_on_is_named_behind_the_reason(house: InProcess) -> None:
    elsewhere, bounds = "192.0.2.1", Bounds(1, 1)
    config = config_of(
        house.app, host=elsewhere, port=9, bounds=bounds, census=uncapped(), note_refusal=unheard, drain_timeout_s=0
    )
    config.load()
    server = DrainingServer(config, house.door.gateway.lifecycle, 0, 0, lambda _host, _port: None)
    server.lifespan = config.lifespan_class(config)
    with lines_logged(logging.ERROR) as lines, pytest.raises(SystemExit):
        await server.startup()
    house.door.errors.clear()
    assert lines[-1] == "host 192.0.2.1 and port 9 of the settings cannot be listened on"
