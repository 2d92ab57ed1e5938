"""What a chat becomes for vLLM, within the terms of its request."""

from typing import Any

import orjson

from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.inference.terms import asked_terms
from mcp_gateway.core.surfaces.chat import parse_chat
from mcp_gateway.core.surfaces.surface import Ask, Terms
from tests.cases import each

TRANSLATION = Vllm().translations["chat"]
LENGTHS = ("max_tokens", "max_completion_tokens", "min_tokens")


def parse(**fields: Any) -> Ask:
    return parse_chat(orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "a"}]} | fields))


def sent(ask: Ask, terms: Terms, *, is_stream: bool = False) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(TRANSLATION.body(ask, terms, "org/m", "acc_1", is_stream=is_stream))
    return body


@each(
    ("fields", "limit", "expected", "clamped_to"),
    [
        ({"max_tokens": 9}, 10, {"max_tokens": 9}, None),
        ({"max_tokens": 10}, 10, {"max_tokens": 10}, None),
        ({"max_tokens": 11}, 10, {"max_tokens": 10}, 10),
        ({"max_completion_tokens": 11}, 10, {"max_completion_tokens": 10}, 10),
        ({"max_tokens": 99, "max_completion_tokens": 5}, 10, {"max_tokens": 5, "max_completion_tokens": 5}, None),
        ({"max_tokens": 5, "max_completion_tokens": 99}, 10, {"max_tokens": 5, "max_completion_tokens": 10}, 10),
        ({"max_tokens": 5, "min_tokens": 99}, 10, {"max_tokens": 5, "min_tokens": 5}, None),
        ({"min_tokens": 3}, 10, {"min_tokens": 3}, None),
        ({"min_tokens": 30}, 10, {"min_tokens": 10}, None),
        ({"max_tokens": None}, 10, {}, None),
        ({}, 10, {}, None),
    ],
)
def test_every_field_that_governs_length_is_lowered_to_the_limit_of_the_terms(
    fields: dict[str, Any], limit: int, expected: dict[str, int], clamped_to: int | None
) -> None:
    ask = parse(**fields)
    terms = asked_terms(ask, limit)
    body = sent(ask, terms)
    assert {name: body[name] for name in LENGTHS if body.get(name) is not None} == expected
    assert terms.clamped_to == clamped_to
    assert ask.body == {"model": "m", "messages": [{"role": "user", "content": "a"}]} | fields


@each("fields", [{}, {"max_tokens": None}, {"min_tokens": 3}])
def test_a_limit_that_the_caller_did_not_name_is_added_where_the_terms_have_one(fields: dict[str, Any]) -> None:
    assert sent(parse(**fields), Terms(7, 10))["max_tokens"] == 7


@each("fields", [{"max_tokens": 90}, {"max_completion_tokens": 90, "max_tokens": 90}])
def test_terms_without_a_limit_name_none(fields: dict[str, Any]) -> None:
    assert not sent(parse(**fields), Terms(None, 90)).keys() & set(LENGTHS)


def test_each_attempt_writes_its_body_from_the_same_ask() -> None:
    ask = parse(max_tokens=90, stream=True, stream_options={"include_usage": True})
    first, second = (sent(ask, Terms(limit, 90), is_stream=True) for limit in (5, 80))
    assert (first["max_tokens"], second["max_tokens"]) == (5, 80)
    assert first | {"max_tokens": 80} == second
