"""`auto`: the model is chosen by the prompt, the pool and the account's money, and the answer tells which and why."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.catalog import Model
from mcp_gateway.core.inference.auto_router import MOST_ALTERNATIVES
from mcp_gateway.core.inference.exchange import Exchange
from mcp_gateway.core.ledger.purse import Hold
from mcp_gateway.core.money import parse_usd
from mcp_gateway.core.observe.paces import AnswerPaces
from mcp_gateway.core.routing.deciding import Decision
from mcp_gateway.core.surfaces.surface import Ask
from tests.cases import each
from tests.patience import eventually
from tests.providers.doubles import Double, Generic, Refusal, serving
from tests.providers.test_contract import ENVIRON
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.asyncio(loop_scope="module")
DOWN = Refusal(503, b"{}")
CODE = "Write a Python function that merges two sorted lists, and unit tests for it."
HELLO = "hi there, how are you today?"
FIRST, SECOND, DEAR = "small/cheap", "mid/seeing", "large/dear"


def priced(usd: str) -> dict[str, Any]:
    return {"per_million": True, "prompt": usd, "completion": usd}


MODELS: list[dict[str, Any]] = [
    {
        "id": FIRST,
        "provider": "cheap",
        "backend_model": "m",
        "pricing": priced("0.1"),
        "context_window": 4000,
        "features": [],
        "quality": {"code": 0.4, "conversation": 0.7},
        "aliases": ["small"],
        "guests": True,
    },
    {
        "id": SECOND,
        "provider": "seeing",
        "backend_model": "m",
        "pricing": priced("1"),
        "context_window": 16_000,
        "input_modalities": ["text", "image"],
        "features": ["tools", "json_mode"],
        "quality": {"code": 0.6, "conversation": 0.7},
    },
    {
        "id": DEAR,
        "provider": "dear",
        "backend_model": "m",
        "pricing": priced("10"),
        "context_window": 64_000,
        "max_output_tokens": 8000,
        "quality": {"code": 0.9, "conversation": 0.75},
    },
    {"id": "vectors", "provider": "dear", "backend_model": "v", "pricing": priced("1"), "task": "embed"},
]
SOURCE_OF = {FIRST: "cheap", SECOND: "seeing", DEAR: "dear"}


@dataclass
class Stage:
    door: Door
    doubles: dict[str, Double]
    key: str
    number: int = field(default=0)

    async def ask(self, prompt: str = CODE, key: str | None = None, **fields: Any) -> httpx2.Response:
        """Each a conversation of its own, which keeps no model of another's."""
        self.number += 1
        messages = [{"role": "system", "content": f"Conversation {self.number}."}, {"role": "user", "content": prompt}]
        asked = {"model": "auto", "messages": messages, "max_tokens": 100} | fields
        return await self.door.chat(key or self.key, **asked)

    def asked(self) -> list[str]:
        """Whom since the last look."""
        found = [name for name, double in self.doubles.items() for _ in double.asked]
        for double in self.doubles.values():
            double.asked.clear()
        return found


@asynccontextmanager
async def choosing(data_dir: Path, **settings: Any) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        doubles = {name: await stack.enter_async_context(serving(Generic())) for name in SOURCE_OF.values()}
        providers = [double.settings(name) for name, double in doubles.items()]
        settings = {"providers": providers, "models": MODELS, "routing": {"default_model": DEAR}} | settings
        door = await stack.enter_async_context(open_door(data_dir, environ=ENVIRON, **settings))
        door.gateway.inference.parts.monotonic_s = lambda: 0.0  # so that all of them are as quick
        yield Stage(door, doubles, await door.key(credit="10"))
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One whose providers all answer."""
    async with choosing(tmp_path_factory.mktemp("auto")) as stage:
        yield stage


def chosen(response: httpx2.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-routing-model"]


@each("is_stream", [False, True])
@each(
    ("prompt", "optimize", "model"),
    [
        (CODE, "quality", DEAR),
        (CODE, "best", DEAR),
        (CODE, "cost", DEAR),  # who else is near the best?
        (HELLO, "cost", FIRST),
        (HELLO, "Cheapest", FIRST),
        (HELLO, "balanced", FIRST),
        (HELLO, None, FIRST),
    ],
)
async def test_the_mode_says_who_answers(
    prompt: str, optimize: str | None, model: str, is_stream: bool, stage: Stage
) -> None:
    response = await stage.ask(prompt, routing={"optimize": optimize}, stream=is_stream)
    assert chosen(response) == model
    assert stage.asked() == [SOURCE_OF[model]]
    assert f'"model":"{model}"'.encode() in response.content.replace(b'": "', b'":"')
    assert (await stage.door.record(response))["model"] == model


async def test_an_answer_tells_why(stage: Stage) -> None:
    headers = (await stage.ask(CODE)).headers
    assert (headers["x-routing-task"], headers["x-routing-complexity"]) == ("code", "medium")
    assert 0.5 < float(headers["x-routing-confidence"]) <= 1
    assert float(headers["x-routing-time-ms"]) > 0
    headers = (await stage.ask(CODE, routing={"task": "chat"})).headers
    assert (headers["x-routing-task"], headers["x-routing-confidence"]) == ("conversation", "1.000")
    assert not [name for name in (await stage.ask(model=FIRST)).headers if name.startswith("x-routing")]
    sent = stage.doubles["dear"].asked[0].body
    assert not {"routing", "models"} & sent.keys()


@each(
    ("fields", "removed"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, {FIRST}),
        ({"response_format": {"type": "json_object"}}, {FIRST}),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}}, {FIRST, SECOND}),
        ({"logprobs": True}, {FIRST, SECOND}),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, {FIRST}),
        ({"routing": {"max_price_per_million": 1}}, {DEAR}),
        ({"routing": {"max_price_per_million": "0.5"}}, {SECOND, DEAR}),
        ({"routing": {"model_pool": ["small", SECOND]}}, {DEAR}),
        ({"provider": {"ignore": ["dear", "cheap"]}}, {FIRST, DEAR}),
    ],
)
async def test_who_cannot_serve_is_passed_over(fields: dict[str, Any], removed: set[str], stage: Stage) -> None:
    routing = fields.pop("routing", {})
    stage.asked()
    found = set()
    for mode in ("quality", "cost"):
        for prompt in (CODE, HELLO):
            response = await stage.ask(prompt, **fields, routing={"optimize": mode} | routing)
            found.add(chosen(response))
    assert found
    assert not found & removed
    assert not {SOURCE_OF[model] for model in removed} & set(stage.asked())


@each(
    ("fields", "status", "code", "told"),
    [
        ({"routing": {"max_price_per_million": 0.01}}, 404, "model_not_found", FIRST),
        ({"routing": {"model_pool": [FIRST], "max_price_per_million": 0.01}}, 404, "model_not_found", FIRST),
        ({"routing": {"model_pool": ["vectors"]}}, 404, "model_not_found", "among vectors"),
        ({"routing": {"model_pool": [FIRST, "nobody"]}}, 404, "model_not_found", "'nobody'"),
        ({"routing": {"optimize": "speed"}}, 400, "invalid_value", "balanced, quality"),
        ({"routing": {"task": "poetry"}}, 400, "invalid_value", "code, math"),
        ({"routing": {"model_pool": []}}, 400, "invalid_value", "is empty"),
        ({"routing": {"model_pool": [1]}}, 400, "invalid_type", "routing.model_pool[0]"),
        ({"routing": {"max_price_per_million": "dear"}}, 400, "invalid_value", "such as 0.5"),
        ({"routing": {"event": 1}}, 400, "invalid_type", "true or false"),
        ({"routing": {"mode": "cost"}}, 400, "unsupported_parameter", "routing.mode"),
        ({"routing": "cost"}, 400, "invalid_type", "an object"),
    ],
)
async def test_what_cannot_be_is_refused(
    fields: dict[str, Any], status: int, code: str, told: str, stage: Stage
) -> None:
    response = await stage.ask(**fields)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert told in error_of(response)["message"]
    assert stage.asked() == []


async def test_a_request_that_names_its_model_has_none_chosen(stage: Stage) -> None:
    response = await stage.ask(model=FIRST, routing={"optimize": "quality"})
    assert response.headers["x-ignored-parameters"] == "routing"
    assert stage.asked() == ["cheap"]


async def test_auto_stands_beside_named_models(stage: Stage) -> None:
    """In the list it is asked where it stands; who is in it by name as well is asked once."""
    response = await stage.ask(HELLO, models=[SECOND], routing={"optimize": "cost"})
    assert chosen(response) == FIRST
    response = await stage.ask(HELLO, model=SECOND, models=["auto"])
    assert (response.json()["model"], response.headers["x-routing-model"]) == (SECOND, SECOND)
    assert stage.asked() == ["cheap", "seeing"]


async def test_a_conversation_keeps_its_model(stage: Stage) -> None:
    turns: list[dict[str, Any]] = [{"role": "user", "content": CODE}]
    response = await stage.door.chat(stage.key, model="auto", messages=turns, routing={"optimize": "quality"})
    assert chosen(response) == DEAR
    turns += [response.json()["choices"][0]["message"], {"role": "user", "content": "shorter please"}]
    assert chosen(await stage.door.chat(stage.key, model="auto", messages=turns, routing={"optimize": "cost"})) == DEAR
    other = await stage.door.key(credit="1")
    fields: dict[str, Any] = {"messages": [turns[0], turns[1], {"role": "user", "content": HELLO}]}
    response = await stage.door.chat(other, model="auto", routing={"optimize": "cost"}, **fields)
    assert chosen(response) == FIRST
    stage.asked()


async def test_guests_have_what_is_open_to_them(stage: Stage) -> None:
    response = await stage.door.chat(None, model="auto", messages=[{"role": "user", "content": CODE}])
    assert chosen(response) == FIRST
    response = await stage.door.chat(None, model="auto", messages=[{"role": "user", "content": CODE}], logprobs=True)
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert DEAR not in response.text


async def test_who_fails_is_followed_by_the_next(tmp_path: Path) -> None:
    async with choosing(tmp_path) as stage:
        stage.doubles["dear"].refusal = DOWN
        response = await stage.ask(CODE, routing={"optimize": "quality"})
        assert (chosen(response), response.json()["model"]) == (SECOND, SECOND)
        assert stage.asked() == ["seeing", "dear"]
        record = await stage.door.record(response)
        assert (record["model"], record["backend"]) == (SECOND, "seeing")
        for double in stage.doubles.values():
            double.refusal = DOWN
        response = await stage.ask(CODE)
        assert response.status_code == 503
        await stage.door.nothing_is_left()


async def test_the_hold_covers_the_dearest_that_may_follow(tmp_path: Path) -> None:
    """100 tokens of an answer cost 1,000,000 nano-USD by the dearest, and a hundredth by the one that is asked."""
    async with choosing(tmp_path) as stage:
        for double in stage.doubles.values():
            double.goes_on = asyncio.Event()
        asking = asyncio.create_task(stage.ask(HELLO, routing={"optimize": "cost"}))
        await eventually(lambda: bool(stage.doubles["cheap"].asked))
        assert stage.door.gateway.ledger.held_now().amount_nano > 1_000_000
        for double in stage.doubles.values():
            assert double.goes_on is not None
            double.goes_on.set()
        assert chosen(await asking) == FIRST


async def test_the_dearest_leave_where_the_wallet_does_not_cover_them(tmp_path: Path) -> None:
    async with choosing(tmp_path) as stage:
        poor, none = await stage.door.key(credit="0.0008"), await stage.door.key()
        response = await stage.ask(CODE, poor, routing={"optimize": "quality"})
        assert chosen(response) == SECOND
        stage.doubles["seeing"].refusal = DOWN
        assert chosen(await stage.ask(CODE, poor, routing={"optimize": "quality"})) == FIRST
        response = await stage.ask(CODE, none)
        assert (response.status_code, error_of(response)["code"]) == (402, "insufficient_balance")
        assert "dear" not in stage.asked()


def many(number: int, usd: str = "1", **others: Any) -> list[dict[str, Any]]:
    """Models of one provider, by their price."""
    entry = {"provider": "dear", "backend_model": "m", "pricing": priced(usd), "features": ["tools"]} | others
    return [entry | {"id": f"many/{usd}-{place:03}"} for place in range(number)]


async def test_what_each_model_would_refuse_a_few_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then those that the request names, which are as few."""
    asked: list[str] = []

    def counted(exchange: Exchange, ask: Ask, model: Model, note: Any) -> Any:
        asked.append(model.id)
        return decide(exchange, ask, model, note)

    decide = Exchange._decide
    monkeypatch.setattr(Exchange, "_decide", counted)
    async with choosing(tmp_path, models=[*MODELS, *many(40)]) as stage:
        for fields in ({"n": 1000}, {"tools": [1]}, {"stream": True, "n": 1000}):
            asked.clear()
            response = await stage.ask(CODE, models=[FIRST], **fields)
            assert response.status_code == 400
            assert (len(asked), asked[-1]) == (1 + MOST_ALTERNATIVES + 1, FIRST)
            assert len(set(asked)) == len(asked)
        stage.doubles["dear"].refusal = stage.doubles["seeing"].refusal = DOWN
        assert chosen(await stage.ask(CODE, models=[FIRST], routing={"model_pool": ["many/1-000", DEAR]})) == FIRST


@each("dear", [8, 9, 40])
async def test_who_can_be_paid_is_asked_however_many_dearer_stand_before(dear: int, tmp_path: Path) -> None:
    cheap = many(1, "0.1", quality={"code": 0.1})
    async with choosing(tmp_path, models=[*many(dear, "10", quality={"code": 0.9}), *cheap]) as stage:
        poor = await stage.door.key(credit="0.0008")
        response = await stage.ask(CODE, poor, routing={"optimize": "quality"})
        assert (chosen(response), response.json()["model"]) == (cheap[0]["id"], cheap[0]["id"])


@each("is_stream", [False, True])
async def test_what_the_demo_answers_for_test_keys_says_nothing_of_models(is_stream: bool, tmp_path: Path) -> None:
    async with choosing(tmp_path) as stage:
        test, gateway = await stage.door.key(credit="1", is_test=True), stage.door.gateway
        for name in ("auto", FIRST):
            response = await stage.ask("hi there, how are you?", test, model=name, stream=is_stream)
            assert response.status_code == 200
        assert not any(any(sums) for _, sums in gateway.metrics.answer_sums())
        assert not gateway.inference.parts.auto_router._lengths.averages
        assert (await stage.ask(HELLO, stream=is_stream)).status_code == 200
        assert [sums.requests for _, sums in gateway.metrics.answer_sums() if any(sums)] == [1]
        assert gateway.inference.parts.auto_router._lengths.averages


async def while_held(stage: Stage, account: str, left_nano: int) -> Hold:
    """Have all of an account's wallet but so much held for a running request."""
    held_nano = await stage.door.balance_nano(account) - left_nano
    return await stage.door.gateway.ledger.hold(f"req_of_{account}", account, held_nano, held_nano)


@each("is_stream", [False, True])
async def test_who_is_free_to_be_paid_is_asked_while_dearer_models_would_have_to_wait(
    is_stream: bool, tmp_path: Path
) -> None:
    async with choosing(tmp_path, wallet={"hold_wait_s": 1000}) as stage:
        account = await stage.door.account("1")
        key = await stage.door.key(account)
        running = await while_held(stage, account, 100_000)
        asked: dict[str, Any] = {"routing": {"optimize": "quality"}, "stream": is_stream}
        assert chosen(await stage.ask(CODE, key, **asked)) == FIRST
        stage.door.gateway.ledger.release(running.request_id)
        assert chosen(await stage.ask(CODE, key, **asked)) == DEAR


@each(("model", "models"), [("auto", []), (DEAR, [FIRST]), (FIRST, ["auto"])])
async def test_who_waits_for_money_in_vain_has_a_cheaper_model_asked(
    model: str, models: list[str], tmp_path: Path
) -> None:
    """All money is held when it is asked for, and what comes free pays the cheapest alone."""
    async with choosing(tmp_path, wallet={"hold_wait_s": 1000}) as stage:
        account = await stage.door.account("1")
        running, ledger = await while_held(stage, account, 0), stage.door.gateway.ledger
        fields: dict[str, Any] = {"model": model, "models": models, "routing": {"optimize": "quality"}}
        asking = asyncio.create_task(stage.ask(CODE, await stage.door.key(account), **fields))
        await eventually(lambda: bool(ledger._wait_list))
        await ledger.settle(running, running.amount_nano - 100_000, None)
        assert (await asking).json()["model"] == FIRST


@each("balance", ["0", "-1"])
async def test_who_costs_nothing_is_asked_where_there_is_no_money(balance: str, tmp_path: Path) -> None:
    free = [*many(1), {"id": "gift", "provider": "cheap", "backend_model": "m", "free": True}]
    async with choosing(tmp_path, models=free, wallet={"minimum_balance_usd": "0.5"}) as stage:
        account = await stage.door.account("0")
        if balance != "0":
            await stage.door.gateway.ledger.adjust(account, parse_usd(balance), "by hand")
        key = await stage.door.key(account)
        for fields in ({"routing": {"optimize": "quality"}}, {"model": "many/1-000", "models": ["gift"]}):
            assert (await stage.ask(CODE, key, **fields)).json()["model"] == "gift"


async def test_a_failure_to_choose_is_no_failure_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> Decision:
        raise ZeroDivisionError

    async with choosing(tmp_path) as stage:
        monkeypatch.setattr("mcp_gateway.core.inference.auto_router.decide", failing)
        response = await stage.ask(HELLO)
        assert chosen(response) == DEAR
        assert (response.headers["x-routing-task"], response.headers["x-routing-confidence"]) == ("unknown", "0.000")
        assert "gateway_routing_failures_total 1.0" in stage.door.gateway.metrics.exposition().decode()
        assert (await stage.ask(routing={"model_pool": ["vectors"]})).status_code == 404


async def test_messages_and_responses_are_routed_too(stage: Stage) -> None:
    body: dict[str, Any] = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": CODE}]}
    response = await stage.door.post(orjson.dumps(body), stage.key, "/v1/messages")
    assert (chosen(response), response.json()["model"]) == (DEAR, DEAR)
    response = await stage.door.post(orjson.dumps(body), stage.key, "/v1/messages/count_tokens")
    assert response.status_code == 200, response.text
    body = {"model": "auto", "input": HELLO, "routing": {"optimize": "cost"}}
    response = await stage.door.post(orjson.dumps(body), stage.key, "/v1/responses")
    assert (response.status_code, error_of(response)["code"]) == (404, "model_not_found")
    assert f"Cannot be asked by this endpoint: {FIRST}, {SECOND}, {DEAR}." in error_of(response)["message"]
    stage.asked()


@each(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": CODE}),
        ("/v1/embeddings", {"input": CODE}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
async def test_what_is_no_conversation_names_its_model(path: str, body: dict[str, Any], stage: Stage) -> None:
    response = await stage.door.post(orjson.dumps({"model": "auto"} | body), stage.key, path)
    assert (response.status_code, error_of(response)["param"]) == (400, "model"), response.text
    assert "name a model" in error_of(response)["message"]


async def test_who_was_quick_of_late_is_chosen_for_it(tmp_path: Path) -> None:
    """Whoever asked: answers to those who name their model are timed too."""
    async with choosing(tmp_path) as stage:
        gateway, now_s = stage.door.gateway, [0.0]
        gateway.inference.parts.auto_router._paces = AnswerPaces(gateway.metrics.answer_sums, lambda: now_s[0])
        for model_id, slow in ((FIRST, 3), (SECOND, 1), (DEAR, 2)):
            await answered_in(stage, model_id, slow)
        now_s[0] += 10
        assert chosen(await stage.ask(HELLO, routing={"optimize": "fastest"})) == SECOND
        for _ in range(20):
            await answered_in(stage, SECOND, 9)
        assert chosen(await stage.ask(HELLO, routing={"optimize": "fastest"})) == SECOND  # it is too soon to look again
        now_s[0] += 10
        assert chosen(await stage.ask(HELLO, routing={"optimize": "fastest"})) == DEAR


async def answered_in(stage: Stage, model_id: str, tick_s: float) -> None:
    """Have a model asked by its name, with so much time between each two looks at the clock."""
    parts, ticks = stage.door.gateway.inference.parts, itertools.count()
    parts.monotonic_s = lambda: next(ticks) * tick_s
    assert (await stage.door.chat(stage.key, model=model_id, stream=True)).status_code == 200
    parts.monotonic_s = lambda: 0.0


async def test_one_provider_alone_may_be_asked(stage: Stage) -> None:
    body = orjson.dumps({"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": HELLO}]})
    for model_id, source in SOURCE_OF.items():
        response = await stage.door.post(body, stage.key, f"/v1/chat/completions?provider={source}")
        assert (chosen(response), stage.asked()) == (model_id, [source])
    response = await stage.door.post(body, stage.key, "/v1/chat/completions?provider=nobody")
    assert (response.status_code, error_of(response)["param"]) == (400, "provider")


async def test_who_is_doubtful_is_asked_where_all_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with choosing(tmp_path) as stage:
        monkeypatch.setattr(stage.door.gateway.pool, "is_sound_for", lambda _: False)
        assert chosen(await stage.ask(HELLO)) == FIRST
        monkeypatch.setattr(stage.door.gateway.pool, "can_take", lambda _: False)
        response = await stage.ask(HELLO)
        assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")


async def test_who_costs_more_than_is_held_is_asked_on_a_hold_of_its_own(tmp_path: Path) -> None:
    """The wallet has a useful part of its answer, and not the whole."""
    async with choosing(tmp_path) as stage:
        stage.doubles["cheap"].refusal = DOWN
        poor = await stage.door.key(credit="0.0008")
        response = await stage.ask(HELLO, poor, routing={"optimize": "cost"}, max_tokens=3000)
        assert (chosen(response), stage.asked()) == (SECOND, ["cheap", "seeing"])
        assert int(response.headers["x-max-tokens-clamped"]) < 1000
