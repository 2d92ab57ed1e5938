"""What each provider says when it refuses, and what that means, as recorded answers and documentation have it."""

from typing import Any, NamedTuple

import orjson

from tests.providers.anthropic_double import NO_CREDIT, OVERLOADED, Anthropic, AnthropicChat, error
from tests.providers.doubles import (
    ACCOUNT,
    Cloudflare,
    Cohere,
    DeepSeek,
    Generic,
    Google,
    Groq,
    Mistral,
    Moonshot,
    OddLines,
    Ollama,
    OpenAi,
    Refusal,
)


class Meaning(NamedTuple):
    """What a caller is told where there is no other, and how a failed candidate is known; None: no other is asked."""

    status: int
    code: str
    failed_as: str | None


MONEY = Meaning(503, "model_unavailable", "provider_money")
KEY = Meaning(503, "model_unavailable", "provider_key")
ACCESS = Meaning(503, "model_unavailable", "provider_access")
MODEL = Meaning(503, "model_unavailable", "provider_model")
FULL = Meaning(503, "model_unavailable", "model_unavailable")
LIMITED = Meaning(429, "backend_busy", "backend_busy")
BROKEN = Meaning(502, "backend_error", "backend_error")
CALLER = Meaning(400, "invalid_value", None)
TOO_LONG = Meaning(400, "context_length_exceeded", None)
TOO_LARGE = Meaning(413, "body_too_large", None)
UNSUPPORTED = Meaning(400, "unsupported_parameter", None)


class Told(NamedTuple):
    refusal: Refusal
    meaning: Meaning
    wait_s: int = 0
    """For how long it asks not to be asked."""


def _told(status: int, body: Any, meaning: Meaning, *headers: tuple[str, str], wait_s: int = 0) -> Told:
    return Told(Refusal(status, orjson.dumps(body), headers), meaning, wait_s)


def _openai(
    status: int, meaning: Meaning, message: str, *headers: tuple[str, str], wait_s: int = 0, **more: Any
) -> Told:
    return _told(status, {"error": {"message": message, **more}}, meaning, *headers, wait_s=wait_s)


def _cohere(status: int, message: str, meaning: Meaning) -> Told:
    return _told(status, {"id": ACCOUNT, "message": message}, meaning)


def _cloudflare(status: int, code: int, meaning: Meaning) -> Told:
    told = [{"message": f"AiError: {ACCOUNT} was refused", "code": code}]
    return _told(status, {"errors": told, "success": False, "result": {}, "messages": []}, meaning)


def _ollama(status: int, kind: str, message: str, meaning: Meaning) -> Told:
    return _openai(status, meaning, message, type=kind, param=None, code=None)


def _mistral(status: int, message: Any, meaning: Meaning, code: str | None = None) -> Told:
    told = {"object": "error", "message": message, "type": "invalid_request_error", "param": None, "code": code}
    return _told(status, told, meaning, ("mistral-correlation-id", ACCOUNT))


def _moonshot(status: int, kind: str, meaning: Meaning) -> Told:
    """Never with a code."""
    return _openai(status, meaning, f"{kind} of {ACCOUNT}", type=kind)


def _google(status: int, word: str, meaning: Meaning, *details: dict[str, Any], wait_s: int = 0) -> Told:
    told = {"code": status, "message": f"{word} for {ACCOUNT}", "status": word, "details": [*details]}
    return _told(status, [{"error": told}], meaning, wait_s=wait_s)


_INVALID = "invalid_request_error"
_FAULTS = [{"loc": ["body", "user"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}]
_RPC = "type.googleapis.com/google.rpc"
_RETRY = {"@type": f"{_RPC}.RetryInfo", "retryDelay": "34.4s"}
_QUOTA = {"@type": f"{_RPC}.QuotaFailure", "violations": [{"quotaMetric": ACCOUNT}]}
_BAD_KEY = {"@type": f"{_RPC}.ErrorInfo", "reason": "API_KEY_INVALID", "metadata": {"service": ACCOUNT}}
_PASSED_ON = '400 {"error":{"type":"invalid_request_error","message":"Your credit balance is too low."}}'
_ANTHROPIC = [
    Told(OVERLOADED, FULL),
    Told(NO_CREDIT, MONEY),
    Told(error(402, "billing_error", f"credit of {ACCOUNT} is too low"), MONEY),
    Told(error(401, "authentication_error", "invalid x-api-key"), KEY),
    Told(error(403, "permission_error", f"not for {ACCOUNT}"), ACCESS),
    Told(error(404, "not_found_error", "model: m-1"), MODEL),
    Told(error(413, "request_too_large", "Request exceeds the maximum size"), TOO_LARGE),
    Told(error(429, "rate_limit_error", "too many", ("retry-after", "7")), LIMITED, 7),
    Told(error(500, "api_error", "Internal server error"), BROKEN),
    Told(error(504, "timeout_error", "took too long"), BROKEN),
    Told(error(200, "billing_error", f"credit of {ACCOUNT} is too low"), MONEY),
    Told(error(200, "overloaded_error", "Overloaded"), FULL),
    *(
        _told(200, told, meaning)
        for words, meaning in (
            ("Your credit balance is too low to access the Anthropic API.", MONEY),
            ("400 Your credit balance is too low to access the Anthropic API.", MONEY),
            ("HTTP 400: You have reached your specified API usage limits.", MONEY),
            ("Error code: 402 - no more of it", MONEY),
            (_PASSED_ON, MONEY),
            ('529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', FULL),
            ("429 too many", LIMITED),
            ("prompt is too long: 9 tokens > 8 maximum", TOO_LONG),
            ("4000 Your credit balance is too low", BROKEN),
            ("Someone said: Your credit balance is too low", BROKEN),
        )
        for told in ({"type": "error", "error": {"message": words}}, {"error": words})
    ),
]

TOLD: dict[type[Generic], list[Told]] = {
    OpenAi: [
        _openai(400, UNSUPPORTED, "Unsupported value", param="stop", type=_INVALID, code="unsupported_parameter"),
        _openai(400, TOO_LONG, "too long", param="messages", type=_INVALID, code="context_length_exceeded"),
        _openai(200, TOO_LONG, "too long", param="messages", type=_INVALID, code="context_length_exceeded"),
        _told(200, {"detail": "This model's maximum context length is 8 tokens."}, TOO_LONG),
        _openai(500, TOO_LONG, "Prompt is too long: 9 > 8", type="server_error", param=None, code=None),
        _openai(503, FULL, "maximum context length", type="server_error", param=None, code=None),
        _openai(200, KEY, f"401 Incorrect API key provided: {ACCOUNT}", type=_INVALID, code="invalid_api_key"),
        _openai(200, BROKEN, f"Incorrect API key provided: {ACCOUNT}", type=_INVALID, code="invalid_api_key"),
        _openai(401, KEY, f"Incorrect API key provided: {ACCOUNT}", type=_INVALID, code="invalid_api_key"),
        _openai(404, MODEL, "The model does not exist", type=_INVALID, code="model_not_found"),
        _openai(429, MONEY, f"quota of {ACCOUNT}", type="insufficient_quota", param=None, code="insufficient_quota"),
        _openai(
            429, LIMITED, f"Rate limit reached for {ACCOUNT}", ("retry-after", "2"), ("retry-after-ms", "1200"),
            wait_s=2, type="tokens", code="rate_limit_exceeded",
        ),
        _openai(500, BROKEN, "The server had an error", type="server_error", param=None, code=None),
        _openai(503, FULL, "The engine is overloaded", type="server_error", param=None, code=None),
    ],
    Anthropic: _ANTHROPIC,
    AnthropicChat: _ANTHROPIC,
    Cohere: [
        _cohere(400, "invalid request: `stop` is odd", CALLER),
        _cohere(400, "too many tokens: the limit is 8000", TOO_LONG),
        _cohere(401, "invalid api token", KEY),
        _cohere(402, "Please add or update your payment method", MONEY),
        _cohere(404, "model 'm-1' not found", MODEL),
        _cohere(422, "invalid schema", CALLER),
        _cohere(429, "trial token rate limit exceeded", LIMITED),
        _cohere(498, "invalid token", ACCESS),
        _cohere(499, "request cancelled", BROKEN),
        _cohere(500, "internal server error", BROKEN),
        _cohere(503, "unavailable", FULL),
    ],
    Groq: [
        _openai(
            400, CALLER, "Failed to call a function.", type=_INVALID, code="tool_use_failed",
            failed_generation="<function=a",
        ),
        _openai(400, MODEL, "m-1 has been decommissioned", type=_INVALID, code="model_decommissioned"),
        _openai(404, MODEL, "m-1 does not exist", type=_INVALID, code="model_not_found"),
        _openai(413, LIMITED, f"Request too large in {ACCOUNT} on TPM", type="tokens", code="rate_limit_exceeded"),
        _openai(413, TOO_LARGE, "Request Entity Too Large", type=_INVALID),
        _openai(
            429, LIMITED, f"Rate limit reached in organization {ACCOUNT}", ("retry-after", "179"),
            ("x-ratelimit-reset-requests", "2m59.56s"), ("x-ratelimit-limit-requests", "14400"), wait_s=179,
            type="requests", code="rate_limit_exceeded",
        ),
        _openai(498, FULL, "Flex tier capacity exceeded", type="capacity", code="capacity_exceeded"),
        _openai(499, BROKEN, "cancelled", type="request_error"),
        _openai(502, BROKEN, "bad gateway", type="api_error"),
    ],
    Cloudflare: [
        _cloudflare(400, 5007, CALLER),
        _cloudflare(400, 5004, CALLER),
        _cloudflare(403, 5035, ACCESS),
        _cloudflare(403, 5016, ACCESS),
        _cloudflare(408, 3007, BROKEN),
        _cloudflare(413, 3006, TOO_LARGE),
        _cloudflare(429, 3036, MONEY),
        _cloudflare(429, 4006, MONEY),
        _cloudflare(429, 3040, FULL),
        _cloudflare(503, 3050, FULL),
        _cloudflare(200, 4006, MONEY),
        _cloudflare(200, 3040, FULL),
        _cloudflare(200, 5007, BROKEN),
        Told(Refusal(200, b'{"errors":[{"message":"AiError: full","code":3040}]}'), FULL),
    ],
    Ollama: [
        Told(Refusal(403, b""), ACCESS),
        _ollama(400, "invalid_request_error", "[] is too short - 'messages'", CALLER),
        _ollama(404, "not_found_error", "model 'm-1' not found", MODEL),
        _ollama(500, "api_error", "llama runner process has terminated", BROKEN),
        _ollama(502, "api_error", "cloud is not reachable", BROKEN),
        _ollama(503, "api_error", "server busy, please try again", FULL),
    ],
    DeepSeek: [
        Told(DeepSeek.money, MONEY),
        _openai(
            400, CALLER, "odd `stop`", ("content-type", "application/octet-stream"), type=_INVALID, param=None,
            code=_INVALID,
        ),
        _openai(401, KEY, f"Authentication Fails, {ACCOUNT}", type="authentication_error", code=_INVALID),
        _openai(422, CALLER, "Invalid parameters", type=_INVALID),
        _openai(429, LIMITED, "too many at a time", type="rate_limit_error"),
        _openai(500, BROKEN, "Server error", type="server_error"),
        _openai(503, FULL, "Server overloaded", type="server_error"),
    ],
    Mistral: [
        _mistral(400, "Invalid model: m-1", MODEL, "invalid_model"),
        _mistral(401, "Unauthorized", KEY),
        _mistral(402, f"no money in {ACCOUNT}", MONEY),
        _mistral(403, "not in your tier", ACCESS),
        _mistral(422, {"detail": _FAULTS}, CALLER),
        _told(422, {"detail": _FAULTS}, CALLER),
        _mistral(429, "Requests rate limit exceeded", LIMITED, "1300"),
        _mistral(500, "Service unavailable.", BROKEN),
        _mistral(504, "timed out", BROKEN),
    ],
    Moonshot: [
        _moonshot(400, "invalid_request_error", CALLER),
        _moonshot(401, "incorrect_api_key_error", KEY),
        _moonshot(403, "permission_denied_error", ACCESS),
        _moonshot(404, "resource_not_found_error", MODEL),
        _moonshot(429, "engine_overloaded_error", FULL),
        _moonshot(429, "rate_limit_reached_error", LIMITED),
        _moonshot(429, "exceeded_current_quota_error", MONEY),
    ],
    Google: [
        _google(400, "INVALID_ARGUMENT", CALLER),
        _google(400, "INVALID_ARGUMENT", KEY._replace(failed_as="provider_access"), _BAD_KEY),
        _google(403, "PERMISSION_DENIED", ACCESS),
        _google(404, "NOT_FOUND", MODEL),
        _google(429, "RESOURCE_EXHAUSTED", LIMITED, _QUOTA, _RETRY, wait_s=35),
        _google(500, "INTERNAL", BROKEN),
        _google(503, "UNAVAILABLE", FULL),
    ],
    Generic: [
        Told(Refusal(502, b"<html>Bad Gateway</html>", (("content-type", "text/html"),)), BROKEN),
        Told(Refusal(429, b""), LIMITED),
        Told(Refusal(400, b"\xff\xfe"), CALLER),
    ],
    OddLines: [_told(500, "plain words", BROKEN), _told(400, {"error": "a text"}, CALLER)],
}  # fmt: skip
