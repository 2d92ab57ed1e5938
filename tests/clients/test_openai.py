"""The Node openai SDK as an HTTP client: chat, stream, tools, responses, models and errors."""

import json
from typing import Any

import pytest

from tests.clients.installed import MODEL, Gateway, run_node

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1/inference"])
def test_the_node_sdk_chats_streams_calls_tools_and_knows_its_errors(gateway: Gateway, prefix: str) -> None:
    seen = run_node("openai_sdk.mjs", {"baseURL": gateway.url + prefix, "apiKey": gateway.key, "model": MODEL})
    assert MODEL in seen["models"]
    text = seen["chat"]["choices"][0]["message"]["content"]
    assert text.endswith("You said: Hello")
    assert seen["stream"]["text"] == text
    assert seen["stream"]["usage"]["completion_tokens"] == seen["chat"]["usage"]["completion_tokens"] > 0
    (call,) = seen["tools"]["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city"}
    assert seen["response"]["text"] == seen["responseStream"]["text"] == text
    assert seen["response"]["store"] is False
    assert seen["responseStream"]["types"][0] == "response.created"
    assert seen["responseStream"]["types"][-1] == "response.completed"
    assert seen["responseStream"]["last"]["usage"]["output_tokens"] == seen["response"]["usage"]["output_tokens"] > 0
    check_refusal(seen["state"], "BadRequestError", 400, "unsupported_parameter")
    check_refusal(seen["unknownModel"], "NotFoundError", 404, "model_not_found")
    check_refusal(seen["wrongKey"], "AuthenticationError", 401, "invalid_api_key")


def check_refusal(refusal: dict[str, Any], name: str, status: int, code: str) -> None:
    assert (refusal["name"], refusal["status"], refusal["code"]) == (name, status, code)
    assert refusal["requestID"].startswith("req_")
