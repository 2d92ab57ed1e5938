"""What a provider says when it refuses, as callers are told it."""

import orjson

from mcp_gateway.core.dialects.openai_refusals import path_error_of
from mcp_gateway.core.provider_settings import presets
from tests.cases import each


def told(message: str) -> str:
    body = orjson.dumps({"error": {"message": message, "type": "invalid_request_error"}})
    return path_error_of(presets()["openai"], "openai", 400, body, None).message


@each(
    "name",
    [
        "org-9aXkQ2", "org-aXkQoperator", "proj_AbCdEfGh", "req_011CaBcD", "sk-proj-abC1", "user-Xy7a", "wrkspc_01JwQv",
        "apikey_01Rj2N", "ops@example.com", "robot@team-1.iam.gserviceaccount.com", "https://example.com/settings",
        "0f9b3c1d2e4f5a6b7c8d9e0f", "123e4567-e89b-12d3-a456-426614174000",
    ],
)  # fmt: skip
def test_names_of_the_operator_s_account_reach_no_caller(name: str) -> None:
    for message in (f"Bad voice for {name}.", f"{name}: bad voice", f"Bad voice ('{name}')", f"Bad voice, {name}"):
        assert name not in told(message)
        assert "ad voice" in told(message)


@each(
    "message",
    [
        "The user-agent header and the User-Agent are both too long.",
        "key-value pairs must be strings; org-wide ones too, and team-mates",
        "No such model: workers-ai/@cf/meta/llama-3.1-8b, or @cf/meta/llama-3.1-8b",
        "'messages.0.content' must be a string, at most 4096 tokens",
    ],
)
def test_what_tells_the_caller_what_to_change_stays(message: str) -> None:
    assert told(message) == message
