"""A double of Google's own API, which is no surface of the gateway's: models in the path, its key in a header."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import orjson

from tests.providers.doubles import ACCOUNT, KEY, OUTPUT, PROMPT, TEXT
from tests.providers.native import Heard, Native, native

PATHS = [f"POST /*/models/*:{method}" for method in ("generateContent", "streamGenerateContent", "countTokens")]
SIGNATURE = "c2lnbmVk"
_USAGE = {"promptTokenCount": PROMPT, "candidatesTokenCount": OUTPUT, "totalTokenCount": PROMPT + OUTPUT}


@contextlib.asynccontextmanager
async def google_native() -> AsyncIterator[Native]:
    """Serve it on a free port of this machine."""
    async with native() as server:
        server.answer = _answer
        yield server


def google_settings(server: Native, **more: Any) -> dict[str, Any]:
    """Its entry in `[[providers]]`."""
    given = {"name": "google", "kind": "google", "base_url": f"{server.url}/v1beta/openai", "api_key_env": "DOUBLE_KEY"}
    return given | {"proxy": True} | more


def _answer(heard: Heard) -> tuple[bytes, ...]:
    path, _, query = heard.target.partition("?")
    if heard.header("x-goog-api-key") != KEY or heard.header("authorization") is not None:
        return _refusal(400, "API key not valid.", "INVALID_ARGUMENT", reason="API_KEY_INVALID")
    version, _, named = path.removeprefix("/").partition("/models/")
    model, _, method = named.partition(":")
    if version not in ("v1", "v1beta") or model != "m-1":
        return _refusal(404, f"models/{model} is not found for {ACCOUNT}", "NOT_FOUND")
    body = orjson.loads(heard.body)
    if "contents" not in body:
        return _refusal(400, "contents is not specified", "INVALID_ARGUMENT")
    if method == "countTokens":
        return (_json({"totalTokens": PROMPT}),)
    chunks = _chunks(body)
    if method == "generateContent":
        parts = [part for chunk in chunks for part in chunk["candidates"][0]["content"]["parts"]]
        return (_json(_chunk(parts, "STOP") | {"usageMetadata": _USAGE}),)
    assert query == "alt=sse"
    events = (b"data: %b\r\n\r\n" % orjson.dumps(chunk) for chunk in chunks)
    return (_HEAD, *(b"%x\r\n%b\r\n" % (len(event), event) for event in events), b"0\r\n\r\n")


def _chunks(body: dict[str, Any]) -> list[dict[str, Any]]:
    has_result = any("functionResponse" in part for part in body["contents"][-1]["parts"])
    if body.get("tools") and not has_result:
        call = {"functionCall": {"name": "get_weather", "args": {"city": "Paris"}}, "thoughtSignature": SIGNATURE}
        return [_chunk([call], "STOP") | {"usageMetadata": _USAGE}]
    texts = [_chunk([{"text": text}]) for text in TEXT]
    return [*texts, _chunk([], "STOP") | {"usageMetadata": _USAGE}]


def _chunk(parts: list[dict[str, Any]], reason: str | None = None) -> dict[str, Any]:
    candidate = {"index": 0, "content": {"role": "model", "parts": parts}}
    candidate |= {} if reason is None else {"finishReason": reason}
    return {"candidates": [candidate], "modelVersion": "m-1", "responseId": "upstream"}


def _refusal(status: int, message: str, kind: str, *, reason: str = "") -> tuple[bytes]:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}] if reason else []
    return (_json({"error": {"code": status, "message": message, "status": kind, "details": details}}, status),)


def _json(told: Any, status: int = 200) -> bytes:
    body = orjson.dumps(told)
    head = f"HTTP/1.1 {status} Told\r\ncontent-type: application/json; charset=UTF-8\r\nserver: ESF\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
