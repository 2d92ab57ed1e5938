"""OpenRouter's fields of a request: which models and providers answer a chat, what they may cost, and what is told."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.identity.own_limits import OwnLimits
from mcp_gateway.core.inference.routing import left_out, takers
from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.sent_images import PLACEHOLDER
from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.whole_answer import PARSED_BYTES
from tests.cases import each
from tests.providers.doubles import Double, Generic, Groq, Mistral, Refusal, serving
from tests.providers.test_contract import ENVIRON, chunks_of
from tests.replaying import ReplayingBackend, whole
from tests.serving import Door, error_of, open_door
from tests.turns import turns_during

pytestmark = [pytest.mark.providers, pytest.mark.asyncio(loop_scope="module")]
CHEAP, MIDDLE, DEAR = [{"prompt": f"0.0000{n}", "completion": f"0.0000{n}2"} for n in ("001", "01", "1")]
"""0.1, 1 and 10 USD for a million tokens of a prompt."""
DOWN, BUSY, BROKEN = Refusal(503, b"{}"), Refusal(429, b"{}"), Refusal(500, b"oops")
TOO_LONG = Refusal(400, b'{"error":{"message":"too long","code":"context_length_exceeded"}}')
NO_MONEY = Refusal(402, b'{"error":{"message":"no money","type":"billing"}}')
MODELS: list[dict[str, Any]] = [
    {
        "id": "sold/many",
        "pricing": DEAR,
        "context_window": 8000,
        "candidates": [
            {"provider": "Middle", "backend_model": "at-middle", "pricing": MIDDLE},
            {"provider": "dear", "backend_model": "at-dear", "pricing": DEAR},
            {"provider": "cheap", "backend_model": "at-cheap", "pricing": CHEAP},
        ],
    },
    {"id": "sold/dear", "provider": "dear", "backend_model": "alone", "pricing": DEAR, "context_window": 4000},
    {"id": "sold/cheap", "provider": "cheap", "backend_model": "alone", "pricing": CHEAP, "context_window": 9000},
    {"id": "own/tiny", "backend_model": "demo/echo", "aliases": ["tiny"], "free": True},
]


@dataclass
class Stage:
    door: Door
    doubles: dict[str, Double]
    key: str

    async def ask(self, **fields: Any) -> httpx2.Response:
        return await self.door.chat(self.key, **{"model": "sold/many"} | fields)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Whom, and for which model, since the last look."""
        found = [(name, one.body["model"]) for name, double in self.doubles.items() for one in double.asked]
        for double in self.doubles.values():
            double.asked.clear()
        return found


@asynccontextmanager
async def selling(data_dir: Path, **manners: Generic) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        kinds = {"Middle": Generic(), "dear": Generic(), "cheap": Generic()} | manners
        doubles = {name: await stack.enter_async_context(serving(kind)) for name, kind in kinds.items()}
        providers = [double.settings(name) for name, double in doubles.items()]
        door = await stack.enter_async_context(open_door(data_dir, environ=ENVIRON, providers=providers, models=MODELS))
        yield Stage(door, doubles, await door.key(credit="10"))
        await door.nothing_is_left()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One whose providers all answer."""
    async with selling(tmp_path_factory.mktemp("routes")) as stage:
        yield stage


@each(
    ("provider", "asked"),
    [
        ({}, "Middle"),
        ({"order": ["cheap"]}, "cheap"),
        ({"order": ["nobody", "dear", "cheap"]}, "dear"),
        ({"order": ["CHEAP"], "allow_fallbacks": False}, "cheap"),
        ({"only": ["dear", "cheap"]}, "dear"),
        ({"only": ["middle"]}, "Middle"),
        ({"only": ["dear", "cheap"], "order": ["cheap"]}, "cheap"),
        ({"ignore": ["middle"]}, "dear"),
        ({"ignore": ["Middle", "dear", "nobody"]}, "cheap"),
        ({"sort": "price"}, "cheap"),
        ({"sort": {"by": "price"}}, "cheap"),
        ({"sort": {"by": "price", "partition": "model"}, "ignore": ["cheap"]}, "Middle"),
        ({"sort": "price", "order": ["dear"]}, "dear"),
        ({"sort": None, "order": None, "only": [], "ignore": []}, "Middle"),
        ({"max_price": {"prompt": 1, "completion": 1.2}}, "Middle"),
        ({"max_price": {"prompt": 0.99}}, "cheap"),
        ({"max_price": {"prompt": "0.1", "completion": "0.12", "request": 0, "image": 0}}, "cheap"),
        ({"max_price": {"completion": 1.1999}}, "cheap"),
        ({"max_price": {}}, "Middle"),
        ({"require_parameters": True}, "Middle"),
        ({"data_collection": "allow", "zdr": False, "quantizations": [], "allow_fallbacks": None}, "Middle"),
    ],
)
async def test_who_answers_is_as_the_provider_field_says(provider: dict[str, Any], asked: str, stage: Stage) -> None:
    for is_stream in (False, True):
        response = await stage.ask(provider=provider, stream=is_stream)
        assert response.status_code == 200, response.text
        assert stage.asked == [(asked, f"at-{asked.lower()}")]
        assert (await stage.door.record(response))["backend"] == asked


@each(
    ("provider", "status", "param", "words"),
    [
        ({"only": ["nobody"]}, 404, "provider.only", ("sold/many", "Middle, dear, cheap")),
        ({"only": ["vllm"]}, 404, "provider.only", ("Middle, dear, cheap",)),
        ({"ignore": ["middle", "dear", "cheap"]}, 404, "provider.ignore", ("Middle, dear, cheap",)),
        ({"only": ["dear"], "ignore": ["dear"]}, 404, "provider.ignore", ()),
        ({"order": ["nobody"], "allow_fallbacks": False}, 404, "provider.order", ("Middle, dear, cheap",)),
        ({"max_price": {"prompt": 0.0999}}, 404, "provider.max_price", ("0.1 USD for a million prompt tokens",)),
        ({"only": ["dear"], "max_price": {"prompt": 9.99}}, 404, "provider.max_price", ()),
        ({"sort": "speed"}, 400, "provider.sort", ("price, latency, throughput",)),
        ({"sort": {"by": "exacto"}}, 400, "provider.sort.by", ("price, latency, throughput",)),
        ({"sort": {"by": "price", "partition": "all"}}, 400, "provider.sort.partition", ("model, none",)),
        ({"sort": 7}, 400, "provider.sort", ()),
        ({"sort": {"of": "price"}}, 400, "provider.sort.of", ()),
        ({"order": "cheap"}, 400, "provider.order", ("a list",)),
        ({"only": [1]}, 400, "provider.only[0]", ("a string",)),
        ({"ignore": ["a"] * 101}, 400, "provider.ignore", ("100",)),
        ({"allow_fallbacks": "no"}, 400, "provider.allow_fallbacks", ("true or false",)),
        ({"require_parameters": 1}, 400, "provider.require_parameters", ()),
        ({"max_price": {"prompt": -1}}, 400, "provider.max_price.prompt", ("a number of USD for a million tokens",)),
        ({"max_price": {"image": "much"}}, 400, "provider.max_price.image", ("one image",)),
        ({"max_price": {"prompt": True}}, 400, "provider.max_price.prompt", ()),
        ({"max_price": {"prompt": 1e300}}, 400, "provider.max_price.prompt", ()),
        ({"max_price": {"audio": 1}}, 400, "provider.max_price.audio", ()),
        ({"max_price": 1}, 400, "provider.max_price", ("an object",)),
        ({"data_collection": "deny"}, 400, "provider.data_collection", ("leave it out",)),
        ({"zdr": True}, 400, "provider.zdr", ("leave it out",)),
        ({"quantizations": ["fp8"]}, 400, "provider.quantizations", ("leave it out",)),
        ({"experimental": {}}, 400, "provider.experimental", ("leave it out",)),
    ],
)
async def test_what_cannot_be_is_refused_by_the_name_of_its_field(
    provider: dict[str, Any], status: int, param: str, words: tuple[str, ...], stage: Stage
) -> None:
    response = await stage.ask(provider=provider)
    assert (response.status_code, error_of(response)["param"]) == (status, param), response.text
    assert [word for word in (param, *words) if word not in error_of(response)["message"]] == []
    assert stage.asked == []


@each(
    ("fields", "param"),
    [
        ({"provider": "cheap"}, "provider"),
        ({"provider": ["cheap"]}, "provider"),
        ({"models": "sold/cheap"}, "models"),
        ({"models": [1]}, "models[0]"),
        ({"models": ["sold/cheap", ""]}, "models[1]"),
        ({"models": ["sold/cheap"] * 11}, "models"),
        ({"models": ["sold/cheap", "sold/chaep"]}, "models[1]"),
        ({"model": "sold/chaep", "models": ["sold/cheap"]}, "model"),
        ({"model": None, "models": []}, "model"),
        ({"model": 7, "models": ["sold/cheap"]}, "model"),
        ({"usage": True}, "usage"),
        ({"usage": {"include": "yes"}}, "usage.include"),
        ({"usage": {"exclude": True}}, "usage.exclude"),
    ],
)
async def test_what_is_of_a_wrong_shape_is_refused(fields: dict[str, Any], param: str, stage: Stage) -> None:
    response = await stage.ask(**fields)
    assert response.status_code in (400, 404)
    assert error_of(response)["param"] == param, response.text
    assert stage.asked == []


async def test_nothing_of_these_fields_is_sent_on_or_told_as_left_out(stage: Stage) -> None:
    wanted = {"order": ["cheap"], "preferred_min_throughput": {"p90": 50}, "ignore": ["someone"]}
    response = await stage.ask(provider=wanted, models=["sold/cheap"], usage={"include": True}, seed=1)
    assert response.headers["x-ignored-parameters"] == "provider.preferred_min_throughput, provider.ignore[0]"
    (asked,) = stage.doubles["cheap"].asked
    assert asked.body.keys() == {"model", "messages", "max_tokens", "seed"}
    assert stage.asked == [("cheap", "at-cheap")]


async def test_a_model_need_not_be_named_beside_models(stage: Stage) -> None:
    for named in ({"model": None}, {"model": ""}, {"model": "sold/cheap"}):
        response = await stage.ask(**named, models=["sold/cheap", "sold/dear", "sold/cheap"])
        assert response.json()["model"] == "sold/cheap"
        assert stage.asked == [("cheap", "alone")]


async def test_own_servers_are_a_provider_by_the_name_vllm(stage: Stage) -> None:
    response = await stage.ask(model="tiny", provider={"only": ["vllm"]}, models=["sold/cheap"])
    assert (response.status_code, response.json()["model"], stage.asked) == (200, "tiny", [])
    response = await stage.ask(model="tiny", provider={"ignore": ["vllm"]}, models=["sold/cheap"])
    assert (response.status_code, response.json()["model"]) == (200, "sold/cheap")
    assert stage.asked == [("cheap", "alone")]


async def test_a_model_of_which_nobody_is_left_is_passed_over(stage: Stage) -> None:
    response = await stage.ask(models=["sold/dear", "sold/cheap"], provider={"max_price": {"prompt": 0.1}})
    assert (response.status_code, stage.asked) == (200, [("cheap", "at-cheap")])
    response = await stage.ask(model="sold/dear", models=["sold/cheap"], provider={"max_price": {"prompt": 0.1}})
    assert response.json()["model"] == "sold/cheap"
    assert stage.asked == [("cheap", "alone")]


async def test_the_providers_of_all_models_may_be_sorted_together(stage: Stage) -> None:
    fields = {"model": "sold/dear", "models": ["sold/many"]}
    await stage.ask(**fields, provider={"sort": "price"})
    assert stage.asked == [("dear", "alone")]
    await stage.ask(**fields, provider={"sort": {"by": "price", "partition": "none"}})
    assert stage.asked == [("cheap", "at-cheap")]
    await stage.ask(**fields, provider={"sort": {"by": "price", "partition": "none"}, "order": ["middle"]})
    assert stage.asked == [("Middle", "at-middle")]


async def test_a_provider_in_the_query_bounds_what_the_body_names(stage: Stage) -> None:
    body = {"model": "sold/many", "messages": [{"role": "user", "content": "a"}]}
    for provider, status in (({"sort": "price"}, 200), ({"only": ["cheap"]}, 404)):
        raw = orjson.dumps(body | {"provider": provider})
        response = await stage.door.post(raw, stage.key, "/v1/chat/completions?provider=dear")
        assert response.status_code == status
    raw = orjson.dumps(body | {"models": ["sold/cheap"]})
    response = await stage.door.post(raw, stage.key, "/v1/chat/completions?provider=nobody")
    assert (response.status_code, error_of(response)["param"]) == (400, "provider")
    assert stage.asked == [("dear", "at-dear")]


async def test_guests_and_test_keys_route_as_others_do(stage: Stage) -> None:
    response = await stage.door.chat(None, model="sold/many", models=["own/tiny"], provider={"sort": "price"})
    assert (response.status_code, response.json()["model"]) == (200, "own/tiny")  # which guests may use
    key = await stage.door.key(is_test=True)
    assert (await stage.door.chat(key, model="sold/many", provider={"only": ["cheap"]})).status_code == 200
    assert (await stage.door.chat(key, model="sold/many", provider={"only": ["nobody"]})).status_code == 404
    assert stage.asked == []


async def test_a_key_for_some_models_alone_has_no_others_answer(stage: Stage) -> None:
    key = await stage.door.key(credit="1", models=("sold/cheap",))
    response = await stage.door.chat(key, model="sold/cheap", models=["sold/dear"])
    assert (response.status_code, error_of(response)["param"]) == (404, "models[0]")
    assert (await stage.door.chat(key, models=["sold/cheap"], model=None)).status_code == 200
    assert stage.asked == [("cheap", "alone")]


async def test_an_account_that_pays_more_has_its_own_prices_capped(stage: Stage) -> None:
    account = await stage.door.account("10")
    await (await stage.door.desk()).accounts.change(account, margin=1000)
    key = await stage.door.key(account)
    for prompt, status in (("0.1", 404), ("0.10999", 404), ("0.11", 200)):
        wanted = {"max_price": {"prompt": prompt}}
        response = await stage.door.chat(key, model="sold/cheap", provider=wanted)
        assert response.status_code == status, response.text
    assert stage.asked == [("cheap", "alone")]


# What a model that fails leads to

FAILS = [DOWN, BUSY, BROKEN, TOO_LONG, NO_MONEY, Refusal(404, b"{}"), Refusal(403, b"{}"), Refusal(422, b"{}")]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("fault", FAILS, ids=lambda fault: str(fault.status))
async def test_the_next_model_answers_where_one_fails(fault: Refusal, is_stream: bool, tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        stage.doubles["dear"].refusal = fault
        response = await stage.ask(model="sold/dear", models=["sold/cheap"], stream=is_stream, seed=5, max_tokens=50)
        assert response.status_code == 200, response.text
        told = chunks_of(response.content) if is_stream else [response.json()]
        assert {one["model"] for one in told} == {"sold/cheap"}
        (sent,) = stage.doubles["cheap"].asked
        assert (sent.body["seed"], sent.body["max_tokens"]) == (5, 50)
        assert stage.asked == [("dear", "alone"), ("cheap", "alone")]
        record = await stage.door.record(response)
        assert (record["model"], record["backend"]) == ("sold/cheap", "cheap")
        assert record["cost_nano"] == -(-(35 * 100 + 12 * 120) // 1)


async def test_each_model_is_asked_within_its_own_limits(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        stage.doubles["dear"].refusal = DOWN
        await stage.ask(model="sold/dear", models=["sold/cheap"])
        sent = {name: double.asked[0].body["max_tokens"] for name, double in stage.doubles.items() if double.asked}
        assert sent["dear"] == 4000
        assert 8000 < sent["cheap"] <= 9000


async def test_what_fails_of_all_is_told_as_the_last_one_says(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        stage.doubles["dear"].refusal, stage.doubles["cheap"].refusal = BUSY, NO_MONEY
        response = await stage.ask(model="sold/dear", models=["sold/cheap"])
        assert response.status_code == 503
        assert "sold/cheap" in error_of(response)["message"]
        failed = await stage.door.rows("SELECT number, backend, code FROM failed_attempts ORDER BY number")
        assert failed == [(1, "dear", "backend_busy"), (2, "cheap", "provider_money")]


async def test_what_may_have_been_computed_twice_is_asked_of_no_third(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        for double in stage.doubles.values():
            double.refusal = BROKEN
        response = await stage.ask(
            model="sold/dear", models=["sold/cheap", "sold/many"], provider={"allow_fallbacks": False}
        )
        assert response.status_code == 502
        assert stage.asked == [("dear", "alone"), ("cheap", "alone")]


async def test_who_leaves_no_fallbacks_has_one_provider_asked(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        stage.doubles["Middle"].refusal = stage.doubles["cheap"].refusal = DOWN
        assert (await stage.ask(provider={"allow_fallbacks": False})).status_code == 503
        assert stage.asked == [("Middle", "at-middle")]
        wanted = {"order": ["cheap", "middle"], "allow_fallbacks": False}
        assert (await stage.ask(provider=wanted)).status_code == 503
        assert ("dear", "at-dear") not in stage.asked
        assert (await stage.ask(provider={"order": ["cheap", "middle"]})).status_code == 200
        assert stage.asked == [("dear", "at-dear")]


async def test_what_is_too_dear_for_the_wallet_leads_to_the_next_model(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        poor, none = await stage.door.key(credit="0.0004"), await stage.door.key()
        fields: dict[str, Any] = {"model": "sold/dear", "models": ["sold/cheap"], "max_tokens": 100}
        assert (await stage.door.chat(poor, **fields)).json()["model"] == "sold/cheap"
        assert (await stage.door.chat(none, **fields)).status_code == 402
        assert stage.asked == [("cheap", "alone")]


async def test_what_no_other_model_changes_is_told_at_once(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        key = await stage.door.key(credit="1", limits=OwnLimits(None, None, 300, None))
        fields: dict[str, Any] = {"model": "sold/dear", "models": ["sold/cheap"]}
        assert (await stage.door.chat(key, **fields, max_tokens=400)).status_code == 400
        assert stage.asked == []
        stage.doubles["dear"].refusal = DOWN
        assert (await stage.door.chat(key, **fields, max_tokens=200)).json()["model"] == "sold/cheap"
        assert stage.asked == [("dear", "alone"), ("cheap", "alone")]
        response = await stage.door.chat(key, **fields, max_tokens=255)  # beside the 47 that were used
        assert (response.status_code, error_of(response)["code"]) == (429, "tokens_per_minute")
        assert stage.asked == []


async def test_a_stream_that_has_begun_leads_to_no_other_model(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        stage.doubles["dear"].cut_after = 2
        response = await stage.ask(model="sold/dear", models=["sold/cheap"], stream=True)
        assert b"backend_died" in response.content
        assert stage.asked == [("dear", "alone")]


async def test_own_servers_and_providers_stand_in_for_each_other(tmp_path: Path) -> None:
    async with serving(Generic()) as double, ReplayingBackend(max_model_len=8000) as backend:
        models = [
            {"id": "own/tiny", "backend_model": "tiny", "pricing": MIDDLE},
            {"id": "sold/one", "provider": "one", "backend_model": "m", "pricing": CHEAP, "context_window": 8000},
        ]
        settings: dict[str, Any] = {"providers": [double.settings("one")], "models": models}
        async with open_door(tmp_path, environ=ENVIRON, vllm_urls=[backend.url], **settings) as door:
            key = await door.key(credit="10")
            double.refusal = DOWN
            messages = [{"role": "user", "content": "a" * 3000, "reasoning": "hm"}]
            fields: dict[str, Any] = {"messages": messages, "top_k": 3, "model": "sold/one", "models": ["own/tiny"]}
            for is_stream in (False, True):
                response = await door.chat(key, **fields, stream=is_stream)
                assert response.status_code == 200, response.text
                sent = backend.chats[-1].json
                assert (sent["model"], sent["top_k"], sent["messages"]) == ("tiny", 3, messages)
                assert not {"models", "provider", "usage"} & sent.keys()
                assert "x-ignored-parameters" not in response.headers
            await door.nothing_is_left()


async def test_who_takes_every_parameter_answers_where_that_is_required(tmp_path: Path) -> None:
    async with selling(tmp_path, Middle=Mistral(), dear=Groq()) as stage:
        asked = {"provider": {"require_parameters": True}}
        assert (await stage.ask(seed=3, **asked)).status_code == 200
        assert stage.asked == [("Middle", "at-middle")]
        assert (await stage.ask(user="u", **asked)).status_code == 200  # which Mistral refuses to be told
        assert stage.asked == [("dear", "at-dear")]
        assert (await stage.ask(logprobs=True, **asked)).status_code == 200
        assert stage.asked == [("cheap", "at-cheap")]
        response = await stage.ask(top_k=3, min_p=0.5, **asked)
        assert (response.status_code, error_of(response)["param"]) == (400, "top_k")
        assert "`top_k`, `min_p`" in error_of(response)["message"]
        response = await stage.ask(model="sold/dear", logit_bias={"5": 1}, **asked)
        assert (response.status_code, error_of(response)["param"]) == (400, "logit_bias")
        assert stage.asked == []


async def test_who_is_excluded_otherwise_is_not_asked_for_what_others_do_not_take(tmp_path: Path) -> None:
    async with selling(tmp_path, dear=Mistral()) as stage:
        wanted = {"only": ["dear"], "require_parameters": True}
        for fields, param in (({"user": "u"}, "user"), ({"logprobs": True}, "logprobs")):
            response = await stage.ask(provider=wanted, **fields)
            assert (response.status_code, error_of(response)["param"]) == (400, param)
        assert (await stage.ask(provider=wanted)).status_code == 200
        assert stage.asked == [("dear", "at-dear")]


async def test_what_is_not_taken_is_told_by_who_may_answer_alone(tmp_path: Path) -> None:
    async with selling(tmp_path, Middle=Mistral(), dear=Groq()) as stage:
        for excluding in ({"only": ["dear"]}, {"ignore": ["middle", "cheap"]}):
            wanted = excluding | {"require_parameters": True}
            response = await stage.ask(provider=wanted, user="u", logprobs=True)
            assert (response.status_code, error_of(response)["param"]) == (400, "logprobs")
            assert "user" not in error_of(response)["message"]


@each(("turns", "text_bytes"), [(3, 40_000), (3, 2_000_000), (0, 2_000)])
async def test_each_provider_sifts_once_and_a_long_request_lets_others_have_turns(
    turns: int, text_bytes: int, stage: Stage
) -> None:
    parts = stage.door.gateway.inference.parts
    offers = parts.published.current["sold/many"].offers
    messages = [{"role": "user", "content": "a" * (text_bytes // 100)}] * 100
    ask = parse_chat(dump_json({"model": "sold/many", "messages": messages}))
    for many in (1, 10):
        assert await turns_during(left_out(offers * many, ask, parts.targets)) == turns
        assert await turns_during(takers(offers * many, ask, parts.targets)) == turns


async def test_the_quickest_of_late_is_asked_first_where_a_request_sorts_by_it(stage: Stage) -> None:
    choosing = stage.door.gateway.pool.choosing
    offers = {offer.source: offer for offer in stage.door.gateway.published.current["sold/many"].offers}
    for _ in range(40):
        for source, took_s, tokens_per_s in (("Middle", 9.0, 1e9), ("dear", 1.0, 1.0), ("cheap", 4.0, 2.0)):
            choosing.note(offers[source], took_s, is_stream=False, tokens_per_s=tokens_per_s)
    for sort, asked in (("latency", "dear"), ("throughput", "Middle"), ({"by": "throughput"}, "Middle")):
        await stage.ask(provider={"sort": sort})
        assert [source for source, _ in stage.asked] == [asked]


# What is told of the cost


async def test_a_cost_is_told_as_a_number_beside_the_text_where_it_is_asked_for(stage: Stage) -> None:
    for fields in ({}, {"provider": {"sort": "price"}}, {"models": ["sold/cheap"]}):
        whole = await stage.ask(usage={"include": True}, **fields)
        frames = chunks_of((await stage.ask(usage={"include": True}, stream=True, **fields)).content)
        for usage in (whole.json()["usage"], frames[-1]["usage"]):
            assert usage["cost"] == float(usage["cost_usd"]) > 0
            assert usage["prompt_tokens"] == 35
        assert (whole.headers["x-cost-usd"], frames[-1]["choices"]) == (whole.json()["usage"]["cost_usd"], [])
    stage.asked  # noqa: B018 - forgets


@each("usage", [None, {}, {"include": False}, {"include": None}])
async def test_no_cost_is_told_as_a_number_to_others(usage: Any, stage: Stage) -> None:
    whole = await stage.ask(usage=usage)
    assert not {"cost", "cost_usd"} & whole.json()["usage"].keys()
    frames = chunks_of((await stage.ask(usage=usage, stream=True)).content)
    assert not any("usage" in frame for frame in frames)
    told = chunks_of((await stage.ask(usage=usage, stream=True, stream_options={"include_usage": True})).content)
    assert "cost_usd" in told[-1]["usage"]
    assert "cost" not in told[-1]["usage"]
    stage.asked  # noqa: B018 - forgets


async def test_own_servers_answers_tell_the_cost_as_a_number_too(tmp_path: Path) -> None:
    """Whatever a backend writes beside its usage, and however long its answer is."""
    models = [{"id": "own/tiny", "backend_model": "tiny", "pricing": MIDDLE, "context_window": 100_000}]
    async with (
        ReplayingBackend(max_model_len=100_000) as backend,
        open_door(tmp_path, vllm_urls=[backend.url], models=models) as door,
    ):
        key = await door.key(credit="10")
        ask: dict[str, Any] = {"model": "own/tiny", "usage": {"include": True}}
        frames = chunks_of((await door.chat(key, **ask, stream=True)).content)
        assert frames[-1]["usage"]["cost"] == float(frames[-1]["usage"]["cost_usd"]) > 0
        message = {"role": "assistant", "content": 'say "usage":{"prompt_tokens":1} and "cost_usd":"7"'}
        for text, more in (("", {}), ("x" * PARSED_BYTES, {}), ("", {"cost": 99, "cost_details": {"a": 1}})):
            choice = {"index": 0, "message": message | {"content": message["content"] + text}}
            told = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13} | more
            answer = {"id": "chatcmpl-1", "model": "tiny", "choices": [choice | {"finish_reason": "stop"}]}
            backend.answer_with(whole(orjson.dumps(answer | {"usage": told})))
            told_by_us = (await door.chat(key, **ask, max_tokens=90_000)).json()
            assert told_by_us["usage"]["cost"] == float(told_by_us["usage"]["cost_usd"]) == 0.0000138
            assert told_by_us["choices"][0]["message"] == choice["message"]
            assert "cost_details" not in told_by_us["usage"]
            backend.answer_with(whole(orjson.dumps(answer | {"usage": told})))
            plain = (await door.chat(key, model="own/tiny", max_tokens=90_000)).json()
            assert not {"cost", "cost_usd", "cost_details"} & plain["usage"].keys()
        await door.nothing_is_left()


async def test_an_image_is_seen_by_the_model_that_sees(tmp_path: Path) -> None:
    """What was asked in vain keeps nothing of a request from the next."""
    content = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": PLACEHOLDER}}]
    async with AsyncExitStack() as stack:
        doubles = {name: await stack.enter_async_context(serving(Generic())) for name in ("blind", "down", "sees")}
        seeing = {"input_modalities": ["text", "image"], "context_window": 8000}
        models: list[dict[str, Any]] = [
            {"id": name, "provider": name, "pricing": CHEAP | {"image": "0.001"}} | ({} if name == "blind" else seeing)
            for name in doubles
        ]
        settings: dict[str, Any] = {"providers": [double.settings(name) for name, double in doubles.items()]}
        settings |= {"models": models, "enable_vision": True}
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            key = await door.key(credit="10")
            doubles["down"].refusal = DOWN
            messages = [{"role": "user", "content": content}]
            response = await door.chat(key, model="blind", models=["down", "sees"], messages=messages)
            assert response.status_code == 200, response.text
            assert [len(double.asked) for double in doubles.values()] == [0, 1, 1]
            assert doubles["sees"].asked[0].body["messages"] == messages
            assert (await door.record(response))["cost_nano"] == 1_000_000 + 35 * 100 + 12 * 120
            await door.nothing_is_left()


async def test_the_tool_routes_as_the_http_api_does(tmp_path: Path) -> None:
    async with selling(tmp_path) as stage:
        chat = {"model": "sold/many", "messages": [{"role": "user", "content": "a"}]}
        told = (await stage.door.call("chat_completion", stage.key, **chat, provider={"sort": "price"})).json()
        assert stage.asked == [("cheap", "at-cheap")]
        assert told["result"]["structuredContent"]["model"] == "sold/many"
        stage.doubles["dear"].refusal = DOWN
        fallen = chat | {"model": "sold/dear", "models": ["sold/cheap"], "usage": {"include": True}}
        told = (await stage.door.call("chat_completion", stage.key, **fallen)).json()
        assert told["result"]["structuredContent"]["model"] == "sold/cheap"
        refused = (await stage.door.call("chat_completion", stage.key, **chat, provider={"only": ["x"]})).json()
        assert refused["result"]["isError"]
        assert "provider.only" in str(refused)
