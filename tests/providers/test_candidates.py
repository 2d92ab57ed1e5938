"""A model that several may answer for: who is asked first, who next, on one hold, and at whose price."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.captured import captured
from tests.logged import lines_logged
from tests.providers.doubles import Double, Generic, Mistral, Refusal, serving
from tests.providers.kinds import KINDS
from tests.providers.test_contract import ENVIRON, MODEL, PRICES, chunks_of
from tests.replaying import ReplayingBackend, replayed, whole
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.providers
CHEAP = {"prompt": "0.0000001", "completion": "0.0000002"}
DEAR = {"prompt": "0.00001", "completion": "0.00002"}


@asynccontextmanager
async def choice_of(
    data_dir: Path, *candidates: dict[str, Any], manners: Sequence[Generic] = (), **model: Any
) -> AsyncIterator[tuple[Door, list[Double]]]:
    """A gateway whose model has these candidates, each at a provider of its own: one, two, ..."""
    names = ["one", "two", "three"][: len(candidates)]
    async with AsyncExitStack() as stack:
        kinds = manners or [Generic() for _ in names]
        doubles = [await stack.enter_async_context(serving(kind)) for kind in kinds]
        listed = [
            {"provider": name, "backend_model": f"at-{name}"} | one for name, one in zip(names, candidates, strict=True)
        ]
        settings: dict[str, Any] = {
            "providers": [double.settings(name) for name, double in zip(names, doubles, strict=True)],
            "models": [MODEL | {"candidates": listed} | model],
        }
        door = await stack.enter_async_context(open_door(data_dir, environ=ENVIRON, **settings))
        yield door, doubles
        await door.nothing_is_left()


def asked_of(doubles: list[Double]) -> list[int]:
    return [len(double.asked) for double in doubles]


FAULTS = [
    Refusal(402, b'{"error":{"message":"no money","type":"billing"}}'),
    Refusal(401, b'{"error":{"message":"bad key"}}'),
    Refusal(403, b"{}"),
    Refusal(404, b'{"error":{"message":"no such model","code":"model_not_found"}}'),
    Refusal(429, b'{"error":{"message":"slow down"}}'),
    Refusal(500, b"oops"),
    Refusal(502, b"<html>"),
    Refusal(503, b"{}"),
    Refusal(529, b'{"type":"error","error":{"type":"overloaded_error"}}'),
]


CODES = {
    402: "provider_money", 401: "provider_key", 403: "provider_access", 404: "provider_model", 429: "backend_busy",
    500: "backend_error", 502: "backend_error", 503: "model_unavailable", 529: "model_unavailable",
}  # fmt: skip


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.status))
async def test_the_next_is_asked_where_one_fails_before_its_first_token(
    fault: Refusal, is_stream: bool, tmp_path: Path
) -> None:
    async with choice_of(tmp_path, {"pricing": DEAR}, {"pricing": CHEAP}) as (door, doubles):
        doubles[0].refusal = fault
        response = await door.chat(await door.key(credit="10"), model="sold/model", stream=is_stream)
        assert response.status_code == 200
        assert asked_of(doubles) == [1, 1]
        assert doubles[1].asked[0].body["model"] == "at-two"
        record = await door.record(response)
        assert (record["backend"], record["cost_nano"]) == ("two", -(-(35 * 100_000 + 12 * 200_000) // 1000))
        ((number, backend, code),) = await door.rows(
            "SELECT number, backend, code FROM failed_attempts WHERE id = ?", record["id"]
        )
        assert (number, backend, code) == (1, "one", CODES[fault.status])


async def test_what_the_caller_did_wrong_is_told_and_asked_of_nobody_else(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {}) as (door, doubles):
        doubles[0].refusal = Refusal(400, b'{"error":{"message":"`stop` of at-one is odd","param":"stop"}}')
        response = await door.chat(await door.key(credit="10"), model="sold/model")
        assert response.status_code == 400
        assert error_of(response)["param"] == "stop"
        assert "at-one" not in response.text
        assert asked_of(doubles) == [1, 0]


@pytest.mark.parametrize("amid", [b"", b'event: error\ndata: {"error":{"message":"x"}}\n\n'])
@pytest.mark.parametrize("role", [
    {"role": "assistant", "content": ""}, {"role": "assistant", "content": None}, {"role": "assistant"}, {},
    {"role": "assistant", "content": "", "tool_calls": [], "refusal": None, "reasoning_content": ""},
])  # fmt: skip
async def test_who_tells_a_role_alone_has_not_begun_to_answer(
    role: dict[str, Any], amid: bytes, tmp_path: Path
) -> None:
    manner = Generic()
    manner.deltas = lambda body: [role, {"content": "Hello"}]  # type: ignore[method-assign]
    async with choice_of(tmp_path, {}, {}, manners=[manner, Generic()]) as (door, doubles):
        doubles[0].cut_after, doubles[0].amid = 1, amid
        response = await door.chat(await door.key(credit="10"), model="sold/model", stream=True)
        deltas = [choice["delta"] for chunk in chunks_of(response.content) for choice in chunk["choices"]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "Hello there."
        assert [delta.get("role") for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
        assert asked_of(doubles) == [1, 1]


@pytest.mark.parametrize("first", [
    {"content": "a"}, {"reasoning": "a"}, {"reasoning_content": "a"}, {"refusal": "a"},
    {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]},
])  # fmt: skip
async def test_whatever_is_of_an_answer_begins_it(first: dict[str, Any], tmp_path: Path) -> None:
    manner = Generic()
    manner.deltas = lambda body: [{"role": "assistant"}, first]  # type: ignore[method-assign]
    async with choice_of(tmp_path, {}, {}, manners=[manner, Generic()]) as (door, doubles):
        doubles[0].cut_after = 2
        response = await door.chat(await door.key(credit="10"), model="sold/model", stream=True)
        assert b"backend_died" in response.content
        assert asked_of(doubles) == [1, 0]


async def test_an_answer_without_a_word_has_a_role_and_its_finish(tmp_path: Path) -> None:
    manner = Generic()
    manner.deltas = lambda body: [{"role": "assistant", "content": ""}]  # type: ignore[method-assign]
    async with choice_of(tmp_path, {}, manners=[manner]) as (door, _):
        response = await door.chat(await door.key(credit="10"), model="sold/model", stream=True)
        (choice,) = [choice for chunk in chunks_of(response.content) for choice in chunk["choices"]]
        assert (choice["delta"], choice["finish_reason"]) == ({"role": "assistant", "content": ""}, "stop")


async def test_nobody_else_is_asked_once_a_token_has_come(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {}) as (door, doubles):
        doubles[0].cut_after, doubles[0].amid = 2, b'event: error\ndata: {"error":{"message":"x"}}\n\n'
        response = await door.chat(await door.key(credit="10"), model="sold/model", stream=True)
        assert b"backend_error" in response.content
        assert asked_of(doubles) == [1, 0]


async def test_a_limit_has_a_provider_rest_for_as_long_as_it_says(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {}) as (door, doubles):
        key, provider = await door.key(credit="10"), door.gateway.pool.providers["one"]
        now_s = [100.0]
        provider.work.now_s = lambda: now_s[0]
        doubles[0].refusal = Refusal(429, b"{}", (("retry-after", "40"),))
        for _ in range(3):
            assert (await door.chat(key, model="sold/model")).status_code == 200
        assert asked_of(doubles) == [1, 3]
        doubles[0].refusal = None
        now_s[0] = 139.9
        await door.chat(key, model="sold/model")
        assert asked_of(doubles) == [1, 4]
        now_s[0] = 140.1
        await door.chat(key, model="sold/model")
        assert asked_of(doubles) == [2, 4]


async def test_where_all_rest_callers_are_told_when_the_first_is_back(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {}) as (door, doubles):
        key = await door.key(credit="10")
        for double, seconds in zip(doubles, ("90", "30"), strict=True):
            double.refusal = Refusal(429, b"{}", (("retry-after", seconds),))
        first = await door.chat(key, model="sold/model")
        again = await door.chat(key, model="sold/model")
        assert [one.status_code for one in (first, again)] == [429, 429]
        assert 28 <= int(again.headers["retry-after"]) <= 30
        assert asked_of(doubles) == [1, 1]


async def test_candidates_that_the_wallet_cannot_hold_leave_the_list(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {"pricing": DEAR}, {"pricing": CHEAP}) as (door, doubles):
        rich, poor, none = [await door.key(credit=usd) for usd in ("10", "0.0004", "0")]
        assert (await door.chat(rich, model="sold/model", max_tokens=100)).status_code == 200
        assert (await door.chat(poor, model="sold/model", max_tokens=100)).status_code == 200
        assert asked_of(doubles) == [1, 1]
        assert (await door.chat(none, model="sold/model", max_tokens=100)).status_code == 402
        assert asked_of(doubles) == [1, 1]


async def test_the_cheapest_is_asked_first_where_price_chooses(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {"pricing": DEAR}, {"pricing": CHEAP}, {}, choose="price") as (door, doubles):
        key = await door.key(credit="10")
        for _ in range(3):
            await door.chat(key, model="sold/model")
        assert asked_of(doubles) == [0, 3, 0]


async def test_weights_share_out_who_is_asked_first(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {"weight": 1}, {"weight": 1000}, choose="weight") as (door, doubles):
        key = await door.key(credit="10")
        for _ in range(8):
            await door.chat(key, model="sold/model")
        assert asked_of(doubles)[1] >= 6


async def test_what_one_would_leave_out_is_asked_of_another(tmp_path: Path) -> None:
    """Mistral has no logprobs; what is sent to each is written anew from what was asked."""
    async with choice_of(tmp_path, {}, {}, manners=[Mistral(), Generic()]) as (door, doubles):
        key = await door.key(credit="10")
        response = await door.chat(key, model="sold/model", logprobs=True, seed=7)
        assert response.status_code == 200, response.text
        assert asked_of(doubles) == [0, 1]
        assert doubles[1].asked[0].body["seed"] == 7
        doubles[0].refusal = FAULTS[4]
        await door.chat(key, model="sold/model", seed=7, user="u-1", thinking={"type": "enabled"})
        assert asked_of(doubles) == [1, 2]
        assert doubles[0].asked[0].body.keys() == {"model", "messages", "max_tokens", "random_seed"}
        assert doubles[1].asked[1].body.keys() == {"model", "messages", "max_tokens", "seed", "user"}


async def test_what_no_candidate_has_is_refused_before_money_moves(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {}, manners=[Mistral(), Mistral()]) as (door, doubles):
        response = await door.chat(await door.key(credit="10"), model="sold/model", logprobs=True)
        assert response.status_code == 400
        assert (error_of(response)["code"], error_of(response)["param"]) == ("unsupported_parameter", "logprobs")
        assert asked_of(doubles) == [0, 0]


async def test_a_model_of_a_provider_without_a_price_is_not_sold(tmp_path: Path) -> None:
    async with serving(Generic()) as double:
        with lines_logged(logging.WARNING) as lines:
            unpriced = {"id": "un/priced", "provider": "one"}
            partly = {
                "id": "partly",
                "candidates": [{"provider": "one"}, {"provider": "one", "backend_model": "b", "pricing": PRICES}],
            }
            settings: dict[str, Any] = {"providers": [double.settings("one")], "models": [unpriced, partly]}
            async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
                key = await door.key(credit="1")
                for name in ("un/priced", "partly", "m-1"):
                    assert (await door.chat(key, model=name)).status_code == 404
                assert (await door.get("/v1/models", key)).json()["data"] == []
        assert any("un/priced" in line for line in lines)
        assert double.asked == []


async def test_a_free_model_of_a_provider_is_not_for_guests_unless_it_says_so(tmp_path: Path) -> None:
    async with serving(Generic()) as double:
        models: list[dict[str, Any]] = [
            {"id": name, "provider": "one", "free": True} | more for name, more in (("a", {}), ("b", {"guests": True}))
        ]
        settings: dict[str, Any] = {"providers": [double.settings("one")], "models": models}
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            assert (await door.chat(model="a")).status_code == 403
            assert (await door.chat(model="b")).status_code == 200
            assert double.asked[0].body["max_tokens"] == 256


async def test_other_surfaces_are_refused_by_name(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}) as (door, doubles):
        key = await door.key(credit="10")
        body = orjson.dumps({"model": "sold/model", "input": "a"})
        response = await door.post(body, key, "/v1/embeddings")
        assert (response.status_code, error_of(response)["code"]) == (404, "unsupported_endpoint")
        assert asked_of(doubles) == [0]


async def test_a_stream_of_a_mixed_model_may_come_from_a_vllm_or_a_provider(tmp_path: Path) -> None:
    async with serving(KINDS[0]()) as double:
        mixed = [{"provider": "", "backend_model": "demo/echo"}, {"provider": "openai", "backend_model": "m-1"}]
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [MODEL | {"candidates": mixed}]}
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            key = await door.key(credit="10")
            response = await door.chat(key, model="sold/model", stream=True, top_k=3)
            assert (await door.record(response))["backend"] == "demo"
            assert chunks_of(response.content)[0]["model"] == "sold/model"
            response = await door.chat(key, model="sold/model", stream=True, store=False, functions=[{"name": "f"}])
            assert response.status_code == 200
            await door.nothing_is_left()


async def test_a_prompt_for_a_mixed_model_is_counted_by_nobody(tmp_path: Path) -> None:
    """What a vLLM counts would say nothing of what a provider does, which nobody has chosen yet."""
    async with serving(KINDS[0]()) as double, ReplayingBackend(max_model_len=8000) as backend:
        mixed = [{"provider": "", "backend_model": "tiny"}, {"provider": "openai", "backend_model": "m-1"}]
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [MODEL | {"candidates": mixed}]}
        async with open_door(tmp_path, environ=ENVIRON, vllm_urls=[backend.url], **settings) as door:
            messages = [{"role": "user", "content": "a" * 7900}]
            response = await door.chat(await door.key(credit="10"), model="sold/model", messages=messages)
            assert response.status_code == 200
            assert backend.counted == []
            assert [chat.json["max_tokens"] for chat in backend.chats] == [8000]
            await door.nothing_is_left()


SILENT = (
    b'{"id":"x","object":"chat.completion","created":7,"model":"tiny",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}]}'
)


async def test_where_a_vllm_of_a_mixed_model_tells_no_usage_it_counts_what_it_was_sent(tmp_path: Path) -> None:
    async with serving(KINDS[0]()) as double, ReplayingBackend(max_model_len=8000) as backend:
        mixed = [{"provider": "", "backend_model": "tiny"}, {"provider": "openai", "backend_model": "m-1"}]
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [MODEL | {"candidates": mixed}]}
        async with open_door(tmp_path, environ=ENVIRON, vllm_urls=[backend.url], **settings) as door:
            backend.answer_with(whole(SILENT))
            response = await door.chat(await door.key(credit="10"), model="sold/model", prediction={"type": "content"})
            assert response.status_code == 200, response.text
            (counted,) = backend.counted
            assert counted.json.keys() == {"model", "messages"}
            assert response.json()["usage"]["prompt_tokens"] == (await door.record(response))["prompt_tokens"] == 10
            assert double.asked == []


async def test_tokens_of_a_mixed_model_are_told_by_its_vllm_wherever_that_stands(tmp_path: Path) -> None:
    async with serving(KINDS[0]()) as double, ReplayingBackend(max_model_len=8000) as backend:
        mixed = [{"provider": "openai", "backend_model": "m-1"}, {"provider": "", "backend_model": "tiny"}]
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [MODEL | {"candidates": mixed}]}
        async with open_door(tmp_path, environ=ENVIRON, vllm_urls=[backend.url], **settings) as door:
            backend.counts = replayed(captured("560_tokenize"))
            told = await door.post(b'{"model":"sold/model","prompt":"a"}', await door.key(credit="1"), "/v1/tokenize")
            assert (told.status_code, told.content) == (200, captured("560_tokenize").body)
            assert [asked.json["model"] for asked in backend.asked_at("/tokenize")][-1] == "tiny"
            assert double.asked == []


class Strict(Generic):
    """Refuses to be asked for the usage of a stream, and tells none."""

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if "stream_options" not in body:
            return None
        return Refusal(422, b'{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}')


async def test_a_server_that_cannot_be_asked_for_usage_is_asked_once(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[Strict()]) as (door, doubles):
        key = await door.key(credit="10")
        for number in (2, 3):
            response = await door.chat(key, model="sold/model", stream=True, stream_options={"include_usage": True})
            assert response.status_code == 200
            assert asked_of(doubles) == [number]
            assert (await door.record(response))["completion_tokens"] == 3  # as many as pieces came
            assert chunks_of(response.content)[-1]["usage"]["completion_tokens"] == 3


class StrictInItsWords(Strict):
    """The same, with words of its own for fields that anybody has."""

    def row(self) -> dict[str, Any]:
        return {"schema_form": "bare", "rename": {"seed": "random_seed"}}


async def test_what_is_sent_again_is_written_of_what_was_asked_and_not_of_what_was_sent(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[StrictInItsWords()]) as (door, doubles):
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        response = await door.chat(
            await door.key(credit="10"), model="sold/model", stream=True, seed=1, response_format=wanted
        )
        assert response.status_code == 200
        first, second = [asked.body for asked in doubles[0].asked]
        assert first.pop("stream_options") == {"include_usage": True}
        assert first == second
        assert second["response_format"] == {"type": "json_schema", "json_schema": schema}


class Twins(Generic):
    """Answers with as many choices as are asked for, one chunk of each in turn."""

    def stream(self, body: dict[str, Any]) -> list[bytes]:
        frames = super().stream(body)
        twins = [frame.replace(b'"index":0', b'"index":1') for frame in frames if b'"choices":[{' in frame]
        return [*(one for pair in zip(frames, twins, strict=False) for one in pair), *frames[len(twins) :]]


async def test_each_of_two_choices_finishes_once(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[Twins()]) as (door, _):
        response = await door.chat(await door.key(credit="10"), model="sold/model", stream=True, n=2)
        choices = [choice for chunk in chunks_of(response.content) for choice in chunk["choices"]]
        for index in (0, 1):
            own = [choice for choice in choices if choice["index"] == index]
            assert "".join(choice["delta"].get("content") or "" for choice in own) == "Hello there."
            assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]
        assert (await door.record(response))["completion_tokens"] == 12


async def test_the_quickest_of_late_is_asked_first_where_latency_chooses(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {}, choose="latency") as (door, doubles):
        key, choosing = await door.key(credit="10"), door.gateway.pool.choosing
        now_s = [1000.0]
        choosing._monotonic_s = lambda: now_s[0]
        for _ in range(2):
            await door.chat(key, model="sold/model")
        assert asked_of(doubles) == [1, 1]  # both become known
        slow, quick = door.gateway.published.current["sold/model"].offers
        for _ in range(20):
            choosing.note(slow, 9.0, is_stream=False)
            choosing.note(quick, 0.1, is_stream=False)
        await door.chat(key, model="sold/model")
        assert asked_of(doubles) == [1, 2]
        now_s[0] += 61.0  # nobody knows any more
        await door.chat(key, model="sold/model")
        assert asked_of(doubles) == [2, 2]


async def test_mcp_asks_a_provider_as_http_does(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}) as (door, doubles):
        key = await door.key(credit="10")
        answer = await door.call(
            "chat_completion", key, model="sold/model", messages=[{"role": "user", "content": "a"}]
        )
        assert "Hello there." in answer.text
        assert asked_of(doubles) == [1]


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/responses", {"input": "a"}),
        ("/v1/tokenize", {"prompt": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
async def test_no_other_surface_reaches_a_provider(path: str, more: dict[str, Any], tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {}) as (door, doubles):
        response = await door.post(orjson.dumps({"model": "sold/model"} | more), await door.key(credit="1"), path)
        assert response.status_code == 404, response.text
        assert asked_of(doubles) == [0, 0]


async def test_a_test_key_is_answered_by_the_demo(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}) as (door, doubles):
        response = await door.chat(await door.key(credit="1", is_test=True), model="sold/model")
        assert response.status_code == 200, response.text
        assert asked_of(doubles) == [0]


async def test_what_one_caller_is_refused_for_keeps_no_other_away(tmp_path: Path) -> None:
    """A provider's firewall answers 403 for a text that it does not like, and 413 for a long one."""
    async with choice_of(tmp_path, {}) as (door, doubles):
        key = await door.key(credit="10")
        for status, told in ((403, 503), (413, 413), (400, 400)):
            doubles[0].refusal = Refusal(status, b"<html>")
            assert (await door.chat(key, model="sold/model")).status_code == told
            doubles[0].refusal = None
            assert (await door.chat(key, model="sold/model")).status_code == 200


@pytest.mark.parametrize("kind", ["Groq", "DeepSeek", "Mistral"])
async def test_reasoning_is_told_by_the_names_that_the_settings_say(kind: str, tmp_path: Path) -> None:
    (manner,) = (one() for one in KINDS if one.__name__ == kind)
    both = {"reasoning_names": ["reasoning", "reasoning_content"]}
    async with serving(manner) as double:
        settings: dict[str, Any] = {"providers": [double.settings("own", **both)], "environ": ENVIRON}
        settings |= {"models": [MODEL | {"provider": "own"}]}
        async with open_door(tmp_path, **settings) as door:
            response = await door.chat(await door.key(credit="1"), model="sold/model", stream=True)
            deltas = [choice["delta"] for chunk in chunks_of(response.content) for choice in chunk["choices"]]
            for name in both["reasoning_names"]:
                assert [delta[name] for delta in deltas if name in delta] == ["Hm."]
