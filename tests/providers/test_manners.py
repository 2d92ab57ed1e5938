"""What single providers do on the wire that the contract does not say of all: how streams fail, what requests meet."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import orjson
import pytest

from tests.loop_clock import pass_time
from tests.patience import eventually
from tests.providers.doubles import (
    ACCOUNT,
    CACHED,
    KEY,
    Cloudflare,
    Cohere,
    DeepSeek,
    Double,
    Generic,
    Google,
    Groq,
    Mistral,
    Moonshot,
    Ollama,
    OpenAi,
    serving,
)
from tests.providers.kinds import KINDS
from tests.providers.refusals import BROKEN, CALLER, FULL, LIMITED, MONEY, Meaning
from tests.providers.test_check import told
from tests.providers.test_contract import ENVIRON, MODEL, TOOLS, chunks_of, door_to, tells_nothing_of_the_operator
from tests.serving import Door, error_of, open_door

pytestmark = pytest.mark.providers
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
TIMEOUT_S = 30.0
SLOW = {
    "first_token_timeout_s": TIMEOUT_S,
    "first_token_max_s": TIMEOUT_S,
    "first_token_s_per_1k_prompt_tokens": 0,
    "unary_timeout_s": TIMEOUT_S,
    "retry_share": 1,
}


# Keys and paths


@each_kind
async def test_a_key_that_it_does_not_take_is_the_operators_and_nothing_is_asked(
    kind: type[Generic], tmp_path: Path
) -> None:
    if kind.auth == "none":
        return
    async with serving(kind()) as double:
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [MODEL | {"provider": kind.kind}]}
        async with open_door(tmp_path, environ={"DOUBLE_KEY": "of-another"}, **settings) as door:
            for is_stream in (False, True):
                response = await door.chat(await door.key(credit="1"), model="sold/model", stream=is_stream)
                assert (response.status_code, error_of(response)["code"]) == (503, "model_unavailable")
                tells_nothing_of_the_operator(response)
                assert "of-another" not in response.text
            assert double.asked == []
            await door.nothing_is_left()


@each_kind
async def test_a_path_that_it_has_not_is_404(
    kind: type[Generic], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOUBLE_KEY", KEY)
    async with serving(kind()) as double:
        entry = double.settings(models_url=f"{double.url}/nowhere")
        status, facts = await told({"providers": [entry]}, capsys)
    assert (status, facts["faults"]) == (1, {kind.kind: "its list answered 404"})


# Waits


@asynccontextmanager
async def slow(kind: type[Generic], folder: Path) -> AsyncIterator[tuple[Door, Double, Double, str]]:
    """A model of one provider that does not begin, and of another that does."""
    async with serving(kind()) as first, serving(Generic()) as second:
        candidates = [{"provider": name, "backend_model": "m-1"} for name in ("one", "two")]
        settings: dict[str, Any] = {"providers": [first.settings("one"), second.settings("two")], "upstream": SLOW}
        first.goes_on = asyncio.Event()
        async with open_door(folder, environ=ENVIRON, models=[MODEL | {"candidates": candidates}], **settings) as door:
            yield door, first, second, await door.key(credit="1")
            first.goes_on.set()
            await door.nothing_is_left()


async def time_runs_out(door: Door, asking: Awaitable[httpx2.Response], first: Double) -> httpx2.Response:
    """Once it was asked: by the clock of the loop and that of the provider."""
    task, asked = asyncio.ensure_future(asking), len(first.asked)
    await eventually(lambda: len(first.asked) > asked)
    work = door.gateway.pool.providers["one"].work
    work.now_s = partial(_later, work.now_s)
    pass_time(TIMEOUT_S)
    return await task


@each_kind
async def test_who_is_slow_to_begin_is_passed_over_and_signs_of_life_are_no_beginning(
    kind: type[Generic], tmp_path: Path
) -> None:
    """DeepSeek sends comments while a request waits."""
    async with slow(kind, tmp_path) as (door, first, second, key):
        first.pieces_before = len(signs(kind()))
        response = await time_runs_out(door, door.chat(key, model="sold/model", stream=True), first)
        assert (response.status_code, len(second.asked)) == (200, 1)
        assert (await door.record(response))["backend"] == "two"
        assert await door.rows("SELECT backend, code FROM failed_attempts") == [("one", "first_token_timeout")]


async def test_who_is_slow_again_and_again_is_asked_no_more_for_a_while(tmp_path: Path) -> None:
    async with slow(Generic, tmp_path) as (door, first, second, key):
        most = door.gateway.settings.upstream.breaker_failures
        for number in range(1, most + 1):
            await time_runs_out(door, door.chat(key, model="sold/model", stream=True), first)
            assert len(second.asked) == number
        assert (await door.chat(key, model="sold/model", stream=True)).status_code == 200
        assert (len(first.asked), len(second.asked)) == (most, most + 1)


@pytest.mark.parametrize("kind", [Generic, DeepSeek])
async def test_an_answer_in_one_piece_that_takes_too_long_is_computed_by_nobody_else(
    kind: type[Generic], tmp_path: Path
) -> None:
    """It may be long, and would be as slow elsewhere. DeepSeek's head is there long before."""
    async with slow(kind, tmp_path) as (door, first, second, key):
        response = await time_runs_out(door, door.chat(key, model="sold/model"), first)
        assert (response.status_code, error_of(response)["code"], second.asked) == (502, "backend_error", [])
        assert (await door.record(response))["cost_nano"] == 0


def signs(manner: Generic) -> list[bytes]:
    """What it may send before it begins."""
    return [piece for piece in manner.stream({"messages": []} | STORED)[:3] if piece.startswith(b":")]


def _later(now_s: Callable[[], float]) -> float:
    return now_s() + TIMEOUT_S


# Streams that fail


def event(value: Any) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)


class Ending(NamedTuple):
    """What stands in place of the rest of a stream, and what that means."""

    kind: type[Generic]
    told: bytes
    meaning: Meaning


DIED = Meaning(502, "backend_died", "backend_died")
NO_CALL = {
    "message": f"Failed to call a function of {ACCOUNT}.", "type": "invalid_request_error", "code": "tool_use_failed",
    "failed_generation": "<function=a", "status_code": 400,
}  # fmt: skip
NOTHING = {"index": 0, "delta": {}, "finish_reason": None}
NAMELESS = {"id": "chatcmpl-998", "model": "", "choices": [NOTHING]}
ENDINGS = [
    Ending(Groq, b"event: error\n" + event({"error": NO_CALL}), CALLER),
    Ending(Groq, event({"error": NO_CALL | {"status_code": 498, "code": "capacity_exceeded"}}), FULL),
    Ending(Ollama, event(NAMELESS), DIED),
    Ending(Cloudflare, b"", DIED),
    Ending(Cloudflare, event({"errors": [{"message": ACCOUNT, "code": 4006}], "success": False}), MONEY),
    Ending(DeepSeek, event({"error": {"message": f"busy {ACCOUNT}", "code": 503}}), FULL),
    Ending(Google, event({"error": {"code": 429, "message": ACCOUNT, "status": "RESOURCE_EXHAUSTED"}}), LIMITED),
    Ending(Google, event([{"error": {"code": 503, "message": ACCOUNT, "status": "UNAVAILABLE"}}]), FULL),
    Ending(Mistral, event({"object": "error", "message": ACCOUNT, "type": "x", "code": "500"}), BROKEN),
    Ending(Moonshot, event({"error": {"type": "exceeded_current_quota_error", "code": 429}}), MONEY),
    Ending(OpenAi, event({"error": {"message": ACCOUNT, "type": "server_error", "code": None}}), BROKEN),
]
each_ending = pytest.mark.parametrize("ending", ENDINGS, ids=lambda one: f"{one.kind.__name__}-{one.meaning.code}")


@each_ending
async def test_a_stream_that_fails_before_its_beginning_is_a_refusal(ending: Ending, tmp_path: Path) -> None:
    async with door_to(ending.kind(), tmp_path) as (door, double, key):
        double.cut_after, double.amid = 0, ending.told
        response = await door.chat(key, model="sold/model", stream=True)
        assert (response.status_code, error_of(response)["code"]) == ending.meaning[:2], response.text
        tells_nothing_of_the_operator(response)
        assert (await door.record(response))["cost_nano"] == 0


@each_ending
async def test_a_stream_that_fails_amid_ends_with_one_error_and_is_billed_for_what_came(
    ending: Ending, tmp_path: Path
) -> None:
    manner = ending.kind()
    async with door_to(manner, tmp_path) as (door, double, key):
        events = manner.stream({"messages": []} | STORED)
        double.cut_after = next(at for at, one in enumerate(events) if b"Hel" in one) + 1
        double.amid = ending.told
        response = await door.chat(key, model="sold/model", stream=True)
        *_, last = [frame for frame in response.content.split(b"\n\n") if frame.startswith(b"data: {")]
        assert orjson.loads(last[6:])["error"]["code"] == ending.meaning.code
        assert response.content.count(b'"error":') == 1
        assert b'"finish_reason":"stop"' not in response.content
        tells_nothing_of_the_operator(response)
        assert (await door.record(response))["cost_nano"] > 0


STORED = {"store": False, "service_tier": "default"}


class Finishing(Generic):
    """Finishes for a reason of its own."""

    word = ""

    def reason(self, body: dict[str, Any]) -> str:
        return self.word

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(body)
        answer["choices"][0]["finish_reason"] = self.word
        return answer


FINISHES = [
    (Mistral, "model_length", "length"), (Mistral, "error", None), (DeepSeek, "insufficient_system_resource", None),
    (Ollama, "load", "stop"), (Google, "content_filter", "content_filter"),
    (OpenAi, "content_filter", "content_filter"),
]  # fmt: skip


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("kind", "word", "expected"), FINISHES)
async def test_why_an_answer_finished_is_told_in_openais_words_or_as_a_failure(
    kind: type[Generic], word: str, expected: str | None, is_stream: bool, tmp_path: Path
) -> None:
    manner = type("Finishing" + kind.__name__, (Finishing, kind), {"word": word})()
    if kind is Google:
        manner.stream = partial(_with_last, manner, manner.stream, word)
    async with door_to(manner, tmp_path) as (door, _, key):
        response = await door.chat(key, model="sold/model", stream=is_stream)
        if expected is not None:
            choices = chunks_of(response.content)[-1]["choices"] if is_stream else response.json()["choices"]
            assert choices[-1]["finish_reason"] == expected
        elif is_stream:
            assert b'"error":' in response.content
            assert (await door.record(response))["cost_nano"] > 0
        else:
            assert (response.status_code, error_of(response)["code"]) == (502, "backend_error")


def _with_last(manner: Generic, stream: Callable[[dict[str, Any]], list[bytes]], word: str, body: Any) -> list[bytes]:
    *events, _, done = stream(body)
    return [*events, manner.chunk({}, word, usage=manner.usage()), done]


# Calls of tools


def piece(
    index: int | None, call_id: str | None, name: str | None, arguments: str | None, **more: Any
) -> dict[str, Any]:
    """Of a call; what is None is not told."""
    function = {"name": name, "arguments": arguments}
    call = {"index": index, "id": call_id, "function": {key: one for key, one in function.items() if one is not None}}
    return {key: one for key, one in call.items() if one is not None} | more


PARIS, ROME = '{"city":"Paris"}', '{"city":"Rome"}'
CLOSED = {"index": 1, "id": None, "type": None, "function": {"name": None, "arguments": None}}
CALLS: dict[str, list[list[dict[str, Any]]]] = {
    "openai": [
        [piece(0, "a", "weather", "", type="function")], [piece(0, None, None, PARIS)],
        [piece(1, "b", "weather", "", type="function")],
        [piece(1, None, None, ROME[:5])], [piece(1, None, None, ROME[5:])],
    ],
    "anthropic's blocks behind a text": [
        [piece(1, "a", "weather", "")], [piece(1, None, None, PARIS)],
        [piece(3, "b", "weather", "")], [piece(3, None, None, ROME)],
    ],
    "mistral, whole and in one": [
        [piece(None, "D681PevKs", "weather", PARIS), piece(None, "D681PevKt", "weather", ROME)],
    ],
    "mistral, with an empty name": [
        [piece(0, "a", "weather", "")], [piece(0, None, "", PARIS)],
        [piece(1, "b", "weather", "")], [piece(1, None, "", ROME)],
    ],
    "google, without ids": [[piece(None, "", "weather", PARIS)], [piece(None, "", "weather", ROME)]],
    "google, all of number 0": [[piece(0, "a", "weather", PARIS)], [piece(0, "b", "weather", ROME)]],
    "all of number 0, without ids": [[piece(0, "", "weather", PARIS)], [piece(0, None, "weather", ROME)]],
    "all of number 0, without ids, at once": [[piece(0, None, "weather", PARIS), piece(0, None, "weather", ROME)]],
    "all of number 0, without ids, in pieces": [
        [piece(0, None, "weather", PARIS[:6])], [piece(0, None, "weather", PARIS[6:])], [piece(0, None, "weather", "")],
        [piece(0, None, "weather", ROME[:6])], [piece(0, None, None, ROME[6:])],
    ],
    "of number 0, the second with an id": [[piece(0, "", "weather", PARIS)], [piece(0, "b", "weather", ROME)]],
    "cloudflare, told as over": [
        [piece(0, "a", "weather", PARIS)], [piece(1, "b", "weather", None)], [piece(1, None, None, ROME)], [CLOSED],
    ],
    "groq, whole": [[piece(0, "a", "weather", PARIS)], [piece(1, "b", "weather", ROME)]],
    "in turn": [
        [piece(0, "a", "weather", PARIS[:4]), piece(1, "b", "weather", ROME[:4])],
        [piece(0, None, None, PARIS[4:]), piece(1, None, None, ROME[4:])],
    ],
}  # fmt: skip


class Calling(Generic):
    """Calls two tools."""

    told: list[list[dict[str, Any]]]

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": None}, *({"tool_calls": calls} for calls in self.told)]


@pytest.mark.parametrize("shape", CALLS)
async def test_two_calls_are_numbered_in_turn_however_they_are_told(shape: str, tmp_path: Path) -> None:
    manner = Calling()
    manner.told, manner.reason = CALLS[shape], lambda body: "stop"  # type: ignore[method-assign]
    async with door_to(manner, tmp_path) as (door, _, key):
        response = await door.chat(key, model="sold/model", stream=True, tools=TOOLS)
        choices = [choice for chunk in chunks_of(response.content) for choice in chunk["choices"]]
        calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
        firsts = [call for call in calls if "id" in call]
        assert [(call["index"], call["type"], call["function"]["name"]) for call in firsts] == [
            (0, "function", "weather"), (1, "function", "weather"),
        ]  # fmt: skip
        assert len({call["id"] for call in firsts}) == 2
        for index, expected in enumerate((PARIS, ROME)):
            own = [call["function"].get("arguments", "") for call in calls if call["index"] == index]
            assert "".join(own) == expected
        assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("calls", [
    [piece(0, "", "weather", PARIS), piece(0, "", "weather", ROME)],
    [piece(0, "a", "weather", PARIS), piece(0, "b", "weather", ROME)],
    [piece(None, None, "weather", PARIS), piece(None, None, "weather", ROME)],
    [piece(0, None, "weather", PARIS), piece(0, None, "weather", PARIS)],
])  # fmt: skip
async def test_two_calls_in_one_piece_are_two_whatever_their_numbers(
    calls: list[dict[str, Any]], tmp_path: Path
) -> None:
    manner, answer = Generic(), Generic().answer({})
    answer["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": calls}
    manner.answer = lambda body: answer  # type: ignore[method-assign]
    async with door_to(manner, tmp_path) as (door, _, key):
        told = (await door.chat(key, model="sold/model", tools=TOOLS)).json()["choices"][0]["message"]["tool_calls"]
        assert [call["function"] for call in told] == [call["function"] for call in calls]
        assert len({call["id"] for call in told}) == 2
        assert [(call["type"], "index" in call) for call in told] == [("function", False)] * 2


# Requests


async def test_what_openai_writes_beside_an_answer_reaches_nobody(tmp_path: Path) -> None:
    async with door_to(OpenAi(), tmp_path) as (door, _, key):
        response = await door.chat(key, model="sold/model", stream=True, stream_options={"include_usage": True})
        for name in ("obfuscation", "service_tier", "moderation", '"usage":null'):
            assert name not in response.text
        assert chunks_of(response.content)[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == CACHED


SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
WANTED = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}
PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("manner", "fields", "sent"),
    [
        (Cohere(), {"response_format": WANTED}, {"response_format": {"type": "json_object", "schema": SCHEMA}}),
        (Cohere(), {"temperature": 1.5}, {"temperature": 1}),
        (Cloudflare(), {"response_format": WANTED}, {"response_format": WANTED | {"json_schema": SCHEMA}}),
        (
            Cloudflare(),
            {"messages": [{"role": "user", "content": PARTS}]},
            {"messages": [{"role": "user", "content": "one\ntwo"}]},
        ),
        (Ollama(), {"max_completion_tokens": 9}, {"max_tokens": 9}),
        (OpenAi(), {"max_tokens": 9}, {"max_completion_tokens": 9}),
        (Mistral(), {"seed": 1, "user": "u", "max_completion_tokens": 9}, {"random_seed": 1, "max_tokens": 9}),
    ],
)
async def test_a_request_is_written_as_its_provider_takes_it(
    manner: Generic, fields: dict[str, Any], sent: dict[str, Any], is_stream: bool, tmp_path: Path
) -> None:
    async with door_to(manner, tmp_path) as (door, double, key):
        response = await door.chat(key, model="sold/model", stream=is_stream, **fields)
        assert response.status_code == 200, response.text
        assert sent.items() <= double.asked[-1].body.items()


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.3), ("tool_choice", "required")])
async def test_what_a_model_alone_does_not_take_is_the_callers_fault(name: str, value: Any, tmp_path: Path) -> None:
    """Which models those are, no row says."""
    async with door_to(Moonshot(), tmp_path, backend_model="kimi-k2.6") as (door, _, key):
        response = await door.chat(key, model="sold/model", tools=TOOLS, **{name: value})
        assert (response.status_code, error_of(response)["code"]) == (400, "invalid_value")
        assert name in error_of(response)["message"]
        tells_nothing_of_the_operator(response)
        assert (await door.chat(key, model="sold/model", tools=TOOLS)).status_code == 200


async def test_a_model_whose_name_has_slashes_is_asked_by_all_of_it(tmp_path: Path) -> None:
    for kind, name in ((Groq, "openai/gpt-oss-120b"), (Cloudflare, "@cf/meta/llama-3.1-8b"), (Ollama, "qwen3:8b")):
        async with door_to(kind(), tmp_path / kind.__name__, backend_model=name) as (door, double, key):
            response = await door.chat(key, model="sold/model")
            assert (double.asked[0].body["model"], response.json()["model"]) == (name, "sold/model")
            named = await door.chat(key, model=f"{kind.kind}/{name}")
            assert (named.status_code, double.asked[1].body["model"]) == (200, name)


@pytest.mark.parametrize("is_refused", [True, False])
async def test_whichever_cohere_does_with_the_question_for_usage_it_is_not_asked(
    is_refused: bool, tmp_path: Path
) -> None:
    manner = Cohere()
    manner.refuses_stream_options = is_refused
    async with door_to(manner, tmp_path) as (door, double, key):
        for _ in range(2):
            response = await door.chat(key, model="sold/model", stream=True, stream_options={"include_usage": True})
            assert chunks_of(response.content)[-1]["usage"]["prompt_tokens"] == manner.billed[0]
        assert len(double.asked) == 2


async def test_ids_that_are_not_unique_are_no_keys(tmp_path: Path) -> None:
    async with door_to(Ollama(), tmp_path) as (door, _, key):
        answers = [await door.chat(key, model="sold/model") for _ in range(3)]
        assert len({answer.json()["id"] for answer in answers}) == 3
        ((count,),) = await door.rows("SELECT count(*) FROM requests")
        assert count == 3


async def test_ollama_is_asked_by_its_own_host_whatever_the_caller_says(tmp_path: Path) -> None:
    async with serving(Ollama()) as double:
        at_name = double.settings(base_url=double.url.replace("127.0.0.1", "localhost") + "/v1")
        settings: dict[str, Any] = {"providers": [at_name], "models": [MODEL | {"provider": "ollama"}]}
        async with open_door(tmp_path, **settings) as door:
            key = await door.key(credit="1")
            headers = {"x_forwarded_host": "ollama.example.com", "forwarded": "host=ollama.example.com"}
            body = orjson.dumps({"model": "sold/model", "messages": [{"role": "user", "content": "hello"}]})
            response = await door.post(body, key, **headers)
            assert response.status_code == 200, response.text
            assert double.asked[0].headers["host"].startswith("localhost:")
