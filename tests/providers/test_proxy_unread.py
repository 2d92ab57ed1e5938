"""/proxy/{provider}/{path}, of what nobody reads here: passed on as it is, both ways, at a flat price."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.identity.particulars import Particulars
from tests.cases import each
from tests.databases import locked_out
from tests.patience import PATIENCE_S, eventually
from tests.providers.doubles import ACCOUNT, KEY
from tests.providers.google_native import PATHS as GOOGLE_PATHS
from tests.providers.google_native import google_native, google_settings
from tests.providers.native import OK, Native, native
from tests.providers.test_contract import ENVIRON
from tests.providers.test_proxy import let_proxy, proxying_key
from tests.serving import Door, error_of, open_door

PATHS = [
    "POST /v1/speech",
    "POST /v1/models/*:run",
    "GET /v1/voices",
    "PUT /v1/x",
    "PATCH /v1/x",
    "DELETE /v1/x",
    "HEAD /v1/x",
]
PRICES = dict.fromkeys(PATHS, "0.25") | {"GET /v1/voices": "0"}
PRICE_NANO = 250_000_000
OTHER = {"name": "other", "api_key_env": "OTHER_KEY"}

pytestmark = [pytest.mark.providers, pytest.mark.asyncio(loop_scope="module")]


@asynccontextmanager
async def passing(
    data_dir: Path, settings: dict[str, Any] | None = None, entry: dict[str, Any] | None = None, **server: Any
) -> AsyncIterator[tuple[Door, Native, str]]:
    """A gateway that passes paths on to a server, the server, and a key of an account that may."""
    async with native(**server) as provider:
        told = {"proxy_paths": [*PATHS, "POST /v1/unpriced"], "proxy_prices": PRICES} | (entry or {})
        given = {"providers": [provider.settings(**told)]} | (settings or {})
        async with open_door(data_dir, environ=ENVIRON, **given) as door:
            yield door, provider, await proxying_key(door, credit="1")
            await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, Native, str]]:
    async with passing(tmp_path_factory.mktemp("unread")) as served:
        yield served
        served[0].errors.clear()  # of what other tests' doors logged: each test has looked at its own


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: tuple[Door, Native, str]) -> AsyncIterator[tuple[Door, Native]]:
    door, provider, _ = _served
    provider.pieces = (OK,)
    provider.heard.clear()
    door.errors.clear()  # the same
    yield door, provider
    await door.nothing_is_left()


async def left_nano(door: Door, key: str) -> int:
    answer = await door.get("/v1/credits", key)
    return round(float(answer.json()["balance_usd"]) * 10**9)


async def one_record(door: Door) -> dict[str, Any]:
    """Of the latest request."""
    await door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    columns = "http_status, error_code, cost_nano, backend, model, price_version"
    sql = f"SELECT {columns}, surface FROM requests"
    row = (await door.rows(f"{sql} ORDER BY id DESC"))[0]
    return dict(zip([*columns.split(", "), "surface"], row, strict=True))


async def test_it_reaches_the_provider_as_it_is_with_nothing_of_the_caller_and_is_charged_once(tmp_path: Path) -> None:
    told = (
        b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ncontent-disposition: attachment\r\nset-cookie: session=1\r\n"
        b"openai-organization: "
        + ACCOUNT.encode()
        + b"\r\nx-ratelimit-remaining-tokens: 7\r\nx-request-id: req_theirs\r\n"
        b"retry-after: 39\r\nserver: theirs\r\nvia: theirs\r\ncontent-length: 4\r\n\r\n\x00\xff\x01\x02"
    )
    async with passing(tmp_path, pieces=(told,), entry={"proxy_headers": ["x-beta"]}) as (door, provider, key):
        headers = {
            "x-api-key": key, "x-goog-api-key": key, "api-key": key, "cookie": "a=b", "openai-organization": "org-1",
            "openai-project": "proj-1", "anthropic-workspace-id": "w", "x-forwarded-for": "203.0.113.9", "origin": "http://x",
            "x-beta": "one", "accept": "audio/mpeg", "user-agent": "mine/1", "referer": "http://x", "via": "1.1 mine",
            "x-http-method-override": "DELETE", "forwarded": "for=1.2.3.4", "proxy-authorization": "Basic eDp5",
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "x-request-id": "mine",
            "authorization": f"Bearer {key}", "content-type": "application/x-own", "expect": "",
        }  # fmt: skip
        response = await door.http.post(
            "/proxy/openai/v1/speech?voice=a%20b&key=mine&api_key=x", content=b"{\x00raw\xff", headers=headers
        )
        assert (response.status_code, response.content) == (200, b"\x00\xff\x01\x02")
        (heard,) = provider.heard
        assert (heard.method, heard.target, heard.body) == ("POST", "/v1/speech?voice=a+b", b"{\x00raw\xff")
        assert dict(heard.headers) == {
            "host": provider.url.removeprefix("http://"),
            "accept": "audio/mpeg",
            "content-type": "application/x-own",
            "x-beta": "one",
            "authorization": f"Bearer {KEY}",
            "content-length": "6",
        }
        assert response.headers["content-type"] == "audio/mpeg"
        assert response.headers["content-disposition"] == "attachment"
        assert response.headers["x-cost-usd"] == "0.25"
        assert response.headers["content-security-policy"] == "sandbox"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-request-id"].startswith("req_")
        theirs = {"set-cookie", "openai-organization", "x-ratelimit-remaining-tokens", "retry-after", "server", "via"}
        assert theirs & response.headers.keys() == set()
        assert ACCOUNT not in str(response.headers)
        assert await left_nano(door, key) == 10**9 - PRICE_NANO
        assert await one_record(door) == {
            "http_status": 200, "error_code": None, "cost_nano": PRICE_NANO, "backend": "openai", "model": None,
            "price_version": "0/0+request=250000000000", "surface": "proxy",
        }  # fmt: skip


@each("method", ["PUT", "PATCH", "DELETE", "POST", "HEAD", "GET"])
async def test_a_method_is_the_caller_s(method: str, served: tuple[Door, Native]) -> None:
    path = {"POST": "/v1/models/a:run", "GET": "/v1/voices"}.get(method, "/v1/x")
    door, provider = served
    provider.heard.clear()
    key = await proxying_key(door, credit="1")
    response = await door.http.request(method, f"/proxy/openai{path}", headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 200
    assert [(heard.method, heard.target, heard.body) for heard in provider.heard] == [(method, path, b"")]
    assert await left_nano(door, key) == 10**9 - (method != "GET") * PRICE_NANO
    other = await door.http.request("OPTIONS", f"/proxy/openai{path}", headers={"authorization": f"Bearer {key}"})
    assert (other.status_code, len(provider.heard)) == (404, 1)


async def test_headers_and_the_key_s_tags_say_whom_it_is_for_and_go_no_further(served: tuple[Door, Native]) -> None:
    door, provider = served
    key = await proxying_key(door, credit="1", particulars=Particulars(tags=("team",)))
    await door.http.put("/v1/attribution", json={"enabled": True}, headers={"authorization": f"Bearer {key}"})
    body = b'{"user":"bob","metadata":{"tags":["red"]}}'
    answer = await door.post(body, key, "/proxy/openai/v1/speech", x_openwebui_user_id="ann")
    assert answer.status_code == 200
    await door.gateway.lifecycle.wait_until_idle(10)
    (row,) = (await door.get("/v1/requests", key)).json()["data"]
    assert (row["user"], row["tags"], row["surface"]) == ("ann", ["team"], "proxy")
    assert "ann" not in [value for heard in provider.heard for _, value in heard.headers]


async def test_a_query_without_end_is_not_passed_on(tmp_path: Path) -> None:
    async with passing(tmp_path) as (door, provider, key):
        refused = await door.post(b"", key, "/proxy/openai/v1/speech?" + "a=1&" * 101)
        assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_value")
        assert provider.heard == []


async def test_an_answer_that_ends_in_an_outage_is_whole_and_charged_once_that_can_be_written(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    turns = asyncio.Semaphore(1)
    async with passing(tmp_path, pieces=(head, b"0\r\n\r\n"), next_piece=turns) as (door, _, key):
        door.gateway.ledger._wait_limit.limit_s = 0.01
        headers = {"authorization": f"Bearer {key}"}
        request = door.http.build_request("POST", "/proxy/openai/v1/speech", content=b"{}", headers=headers)
        response = await door.http.send(request, stream=True)
        async with locked_out(door.gateway, wait_s=0.01):
            turns.release()
            assert await response.aread() == b"first"
            await eventually(lambda: not door.gateway.ledger.is_writable)
        await eventually(lambda: door.gateway.ledger.is_writable)
        door.errors.clear()  # the outage is logged, once
        assert (await one_record(door))["cost_nano"] == PRICE_NANO
        assert await left_nano(door, key) == 10**9 - PRICE_NANO


async def test_what_is_not_listed_or_has_no_price_is_not_passed_on(tmp_path: Path) -> None:
    async with passing(tmp_path) as (door, provider, key):
        for path in ("/v1/unpriced", "/v1/files", "/v1/speech/x", "/v1/models/a/b:run", "/v1", "/v1/voices"):
            refused = await door.post(b"{}", key, f"/proxy/openai{path}")
            assert (refused.status_code, error_of(refused)["code"]) == (404, "unsupported_endpoint"), path
        assert "has no price" in error_of(await door.post(b"{}", key, "/proxy/openai/v1/unpriced"))["message"]
        bound = await proxying_key(door, models=("sold/model",))
        refused = await door.post(b"{}", bound, "/proxy/openai/v1/speech")
        assert (refused.status_code, error_of(refused)["code"]) == (403, "insufficient_permissions")
        assert provider.heard == []
        assert await door.rows("SELECT id FROM requests") == []


FRAGMENTS = (
    b"/", b"//", b"/..", b"/.", b"/%2e%2e", b"%2f", b"%5c", b"\\", b"/v1", b"/speech", b"/models", b"/x", b":run",
    b"%3a", b"@", b"?", b"#", b";", b"%00", b"%25", b"..", b"/http://a.test", b"/files", b"*", b"%20",
    b"/v1/speech", b"/v1/x",
)  # fmt: skip


async def test_whatever_path_is_asked_what_is_listed_alone_reaches_the_provider(tmp_path: Path) -> None:
    random = Random(7)
    allowed = {"/v1/speech", "/v1/x", *(f"/v1/models/{name}:run" for name in ("models", "speech", "x", "files", "v1"))}
    async with passing(tmp_path) as (door, provider, key):
        for _ in range(200):
            path = b"".join(random.choices(FRAGMENTS, k=random.randint(1, 4)))
            method = random.choice((b"POST", b"PUT", b"DELETE"))
            head = b"%b /proxy/openai%b HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %b\r\n"
            answer = await door.raw(
                head % (method, path, key.encode()) + b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
            assert int(answer.split(b" ")[1]) in (200, 400, 402, 404), (path, answer)
        assert len(provider.heard) > 1
        assert {heard.target.partition("?")[0] for heard in provider.heard} <= allowed
        assert {heard.header("host") for heard in provider.heard} == {provider.url.removeprefix("http://")}


async def test_a_body_and_an_answer_pass_as_they_come(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    turns = asyncio.Semaphore(0)
    pieces = (head, b"5\r\nfirst\r\n", b"4\r\nlast\r\n", b"0\r\n\r\n")
    async with passing(tmp_path, pieces=pieces, next_piece=turns) as (door, provider, key):
        sent = asyncio.Queue[bytes]()

        async def body() -> AsyncIterator[bytes]:
            while piece := await sent.get():
                yield piece

        headers = {"authorization": f"Bearer {key}"}
        request = door.http.build_request("POST", "/proxy/openai/v1/speech", content=body(), headers=headers)
        asking = asyncio.ensure_future(door.http.send(request, stream=True))
        for piece in (b"one", b"two"):
            sent.put_nowait(piece)
            assert await asyncio.wait_for(provider.body_pieces.get(), PATIENCE_S) == piece
        sent.put_nowait(b"")
        turns.release()
        turns.release()
        response = await asyncio.wait_for(asking, PATIENCE_S)
        told = response.aiter_raw()
        assert await asyncio.wait_for(anext(told), PATIENCE_S) == b"first"
        assert response.headers["x-accel-buffering"] == "no"
        turns.release()
        assert await asyncio.wait_for(anext(told), PATIENCE_S) == b"last"
        turns.release()
        assert [piece async for piece in told] == []
        await response.aclose()
        assert provider.heard[0].body == b"onetwo"
        assert provider.heard[0].header("transfer-encoding") == "chunked"
        assert (await one_record(door))["cost_nano"] == PRICE_NANO


async def test_a_long_body_of_a_known_length_keeps_it(tmp_path: Path) -> None:
    async with passing(tmp_path) as (door, provider, key):
        body = bytes(range(256)) * 4096
        response = await door.post(body, key, "/proxy/openai/v1/speech", content_type="application/octet-stream")
        assert response.status_code == 200
        assert provider.heard[0].body == body
        assert provider.heard[0].header("content-length") == str(len(body))


@each(
    ("told", "status", "body"),
    [
        (b"HTTP/1.1 201 Made\r\ncontent-length: 2\r\n\r\n{}", 201, b"{}"),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
        (b"HTTP/1.1 206 Part\r\ncontent-length: 1\r\n\r\na", 206, b"a"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 103 Early\r\nlink: x\r\n\r\nHTTP/1.1 202 Taken\r\ncontent-length: 1\r\n\r\na", 202, b"a"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nset-cookie: a=b\r\n\r\n", 200, b"a"),
    ],
)
async def test_an_answer_has_the_provider_s_status_and_body(
    told: bytes, status: int, body: bytes, served: tuple[Door, Native]
) -> None:
    door, provider = served
    provider.pieces = (told,)
    key = await proxying_key(door, credit="1")
    response = await door.post(b"{}", key, "/proxy/openai/v1/speech")
    assert (response.status_code, response.content) == (status, body)
    assert not {"set-cookie", "link"} & response.headers.keys()
    record = await one_record(door)
    assert (record["http_status"], record["cost_nano"]) == (status, PRICE_NANO)


@each(
    ("status", "body", "expected"),
    [
        (400, b'{"error":{"message":"bad voice of org-9aXkQ2operator"}}', (400, "invalid_value")),
        (404, b'{"error":{"message":"no such model"}}', (404, "not_found")),
        (405, b"", (404, "not_found")),
        (413, b"", (413, "body_too_large")),
        (422, b'{"detail":[{"msg":"x"}]}', (400, "invalid_value")),
        (401, b'{"error":{"message":"key sk-9999 is bad"}}', (503, "model_unavailable")),
        (403, b"", (503, "model_unavailable")),
        (402, b"no money, org-9aXkQ2operator", (503, "model_unavailable")),
        (429, b'{"error":{"code":"insufficient_quota"}}', (503, "model_unavailable")),
        (429, b"", (429, "backend_busy")),
        (503, b"", (503, "model_unavailable")),
        (500, b"at http://10.0.0.7/", (502, "backend_error")),
        (302, b"", (502, "backend_error")),
        (304, b"", (502, "backend_error")),
        (418, b"", (502, "backend_error")),
    ],
)
async def test_a_refusal_is_told_in_the_gateway_s_words_and_costs_nothing(
    status: int, body: bytes, expected: tuple[int, str], served: tuple[Door, Native]
) -> None:
    told = b"HTTP/1.1 %d No\r\nlocation: http://10.0.0.7/\r\nset-cookie: a=b\r\nconnection: close\r\n\r\n%b" % (
        status,
        body,
    )
    door, provider = served
    provider.pieces = (told, None)
    key = await proxying_key(door, credit="1")
    refused = await door.post(b"{}", key, "/proxy/openai/v1/speech")
    assert (refused.status_code, error_of(refused)["code"]) == expected
    seen = refused.text + str(refused.headers)
    assert [word for word in (ACCOUNT, "sk-9999", "10.0.0.7", "set-cookie", "x-cost") if word in seen] == []
    assert await left_nano(door, key) == 10**9
    record = await one_record(door)
    assert (record["http_status"], record["error_code"], record["cost_nano"]) == (*expected, 0)


async def test_its_rate_limit_is_told_with_its_wait(tmp_path: Path) -> None:
    told = b"HTTP/1.1 429 No\r\nretry-after: 17\r\ncontent-length: 0\r\n\r\n"
    async with passing(tmp_path, pieces=(told,)) as (door, _, key):
        refused = await door.post(b"{}", key, "/proxy/openai/v1/speech")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "17")


@each(
    ("pieces", "code"),
    [
        ((None,), "backend_died"),
        ((b"not http at all\r\n\r\n",), "backend_error"),
        ((b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000,), "backend_error"),
        ((b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",), "backend_error"),
        ((b"HTTP/1.1 500 No\r\ncontent-length: 10\r\n\r\nhalf", None), "backend_died"),
    ],
)
async def test_no_answer_costs_nothing(pieces: tuple[bytes, ...], code: str, served: tuple[Door, Native]) -> None:
    door, provider = served
    provider.pieces = pieces
    key = await proxying_key(door, credit="1")
    refused = await door.post(b"{}", key, "/proxy/openai/v1/speech")
    assert (refused.status_code, error_of(refused)["code"]) == (502, code)
    assert await left_nano(door, key) == 10**9
    assert (await one_record(door))["error_code"] == code


async def test_a_provider_that_is_not_there_costs_nothing_and_is_counted_for_the_operator(tmp_path: Path) -> None:
    async with native() as gone:
        entry = gone.settings(base_url="http://127.0.0.1:1/v1", proxy_paths=PATHS, proxy_prices=PRICES)
    async with open_door(tmp_path, environ=ENVIRON, providers=[entry]) as door:
        key = await proxying_key(door, credit="1")
        refused = await door.post(b"{}", key, "/proxy/openai/v1/speech")
        assert (refused.status_code, error_of(refused)["code"]) == (502, "connect_failed")
        assert await left_nano(door, key) == 10**9
        metrics = (await door.http.get("/metrics")).text
        assert 'gateway_upstream_errors_total{backend="openai",code="connect_failed"} 1.0' in metrics
        assert 'gateway_requests_total{door="http",model="unknown",status="502",surface="proxy"} 1.0' in metrics


async def test_an_answer_that_breaks_off_is_charged_and_seen_to_be_broken(tmp_path: Path) -> None:
    pieces = (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", b"half", None)
    async with passing(tmp_path, pieces=pieces) as (door, _, key):
        asked = f"POST /proxy/openai/v1/speech HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        told = await door.raw(asked.encode() + b"content-length: 0\r\n\r\n")
        assert told.startswith(b"HTTP/1.1 200 OK")
        assert not told.endswith(b"0\r\n\r\n")
        record = await one_record(door)
        assert (record["http_status"], record["error_code"], record["cost_nano"]) == (502, "backend_died", PRICE_NANO)


@pytest.mark.parametrize("has_begun", [False, True])
async def test_who_leaves_pays_once_it_was_sent_and_the_provider_is_left_at_once(
    has_begun: bool, tmp_path: Path
) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    turns = asyncio.Semaphore(int(has_begun))
    async with passing(tmp_path, pieces=(head, b"0\r\n\r\n"), next_piece=turns) as (door, provider, key):
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        asked = f"POST /proxy/openai/v1/speech HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        writer.write(asked.encode() + b"content-length: 2\r\n\r\n{}")
        await eventually(lambda: bool(provider.heard and provider.heard[0].body))
        if has_begun:
            await asyncio.wait_for(reader.readuntil(b"first"), PATIENCE_S)
        writer.close()
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)
        await eventually(lambda: not door.gateway.inference.passing)
        record = await one_record(door)
        assert (record["http_status"], record["error_code"]) == (499, "client_closed")
        assert record["cost_nano"] == PRICE_NANO
        assert await left_nano(door, key) == 10**9 - PRICE_NANO


async def test_who_leaves_amid_a_refusal_pays_nothing(tmp_path: Path) -> None:
    turns = asyncio.Semaphore(1)
    pieces = (b"HTTP/1.1 400 No\r\ncontent-length: 10\r\n\r\nhalf", b"more")
    async with passing(tmp_path, pieces=pieces, next_piece=turns) as (door, provider, key):
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        asked = f"POST /proxy/openai/v1/speech HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        writer.write(asked.encode() + b"content-length: 2\r\n\r\n{}")
        passing_on = door.gateway.inference.passing
        await eventually(lambda: any(one.response is not None for one in passing_on))
        writer.close()
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)
        await eventually(lambda: not passing_on)
        assert await left_nano(door, key) == 10**9
        assert (await one_record(door))["error_code"] == "client_closed"


async def test_who_leaves_before_the_provider_is_reached_pays_nothing(tmp_path: Path) -> None:
    """It takes connections, and answers nobody who wants to speak in private."""
    async with native() as silent:
        base_url = silent.url.replace("http:", "https:") + "/v1"
        entry = silent.settings(base_url=base_url, proxy_paths=PATHS, proxy_prices=PRICES)
        async with open_door(tmp_path, environ=ENVIRON, providers=[entry]) as door:
            key = await proxying_key(door, credit="1")
            proxy = door.gateway.pool.providers["openai"].proxy
            assert proxy is not None
            _, writer = await asyncio.open_connection("127.0.0.1", door.port)
            asked = f"POST /proxy/openai/v1/speech HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
            writer.write(asked.encode() + b"content-length: 2\r\n\r\n{}")
            await eventually(lambda: proxy.transport.in_flight == 1)
            writer.close()
            await eventually(lambda: not door.gateway.inference.passing and not proxy.transport.in_flight)
            record = await one_record(door)
            assert (record["error_code"], record["cost_nano"]) == ("client_closed", 0)
            assert await left_nano(door, key) == 10**9
            await door.nothing_is_left()


async def test_who_leaves_amid_a_body_pays_nothing(tmp_path: Path) -> None:
    async with passing(tmp_path) as (door, provider, key):
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        asked = f"POST /proxy/openai/v1/speech HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        writer.write(asked.encode() + b"content-length: 10\r\n\r\nhalf")
        assert await asyncio.wait_for(provider.body_pieces.get(), PATIENCE_S) == b"half"
        writer.close()
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)
        await eventually(lambda: not door.gateway.inference.passing)
        assert await left_nano(door, key) == 10**9
        assert (await one_record(door))["error_code"] == "client_closed"


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_that_is_too_long_is_refused_and_costs_nothing(is_announced: bool, tmp_path: Path) -> None:
    async with passing(tmp_path, {"max_body_bytes": 100_000}) as (door, provider, key):

        async def body() -> AsyncIterator[bytes]:
            for _ in range(11):
                yield b"x" * 10_000

        content = b"x" * 110_000 if is_announced else body()
        headers = {"authorization": f"Bearer {key}"}
        refused = await door.http.post("/proxy/openai/v1/speech", content=content, headers=headers)
        assert (refused.status_code, error_of(refused)["code"]) == (413, "body_too_large")
        assert await left_nano(door, key) == 10**9
        assert is_announced == (provider.heard == [])


async def test_an_answer_that_comes_before_the_body_has_ends_the_sending(tmp_path: Path) -> None:
    told = b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n"
    async with passing(tmp_path, pieces=(told,), is_eager=True) as (door, _, key):
        asked = f"POST /proxy/openai/v1/speech HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(asked.encode() + b"content-length: 1000000\r\n\r\n" + b"x" * 1000)
        passing_on = door.gateway.inference.passing
        await eventually(lambda: bool(passing_on))

        def is_over_though_more_is_sent() -> bool:
            writer.write(b"y" * 1000)
            return not passing_on

        await eventually(is_over_though_more_is_sent)
        assert (await asyncio.wait_for(reader.readline(), PATIENCE_S)).startswith(b"HTTP/1.1 413 ")
        writer.close()
        assert await left_nano(door, key) == 10**9


async def test_a_margin_a_limit_and_the_wallet_count_here_too(tmp_path: Path) -> None:
    async with passing(tmp_path) as (door, provider, _):
        account_id = await door.account("1")
        key = await door.key(account_id, limits=OwnLimits(2, None, None, None))
        await (await door.desk()).accounts.change(account_id, margin=2000)
        await let_proxy(door, account_id)
        answers = [await door.post(b"{}", key, "/proxy/openai/v1/speech") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[0].headers["x-cost-usd"] == "0.30"
        assert await door.balance_nano(account_id) == 10**9 - 2 * 300_000_000
        poor = await proxying_key(door, credit="0.249999999")
        refused = await door.post(b"{}", poor, "/proxy/openai/v1/speech")
        assert (refused.status_code, error_of(refused)["code"]) == (402, "insufficient_balance")
        assert len(provider.heard) == 2


async def test_a_key_of_ours_goes_nowhere_in_whatever_header_it_stands(tmp_path: Path) -> None:
    async with passing(tmp_path, entry={"proxy_headers": ["x-token", "x-beta"]}) as (door, provider, key):
        headers = {"authorization": f"Bearer {key}", "x-token": f"Token {key}", "accept": key, "x-beta": "one"}
        response = await door.http.post("/proxy/openai/v1/speech", content=b"{}", headers=headers)
        assert response.status_code == 200
        assert key not in str(provider.heard)
        assert provider.heard[0].header("x-beta") == "one"


async def test_who_lost_patience_and_asks_again_does_not_pay_twice_at_once(tmp_path: Path) -> None:
    turns = asyncio.Semaphore(0)
    async with passing(tmp_path, next_piece=turns) as (door, provider, key):
        asked = {"key": key, "path": "/proxy/openai/v1/speech", "idempotency_key": "order-17"}
        first = asyncio.ensure_future(door.post(b"{}", **asked))
        await eventually(lambda: bool(provider.heard))
        again = await door.post(b"{}", **asked)
        assert (again.status_code, error_of(again)["code"]) == (409, "conflict")
        turns.release()
        assert (await first).status_code == 200
        assert len(provider.heard) == 1
        turns.release()
        assert (await door.post(b"{}", **asked)).status_code == 200


async def test_who_has_no_requests_left_is_told_so_before_a_body_is_asked_for(tmp_path: Path) -> None:
    async with passing(tmp_path) as (door, _, _):
        key = await proxying_key(door, credit="1", limits=OwnLimits(1, None, None, None))
        head = f"POST /proxy/openai/v1/speech HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\n"
        assert (await door.post(b"{}", key, "/proxy/openai/v1/speech")).status_code == 200
        waiting = head.encode() + b"content-length: 2\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        assert (await door.raw(waiting)).startswith(b"HTTP/1.1 429 ")


@pytest.mark.parametrize("has_begun", [False, True])
async def test_it_ends_with_its_key(has_begun: bool, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    turns = asyncio.Semaphore(int(has_begun))
    async with passing(tmp_path, pieces=(head, b"0\r\n\r\n"), next_piece=turns) as (door, provider, key):
        headers = {"authorization": f"Bearer {key}"}
        request = door.http.build_request("POST", "/proxy/openai/v1/speech", content=b"{}", headers=headers)
        asking = asyncio.ensure_future(door.http.send(request, stream=True))
        await eventually(lambda: bool(provider.heard and provider.heard[0].body))
        if has_begun:
            told = (await asyncio.wait_for(asking, PATIENCE_S)).aiter_raw()
            assert await anext(told) == b"first"
        (one,) = door.gateway.inference.passing
        assert one.caller.credential_id is not None
        await door.gateway.keys.revoke(one.caller.credential_id)
        await door.gateway.known_keys.catch_up()
        one.end_with("account_deactivated")  # what ended it first is told
        await asyncio.wait_for(provider.left.wait(), PATIENCE_S)
        if has_begun:
            with pytest.raises(Exception, match=r"incomplete|closed|peer"):
                await asyncio.wait_for(anext(told), PATIENCE_S)
        else:
            refused = await asyncio.wait_for(asking, PATIENCE_S)
            await refused.aread()
            assert (refused.status_code, error_of(refused)["code"]) == (401, "revoked_api_key")
        assert (await one_record(door))["error_code"] == "revoked_api_key"


def contents(folder: Path) -> list[str]:
    return [file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file()]


async def test_what_is_passed_on_unread_is_in_no_file_and_no_log_line(tmp_path: Path, caplog: Any) -> None:
    canary = "canary-71c4"
    told = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 11\r\n\r\n" + canary.encode()
    async with passing(tmp_path, pieces=(told,)) as (door, _, key):
        path = f"/proxy/openai/v1/models/{canary}:run?name={canary}"
        assert (await door.post(orjson.dumps({"text": canary}), key, path)).text == canary
        await one_record(door)
        assert canary not in caplog.text
        assert not any(canary in written for written in contents(tmp_path))


def told(body: bytes, *headers: str, status: int = 200) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} Told", *headers, f"content-length: {len(body)}", "", ""])
    return head.encode() + body


LINES = b"".join(
    b'{"model":"m-1","message":{"role":"assistant","content":"%b"},"done":false}\n' % text for text in (b"Hel", b"lo")
)
NATIVES = {
    "cohere": (
        "/v2/chat",
        told(
            b'{"id":"c","finish_reason":"COMPLETE","message":{"role":"assistant","content":[{"type":"text","text":"Hi"}]},'
            b'"usage":{"billed_units":{"input_tokens":5,"output_tokens":12},"tokens":{"input_tokens":71,"output_tokens":12}}}',
            "content-type: application/json", "num_chars: 30", "num_tokens: 83",
        ),
    ),
    "ollama": (
        "/api/chat",
        told(LINES + b'{"model":"m-1","done":true,"eval_count":12}\n', "content-type: application/x-ndjson"),
    ),
    "mistral": ("/v1/ocr", told(b'{"pages":[],"usage_info":{"pages_processed":1}}', "content-type: application/json")),
    "deepseek": ("/beta/completions", told(b'\n\n\n{"choices":[{"text":"Hi"}]}', "content-type: application/json")),
}  # fmt: skip


@pytest.mark.parametrize("kind", NATIVES)
async def test_what_a_provider_has_beside_openai_s_api_passes_at_its_flat_price(kind: str, tmp_path: Path) -> None:
    """In units and forms of its own, which nobody reads here."""
    path, answer = NATIVES[kind]
    async with native(pieces=(answer,)) as provider:
        entry = {
            "name": kind,
            "kind": kind,
            "base_url": f"{provider.url}/v1",
            "proxy_base": provider.url,
            "proxy": True,
        }
        entry |= {"proxy_prices": {f"POST {path}": "0.25"}}
        entry |= {} if kind == "ollama" else {"api_key_env": "DOUBLE_KEY"}
        async with open_door(tmp_path, environ=ENVIRON, providers=[entry]) as door:
            key = await proxying_key(door, credit="1")
            response = await door.post(b'{"model":"m-1"}', key, f"/proxy/{kind}{path}")
            assert (response.status_code, response.content) == (200, answer.partition(b"\r\n\r\n")[2])
            assert provider.heard[0].target == path
            assert provider.heard[0].header("authorization") == (None if kind == "ollama" else f"Bearer {KEY}")
            assert {"num_chars", "num_tokens"} & response.headers.keys() == set()
            assert await left_nano(door, key) == 10**9 - PRICE_NANO
            await door.nothing_is_left()


async def test_what_a_provider_keeps_of_others_cannot_be_read(tmp_path: Path) -> None:
    """OpenAI stores responses by default; all callers have the operator's one key there."""
    async with native() as provider, open_door(tmp_path, environ=ENVIRON, providers=[provider.settings()]) as door:
        key = await proxying_key(door, credit="1")
        for path in ("responses/resp_1", "responses/resp_1/input_items", "chat/completions/c_1", "files", "batches"):
            response = await door.get(f"/proxy/openai/v1/{path}", key)
            assert error_of(response)["code"] == "unsupported_endpoint"
        assert provider.heard == []


async def test_google_s_own_api_takes_its_key_in_its_own_header(tmp_path: Path) -> None:
    async with google_native() as google:
        entry = google_settings(google, proxy_prices=dict.fromkeys(GOOGLE_PATHS, "0.25"))
        async with open_door(
            tmp_path, environ=ENVIRON | {"OTHER_KEY": "bad"}, providers=[entry, entry | OTHER]
        ) as door:
            key = await proxying_key(door, credit="1")
            body = orjson.dumps({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]})
            told = {"x-goog-api-key": key, "content-type": "application/json"}
            for path in ("/v1beta/models/m-1:streamGenerateContent?alt=sse&key=mine", "/v1/models/m-1:generateContent"):
                response = await door.http.post(f"/proxy/google{path}", content=body, headers=told)
                assert response.status_code == 200
                assert "Hel" in response.text
                assert google.heard[-1].target == path.removesuffix("&key=mine")
            unknown = await door.http.post("/proxy/google/v1/models/m-2:generateContent", content=body, headers=told)
            assert (unknown.status_code, ACCOUNT in unknown.text) == (404, False)
            bad_key = await door.http.post("/proxy/other/v1/models/m-1:generateContent", content=body, headers=told)
            assert (bad_key.status_code, error_of(bad_key)["code"]) == (503, "model_unavailable")
            assert await left_nano(door, key) == 10**9 - 2 * PRICE_NANO
            await door.nothing_is_left()
