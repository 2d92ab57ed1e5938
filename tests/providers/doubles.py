"""A double of each known provider: a server on a real socket that refuses and answers as the real one does on the wire.

What each does is read from recorded answers, sources and documentation; none of it is this gateway's idea of them.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from mcp_gateway.core.provider_settings import presets
from tests.listening import streams

KEY = "key-of-the-operator-5f1c"
PROMPT, OUTPUT, CACHED = 35, 12, 8
TEXT = ("Hel", "lo ", "there.")
ARGUMENTS = ('{"city":', '"Paris"}')
ACCOUNT = "org-9aXkQ2operator"
"""What tells whose account it is, which no caller may see."""


@dataclass
class Asked:
    """One request as it was received."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Refusal:
    """Told in place of an answer."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


Stream = list[bytes]
"""The events of a stream, with what stands between them."""


class Form(Protocol):
    """What answers at one path."""

    def refuse(self, body: dict[str, Any]) -> Refusal | None: ...
    def unary(self, body: dict[str, Any]) -> bytes: ...
    def stream(self, body: dict[str, Any]) -> Stream: ...


class Generic:
    """A plain server with OpenAI's API, and odd line ends."""

    kind = "openai"
    path = "/v1"
    auth = "bearer"
    needs: tuple[str, ...] = ()
    key_refusal = Refusal(
        401, b'{"error":{"message":"bad key","type":"invalid_request_error","code":"invalid_api_key"}}'
    )
    money = Refusal(402, b'{"error":{"message":"Insufficient Balance of org-9aXkQ2operator","type":"unknown_error"}}')
    billed = (PROMPT, OUTPUT)
    """What it writes on the operator's bill for an answer."""
    answer_id = "chatcmpl-upstream"
    answers_as = "m-1"
    """The model that it says has answered."""
    stream_type = "text/event-stream"

    def __init__(self, **others: Form) -> None:
        self.others: dict[str, Form] = others
        """What it has beside chats, by the name that its path ends with."""

    def row(self) -> dict[str, Any]:
        """What an operator has to say of it, beside where it is."""
        return {}

    def takes_key(self, headers: dict[str, str]) -> bool:
        return self.auth != "bearer" or headers.get("authorization") == f"Bearer {KEY}"

    def form_at(self, path: str) -> "Form | None":
        """What answers there; None for nothing."""
        below = path.removeprefix(self.path)
        return self if below == "/chat/completions" else self.others.get(below.removeprefix("/"))

    def refuse_head(self, headers: dict[str, str], body: dict[str, Any]) -> Refusal | None:
        """What it refuses for its headers."""
        return None

    def page(self, path: str) -> Any:
        """Its list of models, or the part of it that a query asks for."""
        return self.listing()

    def listing(self) -> Any:
        return {"object": "list", "data": [{"id": "m-1", "object": "model", "owned_by": ACCOUNT}]}

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        return None

    def usage(self) -> dict[str, Any]:
        return {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + OUTPUT}

    def unary(self, body: dict[str, Any]) -> bytes:
        return orjson.dumps(self.answer(body) | {"usage": self.usage()})

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(TEXT)}
        reason = "stop"
        if body.get("tools"):
            call = {"name": "weather", "arguments": "".join(ARGUMENTS)}
            message = {"role": "assistant", "content": None, "tool_calls": [self.call(0) | {"function": call}]}
            reason = "tool_calls"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        return self.head("chat.completion") | {"choices": [choice]}

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.answer_id, "object": kind, "created": 7, "model": self.answers_as}

    def call(self, number: int) -> dict[str, Any]:
        return {"id": f"up_{number}", "type": "function"}

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, **more.pop("choice", {})}
        return self.event(self.head("chat.completion.chunk") | {"choices": [choice]} | more)

    def event(self, value: Any) -> bytes:
        return b"data: %b\n\n" % orjson.dumps(value)

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if body.get("tools"):
            first = self.call(0) | {"index": 0, "function": {"name": "weather", "arguments": ""}}
            rest = [{"index": 0, "function": {"arguments": text}} for text in ARGUMENTS]
            return [{"role": "assistant", "content": None}, *({"tool_calls": [call]} for call in (first, *rest))]
        return [{"role": "assistant", "content": ""}, *({"content": text} for text in TEXT)]

    def reason(self, body: dict[str, Any]) -> str:
        return "tool_calls" if body.get("tools") else "stop"

    def stream(self, body: dict[str, Any]) -> Stream:
        events = [*(self.chunk(delta) for delta in self.deltas(body)), self.chunk({}, self.reason(body))]
        if body.get("stream_options", {}).get("include_usage"):
            events.append(self.event(self.head("chat.completion.chunk") | {"choices": [], "usage": self.usage()}))
        return [*events, b"data: [DONE]\n\n"]


class OddLines(Generic):
    """CRLF, a byte order mark, no blank behind `data:`, and the type of any text."""

    stream_type = "text/plain; charset=utf-8"

    def stream(self, body: dict[str, Any]) -> Stream:
        events = [event.replace(b"data: ", b"data:").replace(b"\n", b"\r\n") for event in super().stream(body)]
        return [b"\xef\xbb\xbf" + events[0], *events[1:]]


class OpenAi(Generic):
    kind = "openai"
    money = Refusal(
        429,
        b'{"error":{"message":"You exceeded your current quota, see https://platform.openai.com/account of '
        b'org-9aXkQ2operator","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}',
    )

    def row(self) -> dict[str, Any]:
        """At another address than its own, `openai` is any server with that API."""
        return presets()["openai"].model_dump(exclude_unset=True, exclude={"base_url", "evidence"})

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        assert body["store"] is False
        assert body["service_tier"] == "default"
        if "max_tokens" in body:  # as of the models that reason
            message = "Unsupported parameter: 'max_tokens' is not supported with this model."
            error = {"message": message, "type": "invalid_request_error", "param": "max_tokens"}
            return Refusal(400, orjson.dumps({"error": error | {"code": "unsupported_parameter"}}))
        return None

    def usage(self) -> dict[str, Any]:
        return super().usage() | {
            "prompt_tokens_details": {"cached_tokens": CACHED, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 3},
        }

    def chunk(self, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        tail = {"service_tier": "standard", "usage": None, "obfuscation": "aXbYc", "system_fingerprint": None}
        return super().chunk(delta | {"refusal": None}, finish_reason, **tail, **more)

    def stream(self, body: dict[str, Any]) -> Stream:
        *events, done = super().stream(body)
        return [*events, self.event({"choices": [], "usage": None, "moderation": {"flagged": False}}), done]


class Cohere(Generic):
    """Whether `stream_options` is refused or ignored is not known, so it can do both."""

    kind = "cohere"
    key_refusal = Refusal(401, b'{"id":"org-9aXkQ2operator","message":"invalid api token"}')
    refuses_stream_options = True
    money = Refusal(402, b'{"message":"billing limit reached"}')

    def listing(self) -> Any:
        return {"models": [{"name": "m-1", "endpoints": ["chat"], "is_deprecated": False}], "next_page_token": ""}

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        unsupported = {"max_completion_tokens", "user", "store", "metadata", "logit_bias", "n", "parallel_tool_calls"}
        unsupported |= {"stream_options"} if self.refuses_stream_options else set()
        if body.keys() & unsupported or body.get("temperature", 0) > 1:
            return Refusal(400, b'{"message":"invalid request: unsupported parameter"}')
        if body.get("response_format", {}).get("type") == "json_schema":
            return Refusal(400, b'{"message":"invalid request: response_format must be json_object with schema"}')
        return None

    def stream(self, body: dict[str, Any]) -> Stream:
        *events, done = super().stream(body)
        return [*events[:-1], self.chunk({}, self.reason(body), usage=self.usage()), done]


class Groq(Generic):
    kind = "groq"
    path = "/openai/v1"
    key_refusal = Refusal(
        401, b'{"error":{"message":"Invalid API Key","type":"invalid_request_error","code":"invalid_api_key"}}'
    )

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        names = {"logprobs", "logit_bias", "top_logprobs"} & body.keys()
        if names or body.get("n", 1) != 1 or any("name" in message for message in body["messages"]):
            return Refusal(400, b'{"error":{"message":"property is unsupported","type":"invalid_request_error"}}')
        return None

    def stream(self, body: dict[str, Any]) -> Stream:
        events = [self.chunk(delta) for delta in self.deltas(body)]
        events[0] = self.chunk(self.deltas(body)[0], x_groq={"id": "req_01jbd", "seed": 1})
        last = self.chunk({}, self.reason(body), x_groq={"id": "req_01jbd", "usage": self.usage()}, usage=self.usage())
        return [*events, last, b"data: [DONE]\n\n"]

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if not body.get("tools"):
            thought = {"reasoning": "Hm.", "channel": "analysis"}
            first, *rest = super().deltas(body)
            return [first, thought, *rest]
        call = self.call(0) | {"index": 0, "function": {"name": "weather", "arguments": "".join(ARGUMENTS)}}
        return [{"role": "assistant", "content": None}, {"tool_calls": [call]}]


_BAD_INPUT = Refusal(400, b'{"errors":[{"message":"AiError: bad input","code":5004}],"success":false,"result":{}}')


class Cloudflare(Generic):
    kind = "cloudflare"
    path = "/client/v4/accounts/acc-77/ai/v1"
    needs = ("account_id",)
    key_refusal = Refusal(
        401, b'{"success":false,"errors":[{"code":10000,"message":"Authentication error"}],"result":null}'
    )
    money = Refusal(
        429,
        b'{"errors":[{"message":"AiError: you have used up your daily free allocation","code":4006}],"success":false}',
    )

    def listing(self) -> Any:
        return {"success": True, "errors": [], "messages": [], "result": [{"name": "m-1", "task": {}}]}

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if any(not isinstance(message["content"], str) for message in body["messages"]):
            return _BAD_INPUT
        schema = body.get("response_format", {}).get("json_schema", {})
        return _BAD_INPUT if schema.keys() & {"name", "schema", "strict"} else None

    def stream(self, body: dict[str, Any]) -> Stream:
        growing = self.usage() | {"completion_tokens": 1, "total_tokens": PROMPT + 1}
        if body.get("tools"):
            nothing = {"id": None, "type": None, "function": {"name": None, "arguments": None}}
            over = {"tool_calls": [{"index": 0} | nothing]}
            events = [*(self.chunk(delta) for delta in self.deltas(body)), self.chunk(over)]
        else:
            events = [self.chunk(delta, usage=growing) for delta in self.deltas(body)]
            events.insert(-1, self.chunk({"content": 7}))
        ends = [self.chunk({}, "stop"), self.chunk({"content": ""}, "stop"), self.chunk({}, "stop", usage=self.usage())]
        return [*events, *ends, b"data: [DONE]\n\n", b"data: [DONE]\n\n"]


class Ollama(Generic):
    """Its ids are numbers below 999: the same id for many answers."""

    kind = "ollama"
    auth = "none"
    answer_id = "chatcmpl-998"
    money = Refusal(429, b'{"error":{"message":"slow down","type":"api_error","param":null,"code":null}}')

    def listing(self) -> Any:
        return {"object": "list", "data": None}

    def refuse_head(self, headers: dict[str, str], body: dict[str, Any]) -> Refusal | None:
        """It is asked by a name of its own machine, or refuses without a word."""
        return None if headers["host"].startswith(("127.0.0.1:", "localhost:")) else Refusal(403, b"")

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        """Nothing for a field that it does not know, which it ignores."""
        assert "max_completion_tokens" not in body  # it would be ignored
        if b'"url":"http' in orjson.dumps(body):
            message = "invalid image input"
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
            return Refusal(400, orjson.dumps({"error": error}))
        return None

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if not body.get("tools"):
            return super().deltas(body)
        call = {"id": "call_x", "index": 0, "type": "function"}
        return [{"tool_calls": [call | {"function": {"name": "weather", "arguments": "".join(ARGUMENTS)}}]}]


def without_thought(body: dict[str, Any]) -> Refusal | None:
    """Refuses a turn with calls of tools whose thought did not come back with it."""
    turns = [message for message in body["messages"] if message.get("tool_calls")]
    if all(turn.get("reasoning_content") for turn in turns):
        return None
    message = "The reasoning_content in the thinking mode must be passed back to the API."
    return Refusal(400, orjson.dumps({"error": {"message": message, "type": "invalid_request_error"}}))


class DeepSeek(Generic):
    kind = "deepseek"
    path = ""
    answers_as = "deepseek-v4-flash"
    key_refusal = Refusal(
        401,
        b'{"error":{"message":"Authentication Fails, of org-9aXkQ2operator","type":"authentication_error",'
        b'"param":null,"code":"invalid_request_error"}}',
    )
    money = Refusal(
        402,
        b'{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}',
        (("content-type", "application/octet-stream"),),
    )

    def usage(self) -> dict[str, Any]:
        return super().usage() | {"prompt_cache_hit_tokens": CACHED, "prompt_cache_miss_tokens": PROMPT - CACHED}

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        return without_thought(body)

    def unary(self, body: dict[str, Any]) -> bytes:
        return b"\n\n\n" + super().unary(body)

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(body)
        answer["choices"][0]["message"]["reasoning_content"] = "Hm."
        return answer

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        first, *rest = super().deltas(body)
        return [
            first,
            {"content": None, "reasoning_content": "Hm."},
            *({"reasoning_content": None} | one for one in rest),
        ]

    def stream(self, body: dict[str, Any]) -> Stream:
        events = [self.chunk(delta, usage=None) for delta in self.deltas(body)]
        last = self.chunk({"content": "", "reasoning_content": None}, self.reason(body), usage=self.usage())
        return [b": keep-alive\n\n", b": keep-alive\n\n", *events, last, b"data: [DONE]\n\n"]


class Mistral(Generic):
    kind = "mistral"
    key_refusal = Refusal(
        401, b'{"object":"error","message":"Unauthorized","type":"invalid_request_error","code":null}'
    )

    known = frozenset({
        "model", "messages", "stream", "temperature", "top_p", "max_tokens", "stop", "random_seed", "response_format",
        "tools", "tool_choice", "presence_penalty", "frequency_penalty", "n", "parallel_tool_calls", "metadata",
    })  # fmt: skip

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if unknown := body.keys() - self.known:
            faults = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs"} for name in unknown]
            return Refusal(422, orjson.dumps({"detail": faults}))
        return None

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if body.get("tools"):
            return [{"role": "assistant", "content": ""}]
        thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]
        texts = [{"content": [{"type": "text", "text": text}]} for text in TEXT]
        return [{"role": "assistant", "content": ""}, {"content": thinking}, *texts]

    def stream(self, body: dict[str, Any]) -> Stream:
        call = {"id": "D681PevKs", "function": {"name": "weather", "arguments": "".join(ARGUMENTS)}}
        last = {"content": "", "tool_calls": [call]} if body.get("tools") else {"content": ""}
        events = [self.chunk(delta) for delta in self.deltas(body)]
        return [*events, self.chunk(last, self.reason(body), usage=self.usage()), b"data: [DONE]\n\n"]


class Moonshot(Generic):
    kind = "moonshot"
    key_refusal = Refusal(
        401, b'{"error":{"message":"Invalid Authentication of org-9aXkQ2operator","type":"incorrect_api_key_error"}}'
    )
    money = Refusal(
        429, b'{"error":{"message":"account org-9aXkQ2operator is over quota","type":"exceeded_current_quota_error"}}'
    )

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if b'"url":"http' in orjson.dumps(body):
            return Refusal(400, b'{"error":{"message":"unsupported image url","type":"invalid_request_error"}}')
        for name, is_taken in (("temperature", (None, 1)), ("tool_choice", (None, "auto", "none"))):
            if body["model"].startswith("kimi-") and body.get(name) not in is_taken:
                message = f"invalid {name}: of {ACCOUNT} only another is allowed for this model"
                return Refusal(400, orjson.dumps({"error": {"message": message, "type": "invalid_request_error"}}))
        return without_thought(body)

    def usage(self) -> dict[str, Any]:
        return super().usage() | {"cached_tokens": CACHED}

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().answer(body)
        answer["choices"][0]["message"]["reasoning_content"] = "Hm."
        return answer

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        first, *rest = super().deltas(body)
        return [first, {"reasoning_content": "Hm."}, *rest]

    def stream(self, body: dict[str, Any]) -> Stream:
        *events, done = super().stream(body)
        events[-2] = self.chunk({}, self.reason(body), choice={"usage": self.usage()})
        return [*events, done]


class Google(Generic):
    kind = "google"
    path = "/v1beta/openai"
    key_refusal = Refusal(
        400,
        b'[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":'
        b'"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]',
    )
    billed = (PROMPT, 74)
    money = Refusal(402, b'[{"error":{"code":402,"message":"billing","status":"PAYMENT_REQUIRED"}}]')

    def listing(self) -> Any:
        return {"object": "list", "data": [{"id": "models/m-1", "object": "model", "owned_by": "google"}]}

    def refuse(self, body: dict[str, Any]) -> Refusal | None:
        if unknown := body.keys() & {"store", "metadata", "user", "service_tier"}:
            message = f'Invalid JSON payload received. Unknown name "{min(unknown)}": Cannot find field.'
            return Refusal(
                400, orjson.dumps([{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}])
            )
        calls = [call for message in body["messages"] for call in message.get("tool_calls", ())]
        if any("extra_content" not in call for call in calls):
            return Refusal(400, b'[{"error":{"code":400,"message":"Function call is missing a thought_signature"}}]')
        return None

    def usage(self) -> dict[str, Any]:
        return {"prompt_tokens": PROMPT, "completion_tokens": OUTPUT, "total_tokens": PROMPT + 74}

    def stream(self, body: dict[str, Any]) -> Stream:
        growing = {"prompt_tokens": PROMPT, "completion_tokens": 3, "total_tokens": PROMPT + 40}
        events = [self.chunk(delta, usage=growing) for delta in self.deltas(body)]
        return [*events, self.chunk({}, "stop", usage=self.usage()), b"data: [DONE]\n\n"]

    def deltas(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if not body.get("tools"):
            return super().deltas(body)
        function = {"name": "weather", "arguments": "".join(ARGUMENTS)}
        return [{"role": "assistant", "tool_calls": [self.call(0) | {"function": function, "index": 0}]}]

    def call(self, number: int) -> dict[str, Any]:
        signed = {"google": {"thought_signature": "c2lnbmVk"}}
        return {"id": "", "type": "function", "extra_content": signed}


@dataclass
class Double:
    """One that serves. `refusal` is told in place of answers; `cut_after` ends a stream after so many events."""

    manner: Generic
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    refusal: Refusal | None = None
    cut_after: int | None = None
    amid: bytes = b""
    """Sent where a stream is cut."""
    is_torn: bool = False
    """Whether the connection breaks where a stream is cut; otherwise the answer ends there."""
    goes_on: asyncio.Event | None = None
    """What an answer waits for behind its head, and so many pieces as `pieces_before` says."""
    pieces_before: int = 0
    piece_bytes: int = 0
    """How much of a stream is written at once; 0: all of an event."""

    def settings(self, name: str = "", **more: Any) -> dict[str, Any]:
        """Its entry in `[[providers]]`."""
        given: dict[str, Any] = {"name": name or self.manner.kind, "kind": self.manner.kind}
        given |= {"base_url": self.url + self.manner.path.replace("acc-77", "{account}")}
        given |= {} if self.manner.auth == "none" else {"api_key_env": "DOUBLE_KEY"}
        given |= {"account_id": "acc-77"} if self.manner.needs else {}
        return self.manner.row() | given | more

    async def answer(self, asked: Asked) -> tuple[int, tuple[tuple[str, str], ...], list[bytes]]:
        if not self.manner.takes_key(asked.headers):
            return self._refused(self.manner.key_refusal)
        if asked.method == "GET":
            if "models" not in asked.path:
                return 404, (), [b'{"detail":"Not Found"}']
            return 200, _JSON, [orjson.dumps(self.manner.page(asked.path))]
        if (form := self.manner.form_at(asked.path)) is None:
            return 404, (), [b""]
        self.asked.append(asked)
        refusal = self.refusal or self.manner.refuse_head(asked.headers, asked.body) or form.refuse(asked.body)
        if refusal is not None:
            return self._refused(refusal)
        body = asked.body
        if _has_result(body.get("messages", [{}])[-1]):  # it has what it called for, and calls nothing more
            body = {name: value for name, value in body.items() if name != "tools"}
        if not body.get("stream"):
            return 200, _JSON, [form.unary(body)]
        return 200, (("content-type", self.manner.stream_type), *_WAIT, *_ACCOUNT), self._events(form.stream(body))

    def _refused(self, refusal: Refusal) -> tuple[int, tuple[tuple[str, str], ...], list[bytes]]:
        return refusal.status, (*refusal.headers, *_ACCOUNT), [refusal.body]

    def _events(self, events: Stream) -> list[bytes]:
        if self.cut_after is not None:
            events = [*events[: self.cut_after], self.amid]
        if not self.piece_bytes:
            return events
        whole = b"".join(events)
        return [whole[at : at + self.piece_bytes] for at in range(0, len(whole), self.piece_bytes)]


def _has_result(message: dict[str, Any]) -> bool:
    """Whether it tells what a tool came to, be it as a chat or as a message does."""
    content = message.get("content")
    return message.get("role") == "tool" or (isinstance(content, list) and content[0].get("type") == "tool_result")


_ACCOUNT = (
    ("openai-organization", ACCOUNT),
    ("x-ratelimit-remaining-tokens", "249989"),
    ("request-id", "req_011CaBcD"),
)
_WAIT = (("retry-after", "39"),)
"""Of an answer, which says nothing of limits by it."""
_JSON = (("content-type", "application/json"), *_WAIT, *_ACCOUNT)


@contextlib.asynccontextmanager
async def serving(manner: Generic, *, tls: ssl.SSLContext | None = None, **more: Any) -> AsyncIterator[Double]:
    """Serve one on a free port of this machine."""
    double = Double(manner, **more)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await _serve_one(double, reader, writer)

    async with streams(handle, tls=tls) as port:
        double.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        yield double


async def _serve_one(double: Double, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, path, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    status, told, pieces = await double.answer(Asked(method, path, headers, orjson.loads(raw) if raw else {}))
    lines = [f"HTTP/1.1 {status} Told", *(f"{name}: {value}" for name, value in told), "transfer-encoding: chunked"]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    for number, piece in enumerate(pieces):
        if number == double.pieces_before and double.goes_on is not None:
            await double.goes_on.wait()
        if piece:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
    if double.is_torn:
        raise ConnectionAbortedError
    writer.write(b"0\r\n\r\n")
    await writer.drain()
