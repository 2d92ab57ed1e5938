"""What a Responses request becomes for vLLM, and what its answers in one piece are read as."""

from typing import Any

import orjson
import pytest

from mcp_gateway.core.dialects.responses_fields import VLLM_FIELDS
from mcp_gateway.core.dialects.sifting import FieldUse
from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.errors import GatewayError
from mcp_gateway.core.surfaces.responses import RESPONSES
from mcp_gateway.core.surfaces.surface import Ask, Terms
from mcp_gateway.core.surfaces.usage import Usage
from tests.captured import captured
from tests.cases import each

TRANSLATION = Vllm().translations["responses"]
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
WEB = {"type": "web_search", "external_web_access": True}
IMAGE = "data:image/png;base64,AAAA"


def asked(**fields: Any) -> Ask:
    body = {"model": "m", "input": "Hi"} | fields
    ask = RESPONSES.read(body, len(orjson.dumps(body)))
    ask.request_id = "req_1"
    return ask


def sifted(**fields: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    ask = asked(**fields)
    names = TRANSLATION.sift(ask.body)
    return ask.body, names


def sent(ask: Ask, terms: Terms, *, is_stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(TRANSLATION.body(ask, terms, "org/m", "acc_1", is_stream=is_stream))
    return body


@each(
    ("fields", "limit", "expected"),
    [
        ({"max_output_tokens": 9}, 10, 9),
        ({"max_output_tokens": 11}, 10, 10),
        ({"max_output_tokens": "9"}, 10, 9),
        ({}, 7, 7),
        ({"max_output_tokens": None}, 7, 7),
        ({"max_output_tokens": 11}, None, None),
        ({}, None, None),
    ],
)
def test_the_answer_is_no_longer_than_the_terms(
    fields: dict[str, Any], limit: int | None, expected: int | None
) -> None:
    assert sent(asked(**fields), Terms(limit, 10)).get("max_output_tokens") == expected


@each("fields", [{}, {"store": True}, {"store": None}, {"request_id": "mine"}, {"cache_salt": "mine"}])
def test_nothing_is_stored_and_the_answer_has_the_id_that_it_is_billed_under(fields: dict[str, Any]) -> None:
    ask = asked(**fields)
    TRANSLATION.sift(ask.body)
    body = sent(ask, Terms(None, 10))
    assert (body["store"], body["request_id"], body["model"]) == (False, "resp_req_1", "org/m")
    assert body["cache_salt"] not in ("mine", "acc_1")


@each("name", [name for name, use in VLLM_FIELDS.items() if use is FieldUse.STRIPPED])
def test_what_the_table_strips_is_named(name: str) -> None:
    body, names = sifted(**{name: "x"})
    assert names == (name,)
    assert name not in body


@each(
    "name",
    [*(name for name, use in VLLM_FIELDS.items() if use is FieldUse.REFUSED), "callback_url", "vector_store_ids"],
)
def test_what_the_table_refuses_is_refused_unless_it_is_nothing(name: str) -> None:
    with pytest.raises(GatewayError, match="unsupported_parameter"):
        sifted(**{name: "x"})
    body, names = sifted(**{name: None})
    assert names == ()
    assert name not in body


@each(
    ("fields", "tools", "choice", "names"),
    [
        ({"tools": [FUNCTION]}, [FUNCTION], None, ()),
        ({"tools": []}, None, None, ()),
        ({"tools": None}, None, None, ()),
        ({"tools": [WEB], "tool_choice": "auto"}, None, None, ("tools.web_search",)),
        ({"tools": [WEB, WEB], "tool_choice": "none"}, None, None, ("tools.web_search",)),
        ({"tools": [WEB, FUNCTION], "tool_choice": "required"}, [FUNCTION], "required", ("tools.web_search",)),
        (
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "name": "f"}},
            [FUNCTION],
            {"type": "function", "name": "f"},
            (),
        ),
        (
            {"tools": [WEB, FUNCTION], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [WEB]}},
            [FUNCTION],
            "none",
            ("tools.web_search",),
        ),
        ({"tools": [{"type": "a, b\r\nc"}]}, None, None, ("tools.a\\x2c b\\r\\nc",)),
    ],
)
def test_of_the_tools_the_callers_own_are_left(
    fields: dict[str, Any], tools: Any, choice: Any, names: tuple[str, ...]
) -> None:
    body, left_out = sifted(**fields)
    assert (body.get("tools"), body.get("tool_choice"), left_out) == (tools, choice, names)


@each("choice", [
    {"type": "web_search"}, {"type": "file_search"}, {"type": "mcp", "server_label": "x"}, {"type": "image_generation"},
    {"type": "allowed_tools", "mode": "required", "tools": [WEB]},
])  # fmt: skip
def test_a_choice_of_a_tool_that_is_not_served_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match="unsupported_parameter"):
        sifted(tools=[WEB, FUNCTION], tool_choice=choice)


@each("choice", [{}, {"type": []}, {"type": "allowed_tools"}, {"type": "allowed_tools", "tools": [7]},
                 {"type": "allowed_tools", "tools": [{"type": []}]}])  # fmt: skip
def test_a_choice_that_cannot_be_read_is_refused_as_such(choice: dict[str, Any]) -> None:
    with pytest.raises(GatewayError, match="invalid_type"):
        sifted(tools=[FUNCTION], tool_choice=choice)


def test_images_are_counted_apart_wherever_they_stand() -> None:
    part = {"type": "input_image", "image_url": "data:image/JPG;base64,AA AA"}
    ask = asked(
        input=[
            {"role": "user", "content": [part, {"type": "input_text", "text": "x"}]},
            {"type": "function_call_output", "call_id": "c", "output": [dict(part)]},
        ]
    )
    assert ask.prompt.images == ("data:image/jpeg;base64,AAAA",) * 2


def test_a_prompt_is_counted_as_the_chat_that_it_is() -> None:
    ask = asked(
        instructions="Be brief.",
        tools=[FUNCTION],
        input=[
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": IMAGE}],
            },
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "b"},
        ],
    )
    counting = TRANSLATION.counting(ask, "org/m")
    assert counting is not None
    counted = orjson.loads(counting.body)
    assert [message["role"] for message in counted["messages"]] == ["system", "user", "assistant", "tool"]
    assert counted["tools"][0]["function"]["name"] == "f"


@each("status", ["failed", "cancelled"])
async def test_an_answer_that_failed_is_the_backends_error(status: str) -> None:
    body = orjson.loads(captured("520_responses").body) | {"status": status}
    with pytest.raises(GatewayError, match="backend_error"):
        await TRANSLATION.read(orjson.dumps(body), asked())


@each(
    ("case", "reason"),
    [("520_responses", "length"), ("526_responses_store", "length"), ("527_responses_tools", "tool_calls")],
)
async def test_why_an_answer_ended_is_told_as_of_a_chat(case: str, reason: str) -> None:
    assert (await TRANSLATION.read(captured(case).body, asked())).finish_reason == reason


@each(
    ("usage", "expected"),
    [
        ({"input_tokens": 3, "output_tokens": 2}, Usage(3, 2)),
        ({"input_tokens": 3.0, "output_tokens": "2", "input_tokens_details": {"cached_tokens": 1}}, Usage(3, 2, 1)),
        ({"input_tokens": 3}, None),
        (None, None),
    ],
)
async def test_a_usage_is_read_leniently_and_told_in_one_form(usage: Any, expected: Usage | None) -> None:
    body = orjson.loads(captured("520_responses").body) | {"usage": usage}
    whole = await TRANSLATION.read(orjson.dumps(body), asked())
    assert whole.usage == expected
    told = orjson.loads(whole.body)["usage"]
    assert expected is None or (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == (3, 2, 5)
