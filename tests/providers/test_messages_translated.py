"""Messages that are asked as chats: what a provider is sent, what the next turn brings back, and who else is asked."""

from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from tests.message_streams import events_in, message_in
from tests.providers.anthropic_double import Anthropic, Messages
from tests.providers.doubles import ARGUMENTS, TEXT, Generic, Google, Groq, Refusal, serving
from tests.providers.test_candidates import choice_of
from tests.providers.test_contract import ENVIRON, MODEL
from tests.replaying import ReplayingBackend, whole
from tests.serving import Door, open_door

pytestmark = pytest.mark.providers
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
PNG = b"\x89PNG\r\n\x1a\n and more"
HELLO: dict[str, Any] = {"role": "user", "content": "hello"}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def result_of(call_id: str, content: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


async def ask(door: Door, key: str | None, path: str = "/v1/messages", **fields: Any) -> httpx2.Response:
    body = {"model": "sold/model", "max_tokens": 100, "messages": [HELLO]} | fields
    return await door.post(orjson.dumps(body), key, path, anthropic_version="2023-06-01")


async def test_a_whole_request_of_claude_code_becomes_a_plain_chat(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}) as (door, doubles):
        mark = {"cache_control": {"type": "ephemeral"}}
        attribution = text("x-anthropic-billing-header: cc_version=2.1.332; cch=00000;")
        response = await ask(
            door, await door.key(credit="1"), "/v1/messages?beta=true", stream=True, temperature=1,
            system=[attribution, text("You are Claude Code.") | mark],
            messages=[
                {"role": "user", "content": [text("<system-reminder>"), text("go") | mark]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "abc"},
                    {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": {"command": "ls"}},
                ]},
                {"role": "user", "content": [result_of("toolu_1", "a.py") | mark]},
            ],
            tools=[{"name": "Bash", "description": "runs", "input_schema": {"type": "object"}, "strict": True} | mark],
            thinking={"type": "adaptive"}, context_management={"edits": []}, metadata={"user_id": "device"},
        )  # fmt: skip
        assert response.status_code == 200, response.text
        (asked,) = doubles[0].asked
        call = {"id": "toolu_1", "type": "function", "function": {"name": "Bash", "arguments": '{"command":"ls"}'}}
        function = {"name": "Bash", "description": "runs", "parameters": {"type": "object"}}
        assert asked.path == "/v1/chat/completions"
        assert asked.body == {
            "model": "at-one", "max_tokens": 100, "temperature": 1, "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [
                {"role": "system", "content": "You are Claude Code."},
                {"role": "user", "content": "<system-reminder>\n\ngo"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "a.py"},
            ],
            "tools": [{"type": "function", "function": function}],
        }  # fmt: skip
        told = response.headers["x-ignored-parameters"].split(", ")
        assert {"context_management", "metadata", "tools[].strict", "tools[].cache_control"} <= {*told}


class Unwilling(Generic):
    """Has a model that does not think, and says so."""

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if "reasoning_effort" not in body:
            return None
        error = {"message": "Unrecognized request argument supplied: reasoning_effort", "param": None}
        return Refusal(400, orjson.dumps({"error": error}))


async def test_a_model_that_refuses_to_be_told_how_much_to_think_is_told_once(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[Unwilling()]) as (door, doubles):
        key = await door.key(credit="1")
        for number in (2, 3):
            response = await ask(door, key, output_config={"effort": "high"})
            assert (response.status_code, len(doubles[0].asked)) == (200, number)
        assert [asked.body.get("reasoning_effort") for asked in doubles[0].asked] == ["high", None, None]
        chat = await door.chat(key, model="sold/model", reasoning_effort="high")
        assert chat.status_code == 400  # who asks for it in these words is told


class Echoing(Generic):
    """Quotes what a caller said where it refuses it."""

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if "odd" not in str(body["messages"]):
            return None
        return Refusal(400, b'{"error":{"message":"I do not like: an odd reasoning_effort"}}')


async def test_what_one_caller_is_refused_for_keeps_no_other_from_thinking(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[Echoing()]) as (door, doubles):
        key, odd = await door.key(credit="1"), {"role": "user", "content": "an odd reasoning_effort"}
        assert (await ask(door, key, messages=[odd])).status_code == 400
        assert (await ask(door, key, output_config={"effort": "high"})).status_code == 200
        assert doubles[0].asked[-1].body["reasoning_effort"] == "high"


class StrictToo(Unwilling):
    """Neither that nor the question for a stream's usage."""

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if "stream_options" in body:
            return Refusal(
                422, b'{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}'
            )
        return super().refuse(body)


async def test_whatever_it_refuses_of_the_gateway_s_own_is_left_out_one_by_one(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[StrictToo()]) as (door, doubles):
        response = await ask(door, await door.key(credit="1"), stream=True, output_config={"effort": "high"})
        assert message_in(response.content)["stop_reason"] == "end_turn"
        assert len(doubles[0].asked) == 3


class SignedGoogle(Google):
    """Refuses a call in the history that comes without the signature that it was told with."""

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        for message in body["messages"]:
            for call in message.get("tool_calls", ()):
                if call.get("extra_content") != {"google": {"thought_signature": "c2lnbmVk"}}:
                    return Refusal(400, b'[{"error":{"code":400,"message":"missing a thought_signature"}}]')
        return super().refuse(body)


class Thinking(Groq):
    """Wants its reasoning of turns with calls back."""

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        thought = [{"role": "assistant", "reasoning": "Hm."}] if body.get("tools") else []
        return [*thought, *super().deltas(body)]

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if any("tool_calls" in message and message.get("reasoning") != "Hm." for message in body["messages"]):
            return Refusal(400, b'{"error":{"message":"reasoning is missing"}}')
        return super().refuse(body)


@pytest.mark.parametrize("manner", [SignedGoogle(), Thinking()], ids=lambda manner: manner.kind)
async def test_what_the_next_turn_needs_comes_back_by_what_clients_keep(manner: Generic, tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[manner]) as (door, doubles):
        key = await door.key(credit="1")
        said = message_in((await ask(door, key, stream=True, tools=[TOOL])).content)["content"]
        (call,) = [block for block in said if block["type"] == "tool_use"]
        result = result_of(call["id"], "sunny")
        messages = [HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": [result]}]
        response = await ask(door, key, messages=messages)
        assert response.status_code == 200, response.text
        history = doubles[0].asked[-1].body["messages"]
        assert (
            history[1]["tool_calls"][0]["function"]["arguments"]
            == orjson.dumps(orjson.loads("".join(ARGUMENTS))).decode()
        )


async def test_images_are_sent_as_data_within_results_of_tools_too(tmp_path: Path) -> None:
    async with serving(Generic()) as double:
        sold = MODEL | {"provider": "openai", "input_modalities": ["text", "image"]}
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [sold], "enable_vision": True}
        data = b64encode(PNG).decode()
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
        call = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
        result = result_of("t1", [image, text("here")])
        said = [{"role": "user", "content": [image]}, {"role": "assistant", "content": [call]}]
        messages = [*said, {"role": "user", "content": [result]}]
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            response = await ask(door, await door.key(credit="10"), messages=messages)
            assert response.status_code == 200, response.text
        first, _, told, last = double.asked[0].body["messages"]
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        assert (first["content"], told["content"], last) == ([part], "here", {"role": "user", "content": [part]})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"output_config": {"format": {"type": "json_schema", "schema": {}}}}, "output_config.format"),
        ({"messages": [HELLO, {"role": "assistant", "content": "I"}]}, "messages[1]"),
        ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "tools[0]"),
        ({"mcp_servers": [{"url": "https://x"}]}, "mcp_servers"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]}, "source"),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused_in_the_callers_words(
    fields: dict[str, Any], field: str, tmp_path: Path
) -> None:
    async with choice_of(tmp_path, {}, manners=[SchemaLess()]) as (door, doubles):
        response = await ask(door, await door.key(credit="1"), **fields)
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error")
        assert field in error["message"]
        assert doubles[0].asked == []


class SchemaLess(Generic):
    def row(self) -> dict[str, Any]:
        return {"schema_form": "none"}


class Untold(Generic):
    """Tells no usage."""

    def unary(self, body: dict[str, Any]) -> bytes:
        return orjson.dumps(self.answer(body))

    def stream(self, body: dict[str, Any]) -> list[bytes]:
        return [event for event in super().stream(body) if b"usage" not in event]


@pytest.mark.parametrize("is_stream", [False, True])
async def test_where_no_usage_is_told_what_is_billed_is_told(is_stream: bool, tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[Untold()]) as (door, _):
        response = await ask(door, await door.key(credit="1"), stream=is_stream)
        message = message_in(response.content) if is_stream else response.json()
        record = await door.record(response)
        assert (message["usage"]["input_tokens"], message["usage"]["output_tokens"]) == (
            record["prompt_tokens"], record["completion_tokens"],
        )  # fmt: skip
        assert record["completion_tokens"] > 0


class Stopping(Generic):
    """Says what its answers end with, as vLLM and SGLang do."""

    def __init__(self, word: str, told: dict[str, Any]) -> None:
        super().__init__()
        self.word, self.told = word, told

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(body)
        answer["choices"][0] |= {"finish_reason": self.word} | self.told
        return answer

    def stream(self, body: dict[str, Any]) -> list[bytes]:
        return [*map(self.chunk, self.deltas(body)), self.chunk({}, self.word, choice=self.told), b"data: [DONE]\n\n"]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("word", "told", "ending"),
    [
        ("stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ("stop", {"matched_stop": "END"}, ("stop_sequence", "END")),
        ("stop", {"stop_reason": 'a "finish_reason":"length"'}, ("stop_sequence", 'a "finish_reason":"length"')),
        ("stop", {"stop_reason": None}, ("end_turn", None)),
        ("stop", {"stop_reason": 128001, "matched_stop": 2}, ("end_turn", None)),
        ("stop", {"stop_reason": ""}, ("end_turn", None)),
        ("stop", {"stop_reason": ["END"]}, ("end_turn", None)),
        ("length", {"stop_reason": "END"}, ("max_tokens", None)),
        ("stop", {}, ("end_turn", None)),
    ],
)
async def test_a_stop_sequence_that_came_is_told_where_the_provider_tells_it(
    word: str, told: dict[str, Any], ending: tuple[str, str | None], is_stream: bool, tmp_path: Path
) -> None:
    async with choice_of(tmp_path, {}, manners=[Stopping(word, told)]) as (door, _):
        response = await ask(door, await door.key(credit="1"), stream=is_stream, stop_sequences=["END"])
        message = message_in(response.content) if is_stream else response.json()
        assert (message["stop_reason"], message["stop_sequence"]) == ending
        assert (await door.record(response))["finish_reason"] == ending[0]


async def test_a_failure_amid_a_stream_ends_its_block_and_is_told_as_an_error(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}) as (door, doubles):
        doubles[0].cut_after, doubles[0].amid = (
            3,
            b'event: error\ndata: {"error":{"message":"of org-9aXkQ2operator"}}\n\n',
        )
        response = await ask(door, await door.key(credit="1"), stream=True)
        *events, delta, error = events_in(response.content)
        assert events[-1] == {"type": "content_block_stop", "index": 0}
        assert (delta["delta"]["stop_reason"], error["error"]["type"]) == (None, "api_error")
        assert delta["usage"]["output_tokens"] == (await door.record(response))["completion_tokens"] == 2
        assert "operator" not in response.text


async def test_a_failure_before_the_first_token_is_a_refusal(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}) as (door, doubles):
        doubles[0].cut_after, doubles[0].amid = 0, b'data: {"error":{"message":"overloaded","code":503}}\n\n'
        response = await ask(door, await door.key(credit="1"), stream=True)
        assert (response.status_code, response.json()["error"]["type"]) == (503, "overloaded_error")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
@pytest.mark.parametrize("kinds", [(Generic, Anthropic), (Anthropic, Generic), (Anthropic, Anthropic)])
async def test_what_breaks_off_before_its_first_word_is_asked_elsewhere(
    kinds: tuple[type[Generic], type[Generic]], path: str, tmp_path: Path
) -> None:
    at = {"backend_model": "m-1"}
    async with choice_of(tmp_path, at, at, manners=[kind() for kind in kinds]) as (door, doubles):
        doubles[0].cut_after = (
            1 if kinds[0] is Generic else 1 + _place_of(b"content_block_start", Messages().stream({}))
        )
        response = await ask(door, await door.key(credit="1"), path, stream=True)
        assert TEXT[0] in response.text
        assert "error" not in response.text
        assert [len(double.asked) for double in doubles] == [1, 1]
        assert (await door.record(response))["backend"] == "two"


def _place_of(words: bytes, events: list[bytes]) -> int:
    return next(number for number, event in enumerate(events) if words in event)


class Odd(Generic):
    """Tells values of kinds that none should have, and counts beyond all that is stored."""

    delta: dict[str, Any]
    total: float = 47

    def usage(self) -> dict[str, Any]:
        return super().usage() | {"total_tokens": self.total, "completion_tokens": 12}

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(body)
        answer["choices"][0]["message"] = {"role": "assistant", "content": "So."} | self.delta
        return answer

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "assistant", "content": "So."}, self.delta]


ODD_CALL = {"id": {"a": 1}, "index": [0], "type": "function", "function": {"name": "f", "arguments": {"b": 2}}}
ODD_DELTAS: list[dict[str, Any]] = [
    {"tool_calls": [ODD_CALL]}, {"tool_calls": [ODD_CALL | {"function": "f"}]}, {"tool_calls": [ODD_CALL, None, 7]},
    {"tool_calls": {"a": 1}}, {"tool_calls": [{"id": ["x"]}]}, {"reasoning": {"a": 1}}, {"reasoning_content": [1]},
    {"refusal": 7}, {"content": {"a": 1}}, {"content": [None, 7, {"type": "thinking", "thinking": [{}]}]}, {"role": 7},
]  # fmt: skip


async def test_values_of_odd_kinds_are_told_as_texts_or_not_at_all(tmp_path: Path) -> None:
    manner = Odd()
    async with choice_of(tmp_path, {}, manners=[manner]) as (door, _):
        key = await door.key(credit="1")
        for manner.delta in ODD_DELTAS:
            streamed = message_in((await ask(door, key, stream=True)).content)
            whole_one = (await ask(door, key)).json()
            for message in (streamed, whole_one):
                for block in message["content"]:
                    assert isinstance(block.get("id", ""), str)
                    assert isinstance(block.get("input", {}), dict)
                    assert all(isinstance(block.get(name, ""), str) for name in ("text", "thinking", "name"))
            for is_stream in (False, True):
                assert (await door.chat(key, model="sold/model", stream=is_stream)).status_code == 200


async def test_an_answer_that_is_nested_too_deep_is_not_understood(tmp_path: Path) -> None:
    manner, deep = Odd(), orjson.loads("[" * 238 + "]" * 238)
    manner.delta = {"tool_calls": [ODD_CALL | {"extra_content": deep}]}
    async with choice_of(tmp_path, {}, manners=[manner]) as (door, _):
        key = await door.key(credit="1")
        assert (await ask(door, key)).status_code == 502
        assert (await door.chat(key, model="sold/model")).status_code == 502
        assert b"api_error" in (await ask(door, key, stream=True)).content
        assert b"backend_error" in (await door.chat(key, model="sold/model", stream=True)).content


async def test_a_count_beyond_all_that_is_stored_is_not_believed(tmp_path: Path) -> None:
    manner = Odd()
    manner.total, manner.delta = 2.0**70, {}
    async with choice_of(tmp_path, {}, manners=[manner]) as (door, _):
        key = await door.key(credit="1")
        for is_stream in (False, True):
            for response in (
                await ask(door, key, stream=is_stream),
                await door.chat(key, model="sold/model", stream=is_stream),
            ):
                assert response.status_code == 200, response.text
                assert 0 < (await door.record(response))["completion_tokens"] < 100


class Interleaved(Generic):
    """Goes on with two calls of tools in turn, and says something behind them."""

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        steps = [(0, "weather", '{"city":'), (1, "time", '{"zone":'), (0, "", '"Paris"}'), (1, "", '"CET"}')]
        calls = [
            {"index": number, "function": {"arguments": piece} | ({"name": name} if name else {})}
            | ({"id": f"up_{number}", "type": "function"} if name else {})
            for number, name, piece in steps
        ]
        return [*({"tool_calls": [call]} for call in calls), {"content": "So."}]


async def test_calls_that_come_in_turn_are_told_one_after_the_other(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, manners=[Interleaved()]) as (door, _):
        message = message_in((await ask(door, await door.key(credit="1"), stream=True, tools=[TOOL])).content)
        assert message["content"] == [
            {"type": "tool_use", "id": "up_0", "name": "weather", "input": {"city": "Paris"}},
            {"type": "tool_use", "id": "up_1", "name": "time", "input": {"zone": "CET"}},
            text("So."),
        ]


# Several candidates


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_message_goes_from_anthropic_to_another_provider_and_back(is_stream: bool, tmp_path: Path) -> None:
    """What the other one said stands in the conversation then, and Anthropic is sent nothing that it did not sign."""
    async with choice_of(tmp_path, {"backend_model": "m-1"}, {}, manners=[Anthropic(), Google()]) as (door, doubles):
        key = await door.key(credit="1")
        doubles[0].refusal = Refusal(529, b"{}")
        response = await ask(door, key, stream=is_stream, tools=[TOOL])
        message = message_in(response.content) if is_stream else response.json()
        (call,) = [block for block in message["content"] if block["type"] == "tool_use"]
        assert [len(double.asked) for double in doubles] == [1, 1]
        doubles[0].refusal = None
        door.gateway.pool.providers["one"].models.rests.clear()
        said = [{"type": "thinking", "thinking": "Hm.", "signature": ""}, *message["content"]]
        result = result_of(call["id"], "sunny")
        messages = [HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": [result]}]
        response = await ask(door, key, messages=messages, tools=[TOOL])
        assert response.status_code == 200, response.text
        assert [len(double.asked) for double in doubles] == [2, 1]
        kinds = [block["type"] for block in doubles[0].asked[-1].body["messages"][1]["content"]]
        assert kinds == ["tool_use"]


async def test_a_count_is_asked_of_the_candidate_that_counts(tmp_path: Path) -> None:
    async with choice_of(tmp_path, {}, {"backend_model": "m-1"}, manners=[Generic(), Anthropic()]) as (door, _):
        response = await ask(door, await door.key(credit="1"), "/v1/messages/count_tokens")
        assert response.json() == {"input_tokens": 35}
        assert "x-tokens-estimated" not in response.headers


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_vllm_and_a_provider_answer_for_each_other(is_stream: bool, tmp_path: Path) -> None:
    """What one does not take is asked of the other, and the other is asked where one fails."""
    async with serving(Generic()) as double, ReplayingBackend(max_model_len=8000) as backend:
        mixed = [{"backend_model": "tiny"}, {"provider": "openai", "backend_model": "m-1"}]
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [MODEL | {"candidates": mixed}]}
        async with open_door(tmp_path, environ=ENVIRON, vllm_urls=[backend.url], **settings) as door:
            key = await door.key(credit="10")
            backend.answer_with(whole(b"oops", 500))
            response = await ask(door, key, stream=is_stream, top_k=3)
            message = message_in(response.content) if is_stream else response.json()
            assert message["content"] == [text("Hello there.")]
            assert [chat.json["top_k"] for chat in backend.chats] == [3]
            assert double.asked[0].body["messages"] == [HELLO]
            source = {"type": "text", "media_type": "text/plain", "data": "a page"}
            document = {"role": "user", "content": [{"type": "document", "source": source}]}
            assert (await ask(door, key, stream=is_stream, messages=[document])).status_code == 200
            assert double.asked[1].body["messages"] == [{"role": "user", "content": "a page"}]
            assert len(backend.chats) == 1
            await door.nothing_is_left()
