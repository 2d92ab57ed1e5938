"""The demo in the place of a server: it answers the gateway's requests without a connection.

`demo/echo` answers at once, `demo/paced` takes its time. Nothing of a request is kept or logged.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, NamedTuple

import orjson

from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.upstream.demo import messages, texts, vectors, wire
from mcp_gateway.core.upstream.demo.body import (
    MAX_CHOICES,
    MAX_OUTPUT_TOKENS,
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    EmbeddingBody,
    RerankBody,
    SamplingBody,
    ScoreBody,
    TokenizeBody,
    VllmRefusal,
    check_completion,
    check_messages,
    check_ranges,
    check_shape,
    output_limit,
    parsed,
    refused,
    texts_of,
    unparsable,
)
from mcp_gateway.core.upstream.demo.reply import DemoReply, Step, replies_to, replies_to_prompts, steps
from mcp_gateway.core.upstream.demo.responses import ResponsesRequest, Telling, chat_of
from mcp_gateway.core.upstream.demo.tokens import id_of, prompt_tokens, text_of, token_of, tokens_of
from mcp_gateway.core.upstream.transport import Keep, Patience

_CREATED_AT_S = 1_767_225_600  # a constant, so that lists of models stay the same
_JSON = b"application/json"
_EVENTS = b"text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a model takes, in seconds: for its first token, and for each one after."""

    first_token_s: float = 0.0
    token_s: float = 0.0

    @property
    def tokens_at_once(self) -> int:
        """How many tokens of a long answer leave together: each event costs, and without a pace none is waited for."""
        return 1 if self.token_s else 8

    def due_s(self, tokens: int) -> float:
        """When so many tokens are there, in seconds after the request."""
        return self.first_token_s + (tokens - 1) * self.token_s if tokens else 0.0


PACES = {"demo/echo": Pace(), "demo/paced": Pace(first_token_s=0.2, token_s=0.02)}
"""The models by name; the first answers where a request names none."""

Sleep = Callable[[float], Awaitable[object]]
_Headers = dict[bytes, bytes]


class _Form(NamedTuple):
    """How a chat's answer is written: whole, and as events."""

    completion: Callable[[wire.Head, Sequence[DemoReply], Sequence[Sequence[Step]]], bytes]
    events: Callable[[wire.Head, Sequence[Iterator[Step]]], Iterator[tuple[int, bytes]]]


_CHAT = _Form(wire.completion, wire.events)
_MESSAGES = _Form(messages.completion, messages.events)


class DemoResponse:
    """An answer of the demo; the same members as a transport's."""

    __slots__ = ("_headers", "_parts", "_sleep", "status")

    def __init__(self, status: int, headers: _Headers, parts: Iterable[tuple[float, bytes]], sleep: Sleep) -> None:
        """`parts` are the pieces of the body, each with the seconds to wait before it."""
        self.status = status
        self._headers = headers
        self._parts: Iterator[tuple[float, bytes]] = iter(parts)
        self._sleep = sleep

    def header(self, name: bytes) -> bytes | None:
        """The value of a header by its lower-case name."""
        return self._headers.get(name)

    async def read(self, keep: Keep | None = None) -> bytes:
        """The whole (rest of the) body, which is small."""
        pieces = []
        while piece := await self.next_chunk():
            pieces.append(piece)
        return b"".join(pieces)

    async def next_chunk(self) -> bytes:
        """The next event, or the body of an answer that is no stream; b"" at the end."""
        delay_s, data = next(self._parts, (0.0, b""))
        await self._sleep(delay_s)
        return data

    def doubt(self) -> None:
        """There is no connection."""

    def discard(self) -> None:
        self.close()

    def close(self) -> None:
        """Leave; what was not read is never made."""
        self._parts = iter(())


class DemoBackend:
    """Two models that echo, behind the paths that the gateway asks a backend for."""

    name = "demo"

    def __init__(
        self,
        *,
        now_s: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
        context_window: int = 8192,
    ) -> None:
        """`context_window` is in tokens of the demo's own, each of at least one byte."""
        self._now_s = now_s
        self._sleep = sleep
        self._context_window = context_window
        self._request_numbers = count(1)
        self._routes: dict[str, tuple[str, Callable[[_Headers, bytes], Awaitable[DemoResponse]]]] = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._complete),
            "/v1/embeddings": ("POST", self._embed),
            "/v1/rerank": ("POST", self._rerank),
            "/score": ("POST", self._score),
            "/v1/messages": ("POST", self._messages),
            "/v1/responses": ("POST", self._responses),
            "/v1/messages/count_tokens": ("POST", self._count_message),
            "/v1/models": ("GET", self._models),
            "/tokenize": ("POST", self._tokenize),
            "/detokenize": ("POST", self._detokenize),
        }

    def __repr__(self) -> str:
        return f"<DemoBackend {', '.join(PACES)}>"

    def models(self) -> list[dict[str, Any]]:
        """The rows of /v1/models."""
        return [self._model_row(name) for name in PACES]

    async def request(
        self,
        method: str,
        path: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes = b"",
        *,
        is_stream: bool = False,
        patience: Patience | None = None,
    ) -> DemoResponse:
        """Answer a request as vLLM would; raises nothing."""
        allowed, answer = self._routes.get(path, ("", None))
        if answer is None:
            return self._json(404, {"detail": "Not Found"})
        if method != allowed:
            return self._json(405, {"detail": "Method Not Allowed"}, {b"allow": allowed.encode()})
        try:
            return await answer({name.lower(): value for name, value in headers}, body)
        except VllmRefusal as refusal:
            return self._json(refusal.status, refusal.body)
        except RecursionError:
            return self._json(400, unparsable().body)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _chat(self, headers: _Headers, raw: bytes) -> DemoResponse:
        return await self._answer(headers, parsed(ChatBody, raw, headers.get(b"content-type", b"")), _CHAT)

    async def _messages(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(messages.MessagesBody, raw, headers.get(b"content-type", b""))
        return await self._answer(headers, body.as_chat(), _MESSAGES)

    async def _answer(self, headers: _Headers, body: ChatBody, form: _Form) -> DemoResponse:
        model, prompt_size, max_tokens = await self._checked(body)
        head = wire.Head(self._answer_id(headers, body), int(self._now_s()), model, prompt_size, body)
        replies = replies_to(body, head.id)
        pace = PACES[model]
        if body.stream:
            told = [steps(reply, body, max_tokens, pace.tokens_at_once) for reply in replies]
            events = form.events(head, told)
            return DemoResponse(200, {b"content-type": _EVENTS}, _paced(events, pace), self._sleep)
        taken = [list(steps(reply, body, max_tokens)) for reply in replies]
        await self._sleep(pace.due_s(max(choice[-1].completion_tokens for choice in taken)))
        return self._body(200, form.completion(head, replies, taken))

    async def _complete(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(CompletionBody, raw, headers.get(b"content-type", b""))
        await _let_others_run()
        check_completion(body)
        model = _model_named(body.model)
        if len(body.prompts) * body.choices > MAX_CHOICES:
            raise refused(f"n must be at most {MAX_CHOICES}, got {len(body.prompts) * body.choices}.")
        sizes = [self._size_of(prompt, body) for prompt in body.prompts]
        max_tokens = min(output_limit(body, max(sizes), self._context_window), MAX_OUTPUT_TOKENS)
        check_ranges(body)
        await _let_others_run()
        replies = replies_to_prompts(body)
        head = texts.TextHead(self._answer_id(headers, body, "cmpl"), int(self._now_s()), model, sizes, body)
        limit = max(1, min(max_tokens, MAX_OUTPUT_TOKENS // len(replies)))
        pace = PACES[model]
        if body.stream:
            told = [steps(reply, body, limit, pace.tokens_at_once) for reply in replies]
            events = texts.events(head, told)
            return DemoResponse(200, {b"content-type": _EVENTS}, _paced(events, pace), self._sleep)
        taken = [list(steps(reply, body, limit)) for reply in replies]
        await self._sleep(pace.due_s(max(choice[-1].completion_tokens for choice in taken)))
        return self._body(200, texts.completion(head, taken))

    async def _embed(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(EmbeddingBody, raw, headers.get(b"content-type", b""))
        await _let_others_run()
        model, dimensions = _model_named(body.model), body.dimensions or vectors.DIMENSIONS
        if dimensions > vectors.DIMENSIONS:
            raise refused(f"dimensions must be at most {vectors.DIMENSIONS}, got {dimensions}.", param="dimensions")
        texts_in = texts_of(body.input) if body.messages is None else [text_of(one.content) for one in body.messages]
        if not texts_in:
            raise refused("You must pass at least one prompt")
        as_base64, used = body.encoding_format == "base64", self._usage_of(texts_in)
        answer = {
            "id": self._answer_id(headers, SamplingBody(), "embd"),
            "object": "list",
            "created": int(self._now_s()),
            "model": model,
            "data": [
                vectors.embedding(index, text, dimensions, as_base64=as_base64) for index, text in enumerate(texts_in)
            ],
            "usage": used,
        }
        return self._json(200, answer)

    async def _rerank(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(RerankBody, raw, headers.get(b"content-type", b""))
        model, used = _model_named(body.model), self._usage_of([body.query, *body.documents])
        scores = [vectors.likeness(body.query, text) for text in body.documents]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n or None]
        results = [
            {
                "index": index,
                "document": {"text": body.documents[index], "multi_modal": None},
                "relevance_score": scores[index],
            }
            for index in order
        ]
        answer_id = self._answer_id(headers, SamplingBody(), "score")
        return self._json(200, {"id": answer_id, "model": model, "usage": used, "results": results})

    async def _score(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(ScoreBody, raw, headers.get(b"content-type", b""))
        model = _model_named(body.model)
        left, right = texts_of(body.text_1), texts_of(body.text_2)
        pairs = zip(left if len(left) > 1 else left * len(right), right, strict=True)
        rows = [
            {"index": index, "object": "score", "score": vectors.likeness(one, other)}
            for index, (one, other) in enumerate(pairs)
        ]
        answer = {"id": self._answer_id(headers, SamplingBody(), "score"), "object": "list"}
        told = {"created": int(self._now_s()), "model": model, "data": rows, "usage": self._usage_of([*left, *right])}
        return self._json(200, {**answer, **told})

    def _usage_of(self, inputs: Sequence[str]) -> dict[str, Any]:
        """What texts have that are read and not gone on with. Raises VllmRefusal where one exceeds the window."""
        sizes = [len(self._to_the_window(tokens_of(text))) for text in inputs]
        output_limit(CompletionBody(prompt="", max_tokens=None), max(sizes), self._context_window)
        return {**texts.usage(sum(sizes), 0), "prompt_tokens_details": None, "completion_tokens_details": None}

    def _size_of(self, prompt: str, body: CompletionBody) -> int:
        size = len(self._to_the_window(tokens_of(prompt)))
        return self._truncated(size, body)

    async def _responses(self, headers: _Headers, raw: bytes) -> DemoResponse:
        asked = parsed(ResponsesRequest, raw, headers.get(b"content-type", b""))
        fields = asked.model_dump(exclude_unset=True)
        body = parsed(ChatBody, dump_json(chat_of(fields)), _JSON)
        model, prompt_size, max_tokens = await self._checked(body)
        answer_id = asked.request_id or f"resp_{next(self._request_numbers):016x}"
        telling = Telling(answer_id, int(self._now_s()), model, prompt_size, fields)
        (reply,), pace = replies_to(body, answer_id), PACES[model]
        if asked.stream:
            events = telling.events(steps(reply, body, max_tokens, pace.tokens_at_once))
            return DemoResponse(200, {b"content-type": _EVENTS}, _paced(events, pace), self._sleep)
        tokens = max(tokens for tokens, _ in telling.events(steps(reply, body, max_tokens)))
        await self._sleep(pace.due_s(tokens))
        return self._body(200, dump_json(telling.response))

    async def _checked(self, body: ChatBody) -> tuple[str, int, int]:
        """The model, the tokens of the prompt, and how many the answer may have. Raises VllmRefusal."""
        await _let_others_run()
        check_shape(body)
        model = _model_named(body.model)
        check_messages(body.messages)
        prompt_size = self._prompt_size(body)
        max_tokens = output_limit(body, prompt_size, self._context_window)
        check_ranges(body)
        await _let_others_run()
        return model, prompt_size, min(max_tokens, MAX_OUTPUT_TOKENS // body.choices)

    async def _models(self, _headers: _Headers, _raw: bytes) -> DemoResponse:
        return self._json(200, {"object": "list", "data": self.models()})

    async def _count_message(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(messages.CountedMessages, raw, headers.get(b"content-type", b"")).as_chat()
        _model_named(body.model)
        count = self._prompt_size(body)
        return self._json(200, {"input_tokens": count, "context_management": {"original_input_tokens": count}})

    async def _tokenize(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(TokenizeBody, raw, headers.get(b"content-type", b""))
        _model_named(body.model)
        if body.messages is None:
            found = tokens_of(body.prompt or "")
        else:
            check_messages(body.messages)
            found = prompt_tokens(body.messages, _dumped(body.tools))
        tokens = self._to_the_window(found)
        answer = {
            "count": len(tokens),
            "max_model_len": self._context_window,
            "tokens": [id_of(token) for token in tokens],
            "token_strs": tokens if body.return_token_strs else None,
        }
        return self._json(200, answer)

    async def _detokenize(self, headers: _Headers, raw: bytes) -> DemoResponse:
        body = parsed(DetokenizeBody, raw, headers.get(b"content-type", b""))
        _model_named(body.model)
        tokens = [(number, token_of(number)) for number in body.tokens]
        if unknown := [number for number, token in tokens if token is None]:
            raise refused(f"Token id {unknown[0]} is out of vocabulary", param="tokens")
        return self._json(200, {"prompt": "".join(token for _, token in tokens if token is not None)})

    def _prompt_size(self, body: ChatBody) -> int:
        return self._truncated(len(self._to_the_window(prompt_tokens(body.messages, _dumped(body.tools)))), body)

    def _truncated(self, size: int, body: SamplingBody) -> int:
        cut = body.truncate_prompt_tokens
        return size if cut is None else min(size, self._context_window - 1 if cut == -1 else cut)

    def _to_the_window(self, tokens: Iterator[str]) -> list[str]:
        """The tokens up to one above the window: a huge prompt costs no more than a full one."""
        return list(islice(tokens, self._context_window + 1))

    def _answer_id(self, headers: _Headers, body: SamplingBody, kind: str = "chatcmpl") -> str:
        given = headers.get(b"x-request-id", b"").decode("latin-1") or body.request_id
        return f"{kind}-{given or format(next(self._request_numbers), '016x')}"

    def _model_row(self, name: str) -> dict[str, Any]:
        permission = {
            "id": "modelperm-demo",
            "object": "model_permission",
            "created": _CREATED_AT_S,
            "allow_create_engine": False,
            "allow_sampling": True,
            "allow_logprobs": True,
            "allow_search_indices": False,
            "allow_view": True,
            "allow_fine_tuning": False,
            "organization": "*",
            "group": None,
            "is_blocking": False,
        }
        return {
            "id": name,
            "object": "model",
            "created": _CREATED_AT_S,
            "owned_by": "demo",
            "root": name,
            "parent": None,
            "max_model_len": self._context_window,
            "permission": [permission],
        }

    def _json(self, status: int, value: Any, headers: _Headers | None = None) -> DemoResponse:
        return self._body(status, orjson.dumps(value), headers)

    def _body(self, status: int, body: bytes, headers: _Headers | None = None) -> DemoResponse:
        sent = {b"content-type": _JSON, b"content-length": str(len(body)).encode(), **(headers or {})}
        return DemoResponse(status, sent, [(0.0, body)], self._sleep)


def _paced(events: Iterable[tuple[int, bytes]], pace: Pace) -> Iterator[tuple[float, bytes]]:
    passed_s = 0.0
    for tokens, event in events:
        due_s = pace.due_s(tokens)
        yield due_s - passed_s, event
        passed_s = due_s


async def _let_others_run() -> None:
    """A turn of the loop for everybody else, between two pieces of work that each take milliseconds."""
    await asyncio.sleep(0)


def _model_named(asked: str | None) -> str:
    """The model asked for, or the first where none is. Raises VllmRefusal."""
    if asked and asked not in PACES:
        known = ", ".join(PACES)
        told = f"The model `{asked}` does not exist. Valid aliases: {known}."
        raise refused(told, kind="NotFoundError", param="model", status=404)
    return asked or next(iter(PACES))


def _dumped(tools: Sequence[Any] | None) -> list[Any] | None:
    return [tool.model_dump(exclude_unset=True) for tool in tools] if tools else None
