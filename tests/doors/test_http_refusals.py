"""Bad input: each refusal in the one shape, with a message that says what to change; and nothing is left behind."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from tests.cases import each
from tests.replaying import ReplayingBackend
from tests.serving import FREE, MESSAGES, PRICED, Door, bearer, chat_body, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_BODY_BYTES = 100_000
JSON = {"content-type": "application/json"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Door, ReplayingBackend, str]]:
    async with (
        ReplayingBackend() as backend,
        open_door(
            tmp_path_factory.mktemp("refusals"),
            vllm_urls=[backend.url],
            models=[FREE, PRICED],
            max_body_bytes=MAX_BODY_BYTES,
        ) as door,
    ):
        yield door, backend, await door.key(credit="1")


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def _nothing_is_left(served: tuple[Door, ReplayingBackend, str]) -> AsyncIterator[None]:
    door, backend, _ = served
    backend.answer_with()
    yield
    await door.nothing_is_left()


def message(content: Any) -> bytes:
    return orjson.dumps(chat_body(messages=[{"role": "user", "content": content}]))


def field(**fields: Any) -> bytes:
    return orjson.dumps(chat_body(**fields))


NESTED = b'{"model":"free/tiny","messages":[{"role":"user","content":"x"}],"metadata":%b%b}'

BODIES: dict[str, tuple[bytes, str, str | None, str]] = {
    "empty": (b"", "invalid_json", None, "empty"),
    "not json": (b"{'model': 1}", "invalid_json", None, "line 1, column 2"),
    "cut": (field()[:-5], "invalid_json", None, "line 1"),
    "two objects": (b"{}{}", "invalid_json", None, "column 3"),
    "nan": (b'{"temperature":NaN}', "invalid_json", None, "column 16"),
    "infinity": (b'{"temperature":1e999}', "invalid_json", None, "infinity"),
    "bad utf-8": (field().replace(b"hello", b"\xff\xfe"), "invalid_json", None, "line 1"),
    "lone surrogate": (field().replace(b"hello", rb"\ud800"), "invalid_json", None, "messages[0].content"),
    "lone low surrogate": (field().replace(b"hello", rb"\udc00"), "invalid_json", None, "messages[0].content"),
    "two high surrogates": (field().replace(b"hello", rb"\ud83d\ud83d"), "invalid_json", None, "messages[0].content"),
    "lone surrogate in a name": (field(metadata={"hello": 1}).replace(b'"hello":', rb'"\ud83d":'), "invalid_json", None,
                                 "`metadata` holds half"),
    "lone surrogate in a list": (field(stop=["a", "hello"]).replace(b'"hello"]', rb'"\ud83d x"]'), "invalid_json", None,
                                 "`stop[1]` holds half"),
    "lone surrogate far in": (field(user="hello " + "x" * 70_000).replace(b'"hello ', rb'"\ud83d '), "invalid_json",
                              None, "surrogate"),
    "too deep to read": (NESTED % (b"[" * 5000, b"]" * 5000), "invalid_json", None, "depth"),
    "too deep to write": (NESTED % (b"[" * 600, b"]" * 600), "invalid_json", None, "nested too deeply"),
    "array": (b"[]", "invalid_type", None, "not a list"),
    "string": (b'"hi"', "invalid_type", None, "not a string"),
    "null": (b"null", "invalid_type", None, "not null"),
    "number": (b"1", "invalid_type", None, "not a number"),
    "no model": (orjson.dumps({"messages": MESSAGES}), "missing_parameter", "model", "`model`"),
    "model null": (field(model=None), "missing_parameter", "model", "`model`"),
    "model empty": (field(model=""), "missing_parameter", "model", "`model`"),
    "model number": (field(model=5), "invalid_type", "model", "not a number"),
    "no messages": (b'{"model":"free/tiny"}', "missing_parameter", "messages", "`messages`"),
    "messages empty": (field(messages=[]), "missing_parameter", "messages", "`messages`"),
    "messages string": (field(messages="hi"), "invalid_type", "messages", "a list"),
    "messages object": (field(messages={}), "invalid_type", "messages", "a list"),
    "message string": (field(messages=["hi"]), "invalid_type", "messages[0]", "an object"),
    "no role": (field(messages=[{"content": "x"}]), "missing_parameter", "messages[0].role", "role"),
    "role number": (field(messages=[{"role": 1}]), "missing_parameter", "messages[0].role", "a string"),
    "content number": (message(5), "invalid_type", "messages[0].content", "not a number"),
    "content object": (message({}), "invalid_type", "messages[0].content", "not an object"),
    "part number": (message([5]), "unsupported_parameter", "messages[0].content[0]", "type text"),
    "part without type": (message([{"text": "x"}]), "unsupported_parameter", "messages[0].content[0]", "type text"),
    "part type list": (message([{"type": []}]), "unsupported_parameter", "messages[0].content[0]", "type text"),
    "audio": (message([{"type": "input_audio"}]), "unsupported_parameter", "messages[0].content[0]", "other kinds"),
    "no image url": (message([{"type": "image_url"}]), "missing_parameter", "messages[0].content[0]", "data:"),
    "image": (message([{"type": "image_url", "image_url": "data:x"}]), "vision_disabled", "messages", "text only"),
    "stream string": (field(stream="yes"), "invalid_type", "stream", "true or false"),
    "stream number": (field(stream=1), "invalid_type", "stream", "not a number"),
    "options alone": (field(stream_options={}), "invalid_value", "stream_options", "stream: true"),
    "options list": (field(stream=True, stream_options=[]), "invalid_type", "stream_options", "an object"),
    "usage string": (
        field(stream=True, stream_options={"include_usage": "yes"}),
        "invalid_type", "stream_options.include_usage", "true or false",
    ),
    "max_tokens string": (field(max_tokens="8 or so"), "invalid_type", "max_tokens", "a whole number"),
    "max_tokens decimal": (field(max_tokens=8.5), "invalid_type", "max_tokens", "not a decimal"),
    "max_tokens boolean": (field(max_tokens=True), "invalid_type", "max_tokens", "not a boolean"),
    "max_tokens 0": (field(max_tokens=0), "invalid_value", "max_tokens", "at least 1"),
    "max_completion_tokens -1": (
        field(max_completion_tokens=-1), "invalid_value", "max_completion_tokens", "at least 1",
    ),
    "min_tokens -1": (field(min_tokens=-1), "invalid_value", "min_tokens", "at least 0"),
    "n 0": (field(n=0), "invalid_value", "n", "at least 1"),
    "n 9": (field(n=9), "invalid_value", "n", "at most 8"),
    "n 2^63": (field(n=2**63), "invalid_value", "n", "at most 8"),
    "unknown model": (field(model="free/tny"), "model_not_found", "model", "free/tiny"),
    "model in capitals": (field(model="FREE/TINY"), "model_not_found", "model", "Did you mean free/tiny"),
    "unknown long model": (field(model="x" * 5000), "model_not_found", "model", "/v1/models"),
    "duplicate keys": (b'{"model":"free/tiny","model":"nope/nope","messages":[{"role":"user"}]}',
                       "model_not_found", "model", "nope/nope"),
}  # fmt: skip


@each("case", BODIES)
async def test_a_bad_body_is_refused_with_what_to_change(served: tuple[Door, ReplayingBackend, str], case: str) -> None:
    door, backend, key = served
    body, code, param, hint = BODIES[case]
    response = await door.post(body, key)
    error = error_of(response)
    assert (error["code"], error["param"]) == (code, param)
    assert hint in error["message"]
    assert len(error["message"]) < 500
    assert response.status_code == (404 if code == "model_not_found" else 400)
    assert error["type"] == ("not_found" if code == "model_not_found" else "invalid_request")
    assert response.headers["x-request-id"].startswith("req_")
    assert backend.chats == []


async def test_a_refusal_on_a_priced_model_leaves_the_wallet_as_it_was(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, _, _ = served
    account_id = await door.account("1")
    key = await door.key(account_id)
    for body in (NESTED.replace(b"free", b"priced") % (b"[" * 600, b"]" * 600), field(model="priced/tiny", n=9)):
        assert (await door.post(body, key)).status_code == 400
    await door.nothing_is_left()
    assert await door.balance_nano(account_id) == 10**9


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + field(),
        field().replace(b"hello", rb"\u0000\ud83d\ude00"),
        b'{"model":"nope","model":"free/tiny","messages":[{"role":"user","content":null}]}',
        NESTED % (b"[" * 200, b"]" * 200),
        message(["a", {"type": "text", "text": "b"}]),
        field(stream=None, max_tokens=None, n=None, stream_options=None, min_tokens=0),
    ],
    ids=["bom", "escapes", "last of duplicate keys", "nested", "parts", "nulls"],
)
async def test_unusual_but_valid_bodies_are_served(served: tuple[Door, ReplayingBackend, str], body: bytes) -> None:
    door, _, key = served
    assert (await door.post(body, key)).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_another_content_type_is_refused(served: tuple[Door, ReplayingBackend, str], content_type: str) -> None:
    door, _, key = served
    for path in ("/v1/chat/completions", "/v1/keys"):
        response = await door.post(field(), key, path, content_type=content_type)
        assert (response.status_code, error_of(response)["code"]) == (400, "invalid_type")
        assert "application/json" in error_of(response)["message"]


async def test_json_with_a_charset_is_json(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, _, key = served
    assert (await door.post(field(), key, content_type="Application/JSON ; charset=utf-8")).status_code == 200


async def test_a_body_over_the_limit_is_413_by_its_announced_length_or_by_its_bytes(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, _, key = served

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 10_000 + 1):
            yield b" " * 10_000

    for path in ("/v1/chat/completions", "/v1/keys"):
        announced = await door.post(b" " * (MAX_BODY_BYTES + 1), key, path)
        chunked = await door.http.post(path, content=pieces(), headers=bearer(key) | JSON)
        for response in (announced, chunked):
            assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
            assert str(MAX_BODY_BYTES) in error_of(response)["message"]


async def test_a_body_just_within_the_limit_is_served_whole_or_in_chunks(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, _, key = served
    body = field().ljust(MAX_BODY_BYTES)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 30_000):
            yield body[start : start + 30_000]

    assert (await door.post(body, key)).status_code == 200
    headers = bearer(key) | JSON
    assert (await door.http.post("/v1/chat/completions", content=pieces(), headers=headers)).status_code == 200


def answer_of(raw: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error object of a raw HTTP answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    response = httpx2.Response(int(head.split()[1]), content=body)
    assert b"content-type: application/json" in head
    return response.status_code, error_of(response)


@pytest.mark.parametrize(
    "head",
    [
        b"x-filler: " + b"a" * 70_000,
        b"\r\n".join(b"x-%d: %b" % (number, b"a" * 90) for number in range(800)),
        b"x-" + b"n" * 70_000 + b": a",
    ],
    ids=["long value", "many lines", "long name"],
)
async def test_headers_over_64_kib_are_431(served: tuple[Door, ReplayingBackend, str], head: bytes) -> None:
    door, _, _ = served
    status, error = answer_of(await door.raw(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n" + head + b"\r\n\r\n"))
    assert (status, error["code"]) == (431, "headers_too_large")
    assert "65536" in error["message"]


async def test_an_endless_head_is_cut_off_without_an_end_of_it(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, _, _ = served
    status, error = answer_of(await door.raw(b"GET /v1/models HTTP/1.1\r\nx-filler: " + b"a" * 70_000))
    assert (status, error["code"]) == (431, "headers_too_large")


async def test_a_path_over_64_kib_is_431(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, _, _ = served
    raw = await door.raw(b"GET /v1/models/" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert answer_of(raw)[0] == 431


async def test_headers_of_almost_64_kib_and_a_large_body_pass(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, _, key = served
    response = await door.post(field().ljust(90_000), key, x_filler="a" * 60_000)
    assert response.status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        b"GET /v1/models/\xff\xfe HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    ],
    ids=["nonsense", "bad header", "two lengths", "length and chunks", "raw bytes in the path"],
)
async def test_what_is_not_http_gets_the_one_shape_too(served: tuple[Door, ReplayingBackend, str], raw: bytes) -> None:
    door, _, _ = served
    assert answer_of(await door.raw(raw))[0] in (400, 404)


async def test_unknown_paths_are_404_and_say_so(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, _, key = served
    paths = ("/nope", "/v1", "/v1/", "/v1/nope", "/v2/chat/completions", "/api/v1/models", "//v1/models",
             "/v1/chat/completions/", "/invocations", "/v1/keys/a/b")  # fmt: skip
    for path in paths:
        response = await door.http.post(door.url + path, content=b"{}", headers=bearer(key) | JSON)
        assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url"), path
        assert path in error_of(response)["message"]
        assert response.headers["x-request-id"]


@each(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "OPTIONS, POST"),
        ("HEAD", "/v1/chat/completions", "OPTIONS, POST"),
        ("PUT", "/api/v1/inference/chat/completions", "OPTIONS, POST"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("QUERY", "/v1/models", "GET, HEAD, OPTIONS"),
        ("TRACE", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/free/tiny", "GET, HEAD, OPTIONS"),
        ("PUT", "/v1/keys", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/v1/keys/key_1", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("POST", "/v1/mcp/sse", "GET, OPTIONS"),
    ],
)
async def test_another_method_is_405_with_all_that_are_possible(
    served: tuple[Door, ReplayingBackend, str], method: str, path: str, allow: str
) -> None:
    door, _, key = served
    response = await door.http.request(method, path, headers=bearer(key))
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    if method != "HEAD":
        assert error_of(response)["code"] == "method_not_allowed"
        assert allow in error_of(response)["message"]
    options = await door.http.request("OPTIONS", path, headers=bearer(key))
    assert (options.status_code, options.headers["allow"], options.content) == (204, allow, b"")


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/chat/completions"])
async def test_what_a_path_can_do_is_told_to_nobody_with_a_wrong_key(
    served: tuple[Door, ReplayingBackend, str], path: str
) -> None:
    response = await served[0].http.request("OPTIONS", path, headers=bearer("gw_live_wrong"))
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    assert "allow" not in response.headers


async def test_head_answers_like_get_without_a_body(served: tuple[Door, ReplayingBackend, str]) -> None:
    door, _, key = served
    for path in ("/v1/models", "/v1/models/free/tiny", "/v1/keys", "/health", "/"):
        got, head = await door.get(path, key), await door.http.head(path, headers=bearer(key))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == got.headers["content-length"]


@each(
    "headers",
    [
        {"authorization": "Bearer gw_live_wrong"},
        {"authorization": "Bearer sk-1234"},
        {"authorization": "Bearer"},
        {"authorization": "Basic dXNlcjpwYXNz"},
        {"authorization": "gw_live_wrong"},
        {"authorization": "Bearer gw_live_\u00e9"},
        {"x-api-key": "nope"},
        {"x-api-key": ""},
        {"api-key": "nope"},
        {"api-key": ""},
        {"x-goog-api-key": "AIza-nope"},
        {"authorization": ""},
        {"authorization": "Bearer", "x-api-key": ""},
        {"authorization": "Basic dXNlcjpwYXNz", "api-key": "nope"},
        {"authorization": "Bearer sk-1234", "x-api-key": "nope"},
    ],
)
async def test_a_wrong_credential_is_401_everywhere_and_never_a_guest(
    served: tuple[Door, ReplayingBackend, str], headers: dict[str, str]
) -> None:
    door, _, _ = served
    raw = {name: value.encode("utf-8") for name, value in headers.items()}
    for path in ("/v1/models", "/v1/nope", "/v1/chat/completions"):
        response = await door.http.post(path, content=b"{", headers=raw)  # type: ignore[arg-type]
        assert (response.status_code, error_of(response)["type"]) == (401, "invalid_auth")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert error_of(response)["code"] == "invalid_api_key"


async def test_a_message_never_repeats_more_than_a_little_of_what_was_sent(
    served: tuple[Door, ReplayingBackend, str],
) -> None:
    door, _, key = served
    for response in (await door.chat(key, model="m" * 9000), await door.get("/v1/models/" + "m" * 9000, key)):
        assert len(max(re.findall("m+", error_of(response)["message"]), key=len)) <= 200


async def test_values_are_counted_before_they_are_parsed_at_every_door(tmp_path: Path) -> None:
    bounds: dict[str, Any] = {"limits": {"max_json_values": 2000}, "guests": {"max_json_values": 500}}
    async with open_door(tmp_path, **bounds) as door:
        key = await door.key()
        for values, by_key, by_guest in [(400, 200, 200), (1900, 200, 400), (2100, 400, 400)]:
            body = orjson.dumps({"model": "demo/echo", "messages": MESSAGES, "x": [1] * (values - 20)})
            told = [await door.post(body, key), await door.post(body)]
            assert [answer.status_code for answer in told] == [by_key, by_guest]
            asked = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": [1] * (values - 20)}})
            told = [await door.post(asked, who, "/v1/mcp") for who in (key, None)]
            assert [answer.status_code for answer in told] == [by_key, by_guest]
        assert (
            error_of(await door.post(b'{"name":[' + b"[]," * 1000 + b"1]}", key, "/v1/keys"))["code"] == "invalid_json"
        )
        assert error_of(await door.post(body, key))["message"].startswith("The body may hold at most 2000 values")
        await door.nothing_is_left()
