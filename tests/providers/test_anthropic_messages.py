"""Messages to Anthropic itself: what passes, what comes back, what is billed, and what its refusals mean."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio

from mcp_gateway.core.dialects.messages_anthropic import HeldMessageRelay
from mcp_gateway.core.surfaces.credible import UsageBounds
from tests.cases import each
from tests.logged import lines_logged
from tests.message_streams import message_in
from tests.providers.anthropic_double import (
    FRESH,
    HIDDEN,
    NO_CREDIT,
    OVERLOADED,
    SIGNATURE,
    UPSTREAM_ID,
    WRITTEN,
    Anthropic,
    Messages,
    error,
    error_event,
)
from tests.providers.doubles import CACHED, KEY, OUTPUT, PROMPT, TEXT, Double, Generic, Refusal, serving
from tests.providers.test_contract import (
    ENVIRON,
    MODEL,
    TOOLS,
    chunks_of,
    received_nothing_of_the_caller,
    tells_nothing_of_the_operator,
)
from tests.serving import Door, open_door
from tests.surfaces import message_ending, message_event, message_text

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRICES = {"prompt": "0.000001", "cached_prompt": "0.0000001", "cache_write": "0.00000125", "completion": "0.000005"}
COST_NANO = FRESH * 1000 + CACHED * 100 + WRITTEN * 1250 + OUTPUT * 5000
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {}}}
HELLO = [{"role": "user", "content": "hello"}]
Served = tuple[Door, Double, Anthropic, str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    manner = Anthropic()
    async with serving(manner) as double:
        sold = MODEL | {"provider": "anthropic", "pricing": PRICES}
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [sold]}
        async with open_door(tmp_path_factory.mktemp("messages"), environ=ENVIRON, **settings) as door:
            yield door, double, manner, await door.key(credit="10")


@pytest_asyncio.fixture(loop_scope="module")
async def served(_served: Served) -> AsyncIterator[Served]:
    door, double, manner, _ = _served
    manner.messages, manner.counts = Messages(), True
    double.refusal, double.piece_bytes, double.cut_after = None, 0, None
    double.asked.clear()
    door.gateway.pool.providers["anthropic"].models.rests.clear()
    door.gateway.pool.providers["anthropic"].breaker.reset()
    yield _served
    await door.nothing_is_left()


async def ask(served: Served, path: str = "/v1/messages", beta: str = "", **fields: Any) -> httpx2.Response:
    door, _, _, key = served
    body = orjson.dumps({"model": "sold/model", "max_tokens": 100, "messages": HELLO} | fields)
    headers = {"anthropic_version": "2023-06-01"} | ({"anthropic_beta": beta} if beta else {})
    return await door.post(body, key, path, **headers)


def events_of(response: httpx2.Response) -> list[dict[str, Any]]:
    frames = [frame.partition(b"data: ")[2] for frame in response.content.split(b"\n\n") if b"data: " in frame]
    return [orjson.loads(frame) for frame in frames]


def sent(double: Double) -> dict[str, Any]:
    return double.asked[-1].body


class TestAnswers:
    async def test_an_answer_in_one_piece_is_the_providers_own_under_our_names(self, served: Served) -> None:
        door, double, _, key = served
        response = await ask(served, tools=[TOOL], thinking={"type": "adaptive"})
        message = response.json()
        assert (message["model"], message["stop_reason"], message["stop_sequence"]) == ("sold/model", "tool_use", None)
        assert message["id"].startswith("msg_req_")
        assert [block["type"] for block in message["content"]] == [
            "thinking", "redacted_thinking", "text", "tool_use",
        ]  # fmt: skip
        assert message["content"][0]["signature"] == SIGNATURE
        assert message["usage"] == {
            "input_tokens": FRESH,
            "cache_creation_input_tokens": WRITTEN,
            "cache_read_input_tokens": CACHED,
            "output_tokens": OUTPUT,
            "cache_creation": {"ephemeral_5m_input_tokens": WRITTEN, "ephemeral_1h_input_tokens": 0},
            "output_tokens_details": {"thinking_tokens": 3},
        }
        record = await door.record(response)
        counts = "prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano"
        assert tuple(record[name] for name in counts) == (PROMPT, OUTPUT, CACHED, COST_NANO)
        assert "retry-after" not in response.headers
        received_nothing_of_the_caller(double, key)
        tells_nothing_of_the_operator(response)
        assert UPSTREAM_ID not in response.text

    @each("piece_bytes", [0, 1, 7, 100_000])
    async def test_a_stream_is_the_providers_own_however_it_is_cut(self, piece_bytes: int, served: Served) -> None:
        door, double, _, key = served
        double.piece_bytes = piece_bytes
        edits = {"edits": [{"type": "clear_tool_uses_20250919"}]}
        response = await ask(
            served, stream=True, tools=[TOOL], thinking={"type": "adaptive"}, context_management=edits,
            beta="context-management-2025-06-27",
        )  # fmt: skip
        first, *rest = events_of(response)
        assert first["message"]["model"] == "sold/model"
        assert first["message"]["id"].startswith("msg_req_")
        assert first["message"]["usage"]["cache_read_input_tokens"] == CACHED
        texts = [event["delta"].get("text", "") for event in rest if event["type"] == "content_block_delta"]
        assert "".join(texts) == "".join(TEXT)
        assert SIGNATURE in response.text
        assert HIDDEN in response.text
        started = [event["index"] for event in rest if event["type"] == "content_block_start"]
        stopped = [event["index"] for event in rest if event["type"] == "content_block_stop"]
        assert started == stopped == [0, 1, 2, 3]
        last = rest[-2]
        assert (last["type"], last["delta"]["stop_reason"]) == ("message_delta", "tool_use")
        assert last["usage"]["input_tokens"] == FRESH
        assert last["usage"]["output_tokens_details"] == {"thinking_tokens": 3}
        assert last["context_management"] == {"applied_edits": []}
        assert rest[-1] == {"type": "message_stop"}
        assert (await door.record(response))["cost_nano"] == COST_NANO
        received_nothing_of_the_caller(double, key)
        tells_nothing_of_the_operator(response)
        assert UPSTREAM_ID not in response.text

    async def test_a_call_without_arguments_is_one_with_none(self, served: Served) -> None:
        """All pieces of its arguments are empty."""
        _, _, manner, _ = served
        manner.messages = Messages("tool_use", [{"type": "tool_use", "id": "toolu_1", "name": "now", "input": {}}])
        message = message_in((await ask(served, stream=True, tools=[TOOL])).content)
        (call,) = message["content"]
        assert (call["input"], message["stop_reason"]) == ({}, "tool_use")
        chat = {"model": "sold/model", "max_tokens": 9, "messages": HELLO, "tools": TOOLS}
        streamed, whole = [
            await served[0].post(orjson.dumps(chat | {"stream": is_stream}), served[3]) for is_stream in (True, False)
        ]
        (called,) = whole.json()["choices"][0]["message"]["tool_calls"]
        assert orjson.loads(called["function"]["arguments"]) == {}
        deltas = [choice["delta"] for chunk in chunks_of(streamed.content) for choice in chunk["choices"]]
        pieces = [call["function"].get("arguments", "") for delta in deltas for call in delta.get("tool_calls", ())]
        assert orjson.loads("".join(pieces)) == {}

    @each("is_stream", [False, True])
    async def test_a_refusal_without_a_block_is_an_answer_and_billed(self, is_stream: bool, served: Served) -> None:
        door, _, manner, _ = served
        manner.messages = Messages(stop_reason="refusal", blocks=[])
        response = await ask(served, stream=is_stream)
        assert response.status_code == 200
        assert '"stop_reason":"refusal"' in response.text
        assert not is_stream or events_of(response)[-2]["delta"]["stop_details"]["category"] == "cyber"
        assert (await door.record(response))["cost_nano"] == COST_NANO

    @each("is_stream", [False, True])
    async def test_what_other_rounds_and_models_took_is_billed_with_the_rest(
        self, is_stream: bool, served: Served
    ) -> None:
        door, _, manner, _ = served
        own = {"type": "message", "input_tokens": FRESH, "output_tokens": OUTPUT, "cache_read_input_tokens": CACHED}
        other = {"type": "fallback_message", "model": "m-2", "input_tokens": 40, "output_tokens": 9}
        manner.messages.iterations = [own, other]
        record = await door.record(await ask(served, stream=is_stream))
        assert record["prompt_tokens"] == PROMPT + 40
        assert record["completion_tokens"] == OUTPUT + 9

    async def test_who_leaves_a_stream_pays_for_the_prompt_and_what_came(self, served: Served) -> None:
        door, double, manner, _ = served
        events = manner.messages.stream({"messages": HELLO})
        double.cut_after = next(at for at, event in enumerate(events) if b"text_delta" in event) + 1
        response = await ask(served, stream=True)
        assert events_of(response)[-1]["type"] == "error"
        record = await door.record(response)
        assert record["error_code"] == "backend_died"
        assert (record["prompt_tokens"], record["completion_tokens"]) == (3 + CACHED + WRITTEN, 1)


class TestRequests:
    async def test_a_body_goes_on_as_it_is(self, served: Served) -> None:
        _, double, _, _ = served
        cached = {"type": "ephemeral"}
        attribution = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=a1b2;"}
        said = [{"type": "text", "text": "Now in French.", "cache_control": cached}]
        body: dict[str, Any] = {
            "system": [attribution, {"type": "text", "text": "Be brief.", "cache_control": cached}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": cached}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm", "signature": SIGNATURE},
                        {"type": "redacted_thinking", "data": HIDDEN},
                        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}]},
                {"role": "user", "content": [{"type": "mid_conv_system", "content": said}]},
            ],
            "tools": [
                TOOL | {"cache_control": cached, "strict": True},
                {"type": "bash_20250124", "name": "bash"},
                {"type": "computer_20250124", "name": "computer", "display_width_px": 800, "display_height_px": 600},
            ],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            "cache_control": cached,
            "stop_sequences": ["###"],
            "temperature": 1,
            "top_k": 40,
        }
        response = await ask(served, **body)
        assert response.status_code == 200, response.text
        assert "x-ignored-parameters" not in response.headers
        assert sent(double) == body | {"model": "m-1", "max_tokens": 100, "stream": False}

    async def test_features_and_their_fields_pass_together(self, served: Served) -> None:
        _, double, _, _ = served
        beta = "claude-code-20250219,context-management-2025-06-27"
        edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
        response = await ask(served, beta=beta, context_management=edits)
        assert response.status_code == 200, response.text
        assert double.asked[-1].headers["anthropic-beta"] == beta
        assert sent(double)["context_management"] == edits

    async def test_what_the_system_says_amid_a_conversation_passes_with_its_feature(self, served: Served) -> None:
        """As Claude Code sends it, with others that cost nothing by themselves."""
        _, double, _, _ = served
        names = "mid-conversation-system-2026-04-07", "advanced-tool-use-2025-11-20", "thinking-token-count-2026-05-13"
        told = [*HELLO, {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]
        response = await ask(served, beta=",".join(names), messages=told)
        assert response.status_code == 200, response.text
        assert "x-ignored-parameters" not in response.headers
        assert double.asked[-1].headers["anthropic-beta"] == ",".join(names)
        assert sent(double)["messages"] == told

    async def test_what_changes_the_price_is_left_out_with_its_feature_and_told(self, served: Served) -> None:
        _, double, _, _ = served
        response = await ask(
            served, beta="fast-mode-2026-02-01, server-side-fallback-2026-01-01", speed="fast",
            fallbacks=[{"model": "m-2"}], service_tier="auto", inference_geo="us", metadata={"user_id": "device-7"},
            invented=1,
        )  # fmt: skip
        assert response.status_code == 200, response.text
        assert "anthropic-beta" not in double.asked[-1].headers
        assert sent(double).keys() == {"model", "max_tokens", "messages", "stream"}
        assert set(response.headers["x-ignored-parameters"].split(", ")) == {
            "anthropic-beta.fast-mode-2026-02-01", "anthropic-beta.server-side-fallback-2026-01-01", "fallbacks",
            "inference_geo", "invented", "metadata", "service_tier", "speed",
        }  # fmt: skip

    async def test_a_field_without_its_feature_is_refused_in_the_providers_words(self, served: Served) -> None:
        response = await ask(served, context_management={"edits": []})
        assert response.status_code == 400
        assert response.json()["error"] == {
            "type": "invalid_request_error",
            "message": "context_management: Extra inputs are not permitted",
        }

    @each("names", [["context-management-1\r\nx-api-key: stolen"], 7, "context-management-1", [None, {}], ["é" * 9]])
    async def test_features_in_a_body_cannot_write_headers(self, names: Any, served: Served) -> None:
        _, double, _, _ = served
        assert (await ask(served, anthropic_beta=names)).status_code == 200
        assert "anthropic-beta" not in double.asked[-1].headers
        assert double.asked[-1].headers["x-api-key"] == KEY

    async def test_a_cache_is_kept_for_five_minutes_which_is_what_its_price_is_for(self, served: Served) -> None:
        _, double, _, _ = served
        long = {"type": "ephemeral", "ttl": "1h"}
        block = {"type": "text", "text": "hi", "cache_control": long}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [block]}
        response = await ask(
            served, system=[block], tools=[TOOL | {"cache_control": long}], cache_control=long,
            messages=[{"role": "user", "content": [block, result]}],
        )  # fmt: skip
        assert response.status_code == 200, response.text
        assert response.headers["x-ignored-parameters"] == "cache_control.ttl"
        assert b"1h" not in orjson.dumps(sent(double))
        assert orjson.dumps(sent(double)).count(b'"cache_control":{"type":"ephemeral"}') == 5

    @each(
        ("fields", "param"),
        [
            ({"tools": [{"type": "web_search_20260318", "name": "web_search"}]}, "tools[0]"),
            ({"tools": [TOOL, {"type": "bash_code_execution_20250825", "name": "bash"}]}, "tools[1]"),
            ({"tools": [{"type": "text_editor_code_execution_20250825", "name": "edit"}]}, "tools[0]"),
            ({"tools": [{"type": "code_execution_20250825", "name": "x"}]}, "tools[0]"),
            ({"mcp_servers": [{"url": "https://a.example"}]}, "mcp_servers"),
            ({"container": "c"}, "container"),
            ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits[0]"),
            ({"context_management": {"edits": ["clear_"]}}, "context_management.edits[0]"),
            (
                {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "url"}}]}]},
                "messages[0].content[0].source",
            ),
            (
                {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]},
                "messages[0].content[0]",
            ),
        ],
    )
    async def test_what_runs_or_costs_elsewhere_is_refused_before_money_moves(
        self, fields: dict[str, Any], param: str, served: Served
    ) -> None:
        _, double, _, _ = served
        response = await ask(served, **fields)
        assert response.status_code == 400
        assert param in response.json()["error"]["message"]
        assert double.asked == []

    async def test_a_document_of_text_passes(self, served: Served) -> None:
        _, double, _, _ = served
        source = {"type": "text", "media_type": "text/plain", "data": "a book"}
        content = [{"type": "document", "source": source, "title": "A", "citations": {"enabled": True}}]
        assert (await ask(served, messages=[{"role": "user", "content": content}])).status_code == 200
        assert sent(double)["messages"][0]["content"] == content


class TestCounts:
    async def test_a_prompt_is_counted_by_the_provider(self, served: Served) -> None:
        _, double, _, _ = served
        path = "/v1/messages/count_tokens"
        response = await ask(served, path, beta="token-efficient-tools-2025-02-19", system="Be brief.", tools=[TOOL])
        assert response.json() == {"input_tokens": PROMPT}
        assert sent(double).keys() == {"model", "messages", "system", "tools"}
        assert double.asked[-1].headers["anthropic-beta"] == "token-efficient-tools-2025-02-19"

    async def test_where_nothing_counts_it_is_404_so_that_a_client_counts_for_itself(self, served: Served) -> None:
        _, _, manner, _ = served
        manner.counts = False
        assert (await ask(served, "/v1/messages/count_tokens")).status_code == 404


class TestRefusals:
    @each(
        ("told", "status", "kind"),
        [
            (OVERLOADED, 503, "overloaded_error"),
            (error(429, "rate_limit_error", "too many", ("retry-after", "7")), 429, "overloaded_error"),
            (error(402, "billing_error", "credit of org-9aXkQ2operator is too low"), 503, "overloaded_error"),
            (NO_CREDIT, 503, "overloaded_error"),
            (
                error(400, "invalid_request_error", "You have reached your specified API usage limits."),
                503, "overloaded_error",
            ),
            (error(401, "authentication_error", "invalid x-api-key"), 503, "overloaded_error"),
            (error(403, "permission_error", "not for org-9aXkQ2operator"), 503, "overloaded_error"),
            (error(404, "not_found_error", "model: m-1"), 503, "overloaded_error"),
            (error(413, "request_too_large", "Request exceeds the maximum size"), 413, "request_too_large"),
            (error(500, "api_error", "Internal server error"), 502, "api_error"),
            (error(504, "timeout_error", "took too long"), 502, "api_error"),
        ],
    )  # fmt: skip
    async def test_a_refusal_means_what_it_does_there(
        self, told: Refusal, status: int, kind: str, served: Served
    ) -> None:
        door, double, _, _ = served
        double.refusal = told
        for is_stream in (False, True):
            response = await ask(served, stream=is_stream)
            assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
            tells_nothing_of_the_operator(response)
            assert (await door.record(response))["cost_nano"] == 0
            door.gateway.pool.providers["anthropic"].models.rests.clear()
            door.gateway.pool.providers["anthropic"].breaker.reset()

    @each("message", ["prompt is too long: 9000 tokens > 8000 maximum", "messages.0: all messages must have content"])
    async def test_a_callers_fault_is_told_in_the_providers_words(self, message: str, served: Served) -> None:
        _, double, _, _ = served
        double.refusal = error(400, "invalid_request_error", message)
        response = await ask(served)
        assert response.json()["error"] == {"type": "invalid_request_error", "message": message}

    async def test_an_error_amid_a_stream_ends_it_as_one(self, served: Served) -> None:
        door, double, manner, _ = served
        events = manner.messages.stream({"messages": HELLO})
        double.cut_after = next(at for at, event in enumerate(events) if b"text_delta" in event) + 1
        double.amid = error_event("overloaded_error", "Overloaded")
        response = await ask(served, stream=True)
        double.amid = b""
        *_, closed, delta, last = events_of(response)
        assert (closed, delta["type"]) == ({"type": "content_block_stop", "index": 0}, "message_delta")
        assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
        assert (await door.record(response))["error_code"] == "model_unavailable"

    async def test_an_answer_that_leaves_no_room_beside_its_prompt_is_bounded_anew(self, served: Served) -> None:
        _, double, manner, _ = served
        told = "input length and `max_tokens` exceed context limit: 7950 + 100 > 8000, decrease input length"

        class Full(Messages):
            def refuse(self, body: dict[str, Any]) -> Refusal | None:
                return error(400, "invalid_request_error", told) if body["max_tokens"] > 50 else None

        manner.messages = Full()
        response = await ask(served)
        assert response.status_code == 200, response.text
        assert response.headers["x-max-tokens-clamped"] == "50"
        assert [asked.body["max_tokens"] for asked in double.asked] == [100, 50]


async def test_pings_before_the_first_block_are_not_kept() -> None:
    relay = HeldMessageRelay("sold/model", UsageBounds(8000, 100))
    start, ping, *rest = Messages().stream({})
    assert relay.feed(start) == b""
    held_bytes = relay.held_bytes
    assert relay.feed(ping * 1000) == relay.feed(ping) == b""
    assert relay.held_bytes == held_bytes
    told = relay.feed(b"".join(rest))
    assert told.startswith(b"event: message_start\n")
    assert b"ping" not in told


def block_of(kind: str, **more: Any) -> bytes:
    return message_event("content_block_start", index=0, content_block={"type": kind, **more})


@each(("events", "has_begun"), [
    ([block_of("text", text="")], False),
    ([block_of("text", text=""), message_text("")], False),
    ([block_of("text", text=""), message_event("content_block_stop", index=0)], False),
    ([block_of("text", text=""), message_text("a")], True),
    ([block_of("thinking", thinking="")], True),
    ([block_of("redacted_thinking", data="x"), message_event("content_block_stop", index=0)], True),
    ([block_of("tool_use", id="t", name="n", input={})], True),
    ([message_ending(output_tokens=0)], True),
])  # fmt: skip
async def test_an_answer_begins_with_its_first_words_and_not_with_the_block_for_them(
    events: list[bytes], has_begun: bool
) -> None:
    for pieces in (events, [b"".join(events)]):
        relay = HeldMessageRelay("sold/model", UsageBounds(8000, 100))
        told = b"".join([relay.feed(piece) for piece in (Messages().stream({})[0], *pieces)])
        assert (relay.has_started, bool(told)) == (has_begun, has_begun)
        more = relay.feed(message_text("b"))
        assert (told + more).startswith(b"event: message_start\n")
        assert (told + more).count(b"event: ") == 2 + len(events) - (message_ending(output_tokens=0) in events)


@each("is_stream", [False, True])
async def test_what_fails_before_the_first_block_is_asked_elsewhere(is_stream: bool, tmp_path: Path) -> None:
    failing, other = Anthropic(), Anthropic()
    failing.messages.fails_amid = error_event("overloaded_error", "Overloaded")
    async with serving(failing) as first, serving(other) as second, serving(Generic()) as third:
        if not is_stream:
            first.refusal = OVERLOADED
        providers = [first.settings("first"), second.settings("second"), third.settings("third")]
        candidates = [{"provider": name, "backend_model": "m-1"} for name in ("first", "second")]
        sold = {name: value for name, value in MODEL.items() if name != "backend_model"} | {"candidates": candidates}
        async with open_door(tmp_path, environ=ENVIRON, providers=providers, models=[sold]) as door:
            key = await door.key(credit="10")
            response = await ask((door, first, failing, key), stream=is_stream)
            assert response.status_code == 200
            assert "Overloaded" not in response.text
            assert response.text.count("message_start") == 2 * is_stream
            assert (await door.record(response))["backend"] == "second"


async def test_an_hours_cache_passes_where_the_operator_says_that_its_price_is_for_that(tmp_path: Path) -> None:
    async with serving(Anthropic()) as double:
        settings: dict[str, Any] = {"providers": [double.settings(longest_cache="1h")]}
        settings |= {"models": [MODEL | {"provider": "anthropic"}]}
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            long = {"type": "ephemeral", "ttl": "1h"}
            response = await ask((door, double, Anthropic(), await door.key(credit="1")), cache_control=long)
            assert "x-ignored-parameters" not in response.headers
            assert sent(double)["cache_control"] == long


async def test_an_empty_account_is_told_to_the_operator(tmp_path: Path) -> None:
    async with serving(Anthropic(), refusal=NO_CREDIT) as double:
        settings: dict[str, Any] = {"providers": [double.settings()], "models": [MODEL | {"provider": "anthropic"}]}
        async with open_door(tmp_path, environ=ENVIRON, **settings) as door:
            with lines_logged(logging.WARNING) as lines:
                await ask((door, double, Anthropic(), await door.key(credit="1")))
    assert any("no money" in line for line in lines)
