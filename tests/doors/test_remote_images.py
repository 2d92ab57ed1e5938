"""Images that a request names by their address, through both doors and on every surface that takes images."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.config import Settings
from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.policy.images import ImagePolicy
from tests.captured import captured
from tests.cases import each
from tests.core.upstream.misbehaving import Behaviour, MisbehavingServer, Peer, read_then_stall
from tests.image_server import LOOPBACK, PNG, Names, Tls, certificate_in, image, port_of, redirect, url_at
from tests.logged import everything_logged
from tests.patience import PATIENCE_S, eventually
from tests.replaying import Answer, Asked, ReplayingBackend, death, replayed, unary, whole
from tests.serving import PRICED, Clock, Door, error_of, open_door

pytestmark = [pytest.mark.gateways, pytest.mark.asyncio(loop_scope="module")]

SEES: dict[str, Any] = {"input_modalities": ["text", "image"], "max_output_tokens": 64}
SEEING = PRICED | SEES | {"id": "seeing/tiny"}
NARROW = SEEING | {"id": "narrow/tiny", "context_window": 1024}
OPEN = SEES | {"id": "open/tiny", "backend_model": "tiny", "context_window": 2048, "free": True, "guests": True}
CREDIT_NANO = 10**9
CANARY = "canary-7c1e"
DATA = "data:image/png;base64,AAAA"
BLOCKED = b"GIF89a blocked"
Object = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """How images are asked about: where, in which body, and how a backend answers."""

    path: str
    body: Callable[[list[str]], Object]
    answer: Answer
    is_mcp: bool = False


def in_chat(urls: list[str]) -> Object:
    parts = [{"type": "image_url", "image_url": {"url": url, "detail": "low"}} for url in urls]
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, *parts]}]}


def in_short(urls: list[str]) -> Object:
    parts: list[Object] = [{"type": "image_url", "image_url": url} for url in urls]
    return {"messages": [{"role": "user", "content": parts}]}


def in_message(urls: list[str]) -> Object:
    blocks = [{"type": "image", "source": {"type": "url", "url": url}} for url in urls]
    return {"max_tokens": 6, "messages": [{"role": "user", "content": blocks}]}


def in_result(urls: list[str]) -> Object:
    blocks = [{"type": "image", "source": {"type": "url", "url": url}} for url in urls]
    return {"max_tokens": 6, "messages": [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": blocks}]},
    ]}  # fmt: skip


def in_input(urls: list[str]) -> Object:
    parts = [{"type": "input_image", "image_url": url, "detail": "low"} for url in urls]
    return {"input": [{"type": "message", "role": "user", "content": parts}]}


def in_output(urls: list[str]) -> Object:
    parts = [{"type": "input_image", "image_url": url} for url in urls]
    return {"input": [
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": parts},
    ]}  # fmt: skip


CHAT = Way("/v1/chat/completions", in_chat, unary())
MESSAGES = Way("/v1/messages", in_message, replayed(captured("540_messages")))
WAYS = {
    "chat": CHAT,
    "chat, in short": Way("/v1/chat/completions", in_short, unary()),
    "messages": MESSAGES,
    "messages, in a result": Way("/v1/messages", in_result, MESSAGES.answer),
    "responses": Way("/v1/responses", in_input, replayed(captured("520_responses"))),
    "responses, in an output": Way("/v1/responses", in_output, replayed(captured("520_responses"))),
    "mcp": Way("/v1/mcp", in_chat, unary(), is_mcp=True),
}


@dataclass
class Stage:
    door: Door
    backends: list[ReplayingBackend]
    images: MisbehavingServer
    names: Names
    is_allowed: Callable[[str], bool]
    """As the gateway itself has it."""

    def serve(self, *behaviours: Behaviour) -> None:
        """From now on; what came before is forgotten."""
        for backend in self.backends:
            backend.answer_with()
        self.images.peers.clear()
        self.images.behaviours[:] = behaviours

    def url(self, path: str = "/cat.png", **host: str) -> str:
        return url_at(self.images, path, **host)

    async def ask(
        self, way: Way, urls: list[str], key: str | None, model: str = SEEING["id"], path: str = "", **fields: Any
    ) -> httpx2.Response:
        body = {"model": model} | way.body(urls) | fields
        if not way.is_mcp:
            return await self.door.post(orjson.dumps(body), key, path or way.path)
        return await self.door.mcp("tools/call", key, path=way.path, name="chat_completion", arguments=body)

    async def fetches(self) -> dict[str, float]:
        """How many ended, by outcome."""
        lines = (await self.door.http.get("/metrics")).text.splitlines()
        counted = [line.split('"') for line in lines if line.startswith("gateway_image_fetches_total{")]
        return {outcome: float(number[1:]) for _, outcome, number in counted}


@pytest.fixture(scope="module")
def logged() -> Iterator[list[str]]:
    with everything_logged() as lines:
        yield lines


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return certificate_in(tmp_path_factory.mktemp("tls"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _stage(tmp_path_factory: pytest.TempPathFactory, tls: Tls, logged: list[str]) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("images")
    blocklist = folder / "blocked"
    blocklist.write_text(sha256(BLOCKED).hexdigest())
    async with (
        MisbehavingServer(image(), ssl_context=tls[0]) as images,
        ReplayingBackend() as first,
        ReplayingBackend() as second,
        open_door(
            folder / "data",
            vllm_urls=[first.url, second.url],
            models=[SEEING, NARROW, OPEN],
            enable_vision=True,
            fetch_images=True,
            image_fetch={"ports": [443, port_of(images)]},
            image_blocklist_file=blocklist,
            max_body_bytes=2**18,
            log_level="debug",
        ) as door,
    ):
        fetcher = door.gateway.inference.parts.image_fetcher
        assert fetcher is not None
        names, is_allowed = Names(), fetcher.is_allowed
        fetcher.resolve, fetcher.ssl_context = names, tls[1]
        fetcher.is_allowed = lambda address: address == LOOPBACK
        yield Stage(door, [first, second], images, names, is_allowed)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(_stage: Stage) -> AsyncIterator[Stage]:
    for replaying, backend in zip(_stage.backends, _stage.door.gateway.pool.backends, strict=True):
        replaying.standing = replaying.counts = None
        backend.breaker.reset()
    _stage.serve(image())
    yield _stage
    await _stage.door.nothing_is_left()


async def funded(stage: Stage) -> tuple[str, str]:
    """An account, and a key of it; of those before it nothing is known."""
    stage.serve(image())
    account = await stage.door.account("1")
    return account, await stage.door.key(account)


def answered_with(stage: Stage, answer: Answer) -> None:
    for backend in stage.backends:
        backend.standing = answer


def asked_of(stage: Stage) -> list[bytes]:
    """The bodies of all that any backend was asked."""
    return [asked.body for backend in stage.backends for asked in backend.asked]


def inferred_by(stage: Stage) -> list[bytes]:
    return [asked.body for backend in stage.backends for asked in backend.chats]


def refusal_in(response: httpx2.Response, way: Way) -> Object:
    told: Object = response.json()
    error: Object = told["result"]["structuredContent"] if way.is_mcp else told["error"]
    return error


async def told_by_path(peer: Peer) -> None:
    """An image of its own for each path."""
    await peer.read_request()
    path = peer.requests[0].split()[1]
    await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n" + PNG + path)


@each("way", WAYS.values())
async def test_they_reach_the_backend_as_data_in_their_places_and_no_address_does(stage: Stage, way: Way) -> None:
    account, key = await funded(stage)
    answered_with(stage, way.answer)
    stage.serve(told_by_path)
    before = (await stage.fetches()).get("fetched", 0)
    response = await stage.ask(way, [stage.url("/1"), stage.url("/2")], key)
    assert response.status_code == 200, response.text
    (body,) = inferred_by(stage)
    first, second = (body.index(b64encode(PNG + path)) for path in (b"/1", b"/2"))
    assert first < second
    assert body.count(b"image/png") == 2
    assert b"pictures.example" not in b"".join(asked_of(stage))
    assert len(stage.images.requests) == 2
    assert (await stage.fetches())["fetched"] == before + 2
    assert 0 < await stage.door.balance_nano(account) < CREDIT_NANO


@each("way", WAYS.values())
async def test_where_they_are_not_fetched_the_refusal_names_the_setting(stage: Stage, way: Way) -> None:
    account, key = await funded(stage)
    parts = stage.door.gateway.inference.parts
    policy, parts.images = parts.images, ImagePolicy(True)
    error = refusal_in(await stage.ask(way, [stage.url()], key), way)
    parts.images = policy
    assert "`fetch_images` is off" in error["message"]
    assert (stage.images.peers, inferred_by(stage)) == ([], [])
    assert await stage.door.balance_nano(account) == CREDIT_NANO


@each("way", WAYS.values())
async def test_a_guest_is_told_that_a_key_is_needed(stage: Stage, way: Way) -> None:
    stage.serve(image())
    error = refusal_in(await stage.ask(way, [stage.url()], None, OPEN["id"]), way)
    assert "API keys alone" in error["message"]
    assert (stage.images.peers, inferred_by(stage)) == ([], [])


@each("way", WAYS.values())
@each(
    ("behaviour", "host", "words"),
    [
        (image(status=404), {}, "HTTP status 404"),
        (image(kind=b"text/html"), {}, "no PNG"),
        (image(PNG.ljust(200_000, b"x")), {}, "request is too large"),
        (image(), {"host": "other.example"}, "could not be fetched"),
        (image(), {"host": "10.0.0.1"}, "could not be fetched"),
    ],
)
async def test_one_that_fails_is_told_by_its_place_and_nothing_is_billed(
    stage: Stage, way: Way, behaviour: Behaviour, host: dict[str, str], words: str
) -> None:
    account, key = await funded(stage)
    stage.serve(behaviour)
    response = await stage.ask(way, [DATA, stage.url(**host)], key)
    assert response.status_code == (200 if way.is_mcp else 400)
    error = refusal_in(response, way)
    assert words in error["message"]
    assert re.match(r"`(messages|input)\[\d\].*\[[12]\]`: ", error["message"])
    assert "example" not in error["message"]
    assert inferred_by(stage) == []
    assert await stage.door.balance_nano(account) == CREDIT_NANO
    sql = "SELECT error_code, cost_nano FROM requests WHERE account_id = ?"
    assert await stage.door.rows(sql, account) == [("invalid_image_url", 0)]


@each("way", [CHAT, MESSAGES, WAYS["responses"]])
async def test_one_that_is_blocked_is_refused_as_if_it_had_been_sent_along(stage: Stage, way: Way) -> None:
    account, key = await funded(stage)
    stage.serve(image(BLOCKED, b"image/gif"))
    response = await stage.ask(way, [stage.url()], key)
    sent = await stage.ask(way, ["data:image/gif;base64," + b64encode(BLOCKED).decode()], key)
    assert (response.status_code, refusal_in(response, way)) == (403, refusal_in(sent, way))
    assert inferred_by(stage) == []
    assert await stage.door.balance_nano(account) == CREDIT_NANO


@each(
    ("urls", "code", "place"),
    [
        (["http://pictures.example/a.png"], "invalid_image_url", 0),
        ([f"https://{CANARY}@pictures.example/"], "invalid_image_url", 0),
        (["https://pictures.example/", "https://2130706433/"], "invalid_image_url", 1),
        (["https://pictures.example:22/"], "invalid_image_url", 0),
        (["file:///etc/passwd"], "invalid_image_url", 0),
        ([""], "invalid_image_url", 0),
        (["https://pictures.example/"] * 9, "invalid_value", 8),
    ],
)
async def test_an_address_that_may_not_be_named_is_refused_before_anything_is_counted_or_held(
    stage: Stage, urls: list[str], code: str, place: int
) -> None:
    account, key = await funded(stage)
    response = await stage.ask(CHAT, urls, key)
    error = error_of(response)
    assert (error["code"], error["param"]) == (code, f"messages[0].content[{place + 1}]")
    assert CANARY not in response.text
    assert (stage.images.peers, inferred_by(stage)) == ([], [])
    assert await stage.door.balance_nano(account) == CREDIT_NANO


async def test_the_gateway_as_it_is_built_reaches_nothing_of_this_machine(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await funded(stage)
    monkeypatch.setattr(stage.door.gateway.inference.parts.image_fetcher, "is_allowed", stage.is_allowed)
    for host in ("pictures.example", "127.0.0.1", "[::ffff:127.0.0.1]"):
        error = error_of(await stage.ask(CHAT, [stage.url(host=host)], key))
        assert (error["code"], "could not be fetched" in error["message"]) == ("invalid_image_url", True)
    assert stage.images.peers == []


async def test_eight_are_fetched(stage: Stage) -> None:
    _, key = await funded(stage)
    assert (await stage.ask(CHAT, [stage.url()] * 8, key)).status_code == 200
    assert len(stage.images.requests) == 8


async def test_nothing_is_fetched_for_who_has_no_money_or_no_requests_left(stage: Stage) -> None:
    poor = await stage.door.key()
    assert (await stage.ask(CHAT, [stage.url()], poor)).status_code == 402
    limited = await stage.door.key(credit="1", limits=OwnLimits(1, None, None, None))
    assert (await stage.ask(CHAT, [], limited)).status_code == 200
    assert (await stage.ask(CHAT, [stage.url()], limited)).status_code == 429
    assert stage.images.peers == []


async def test_it_is_fetched_once_however_often_the_request_is_tried(stage: Stage) -> None:
    _, key = await funded(stage)
    first, second = stage.backends
    first.running, second.running = 0, 10**6
    await stage.door.gateway.pool.discover()
    first.answer_with(death, death)
    second.standing = unary()
    assert (await stage.ask(CHAT, [stage.url()], key)).status_code == 200
    bodies = inferred_by(stage)
    assert len(bodies) > 1
    assert all(b64encode(PNG) in body for body in bodies)
    assert len(stage.images.requests) == 1


async def test_the_wait_for_their_servers_is_none_of_the_gateway_s_own_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = await funded(stage)
    parts, clock = stage.door.gateway.inference.parts, Clock(50.0)
    monkeypatch.setattr(parts, "monotonic_s", clock)
    for backend in parts.pool.backends:
        monkeypatch.setattr(backend.work, "now_s", clock)

    async def after_a_while(peer: Peer) -> None:
        clock.now_s += 5.0
        await image()(peer)

    stage.serve(after_a_while)
    answer = await stage.ask(CHAT, [stage.url()], key)
    assert (answer.status_code, answer.headers["x-gateway-overhead-ms"]) == (200, "0.00")


async def test_a_stream_has_them_too(stage: Stage) -> None:
    _, key = await funded(stage)
    response = await stage.ask(CHAT, [stage.url()], key, stream=True)
    assert response.text.endswith("data: [DONE]\n\n")
    assert b64encode(PNG) in inferred_by(stage)[0]


async def test_a_test_key_has_them_fetched_for_the_demo(stage: Stage) -> None:
    key = await stage.door.key(is_test=True)
    assert "1 image" in (await stage.ask(CHAT, [stage.url()], key)).text
    assert len(stage.images.requests) == 1


async def test_a_prompt_is_counted_without_a_fetch_and_without_an_address(stage: Stage) -> None:
    """By its caller, and before its hold."""
    _, key = await funded(stage)
    counted = await stage.ask(MESSAGES, [stage.url()], key, path="/v1/messages/count_tokens")
    assert counted.json() == {"input_tokens": 10}
    for backend in stage.backends:
        backend.counts = whole(b'{"count":1,"max_model_len":9,"tokens":[1]}')
    assert (await stage.ask(CHAT, [stage.url()], key, path="/v1/tokenize")).status_code == 200
    assert (await stage.ask(CHAT, ["https://localhost/"], key, path="/v1/tokenize")).status_code == 400
    assert (await stage.ask(CHAT, [stage.url()], None, OPEN["id"], path="/v1/tokenize")).status_code == 403
    assert stage.images.peers == []
    counts = [asked.body for backend in stage.backends for asked in backend.counted]
    stage.serve(image(status=404))
    assert (await stage.ask(CHAT, [stage.url()], key, NARROW["id"])).status_code == 400
    counts += [asked.body for backend in stage.backends for asked in backend.counted]
    assert len(counts) == 3
    assert all(b"iVBORw0KGgo" in count and b"pictures.example" not in count for count in counts)


async def test_a_long_one_is_sent_whole(stage: Stage) -> None:
    _, key = await funded(stage)
    content = PNG + bytes(range(256)) * 700
    stage.serve(image(content))
    assert (await stage.ask(CHAT, [stage.url()], key)).status_code == 200
    assert b64encode(content) in inferred_by(stage)[0]
    assert stage.door.gateway.bytes_in_flight.used_bytes == 0


@each("way", [CHAT, MESSAGES, WAYS["responses"], WAYS["mcp"]])
async def test_a_client_that_leaves_ends_the_fetch_and_pays_nothing(stage: Stage, way: Way) -> None:
    account, key = await funded(stage)
    stage.serve(read_then_stall)
    task = asyncio.create_task(stage.ask(way, [stage.url()], key))
    await eventually(lambda: len(stage.images.requests) == 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if not way.is_mcp:
        await stage.images.peers[0].gone()
    await stage.door.gateway.lifecycle.wait_until_idle(PATIENCE_S)
    assert inferred_by(stage) == []
    await eventually(lambda: stage.door.gateway.limiter.in_flight == 0)
    assert await stage.door.balance_nano(account) == CREDIT_NANO


async def test_a_key_that_is_revoked_ends_the_fetch(stage: Stage) -> None:
    account, key = await funded(stage)
    stage.serve(read_then_stall)
    task = asyncio.create_task(stage.ask(CHAT, [stage.url()], key))
    await eventually(lambda: len(stage.images.requests) == 1)
    (one,) = await stage.door.rows("SELECT id FROM keys WHERE account_id = ?", account)
    await stage.door.gateway.keys.revoke(one[0])
    assert (await task).status_code == 401
    await stage.images.peers[0].gone()
    assert await stage.door.balance_nano(account) == CREDIT_NANO


async def test_an_address_and_what_is_there_are_kept_nowhere(stage: Stage, logged: list[str]) -> None:
    _, key = await funded(stage)
    elsewhere = redirect(f"https://{CANARY}.example/{CANARY}")
    for way in (CHAT, MESSAGES, WAYS["responses"], WAYS["mcp"]):
        answered_with(stage, way.answer)
        for behaviour in (image(), image(status=404), elsewhere, image(CANARY.encode())):
            stage.serve(behaviour)
            for host in (f"{CANARY}.pictures.example", f"{CANARY}.example"):
                await stage.ask(way, [stage.url(f"/{CANARY}?{CANARY}", host=host)], key)
    await stage.door.nothing_is_left()
    assert not [line for line in logged if CANARY in line]
    assert CANARY.encode() not in await stage.door.kept()
    assert CANARY not in (await stage.door.http.get("/metrics")).text


async def test_without_vision_there_is_nothing_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fetch_images needs enable_vision"):
        Settings.model_validate({"data_dir": tmp_path, "fetch_images": True})


@each("way", [CHAT, WAYS["mcp"]])
async def test_the_model_that_is_asked_next_is_sent_them_too(stage: Stage, way: Way) -> None:
    account, key = await funded(stage)
    refused = whole(b'{"error":{"message":"I do not like it.","type":"BadRequestError","code":400}}', 400)

    async def answer(asked: Asked) -> None:
        await (refused if len(inferred_by(stage)) == 1 else unary())(asked)

    answered_with(stage, answer)
    stage.serve(told_by_path)
    answered_with(stage, answer)
    response = await stage.ask(way, [stage.url("/1")], key, models=[NARROW["id"]])
    assert response.status_code == 200, response.text
    assert NARROW["id"] in response.text
    bodies = inferred_by(stage)
    assert len(bodies) == 2
    assert all(b64encode(PNG + b"/1") in body and b"pictures.example" not in body for body in bodies)
    assert 0 < await stage.door.balance_nano(account) < CREDIT_NANO
