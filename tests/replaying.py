"""A backend of ours that speaks like vLLM on a real socket: it answers with what was captured, or what a test scripts.

Each chat takes the next queued answer, or the standing one; everything asked is kept, and a hang-up is noticed.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

import orjson

from tests.captured import Capture, captured
from tests.listening import closed
from tests.patience import PATIENCE_S

DONE = b"data: [DONE]\n\n"
INFERENCE = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/rerank",
    "/v1/responses",
    "/score",
)
COUNTING = {"/tokenize": b"count", "/v1/messages/count_tokens": b"input_tokens", "/detokenize": b"none"}
SHORTEST = [{"role": "user", "content": "a"}]
_EVENTS = "text/event-stream; charset=utf-8"


@dataclass(eq=False)
class Asked:
    """One request that was received; `is_gone` is set when its connection ends, `is_answered` with the last byte.

    `noted` is what the backend's `note` came to as the request arrived.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    transport: asyncio.Transport
    on_sent: Callable[[bytes], None] = lambda _: None
    is_gone: asyncio.Event = field(default_factory=asyncio.Event)
    is_answered: bool = False
    is_ok: bool = False
    noted: Any = None

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def send(self, data: bytes) -> None:
        self.is_ok |= data.startswith(b"HTTP/1.1 200")
        self.on_sent(data)
        self.transport.write(data)

    def start_stream(self) -> None:
        """The head of an event stream, which vLLM sends at once."""
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {_EVENTS}\r\ntransfer-encoding: chunked\r\n\r\n"
        self.send(head.encode())

    def send_event(self, event: bytes) -> None:
        """One event in an HTTP chunk of its own."""
        self.send(b"%x\r\n%b\r\n" % (len(event), event))

    def end_stream(self) -> None:
        self.send(b"0\r\n\r\n")

    async def gone(self) -> None:
        """Return when the gateway has hung up."""
        async with asyncio.timeout(PATIENCE_S):
            await self.is_gone.wait()


Answer = Callable[[Asked], Awaitable[None]]


def whole(body: bytes, status: int = 200, content_type: str = "application/json") -> Answer:
    """An answer with a content length."""

    async def answer(asked: Asked) -> None:
        head = f"HTTP/1.1 {status} x\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        asked.send(head.encode() + body)

    return answer


def events(*frames: bytes) -> Answer:
    """A whole stream, one HTTP chunk an event."""

    async def answer(asked: Asked) -> None:
        asked.start_stream()
        for frame in frames:
            asked.send_event(frame)
        asked.end_stream()

    return answer


def replayed(capture: Capture) -> Answer:
    """The captured answer, streamed if it was a stream."""
    if capture.is_stream:
        return events(*split_events(capture.body))
    return whole(capture.body, capture.status, capture.content_type or "application/json")


def held(until: asyncio.Event, answer: Answer) -> Answer:
    """`answer`, but not a byte of it before the event."""

    async def waiting(asked: Asked) -> None:
        await until.wait()
        await answer(asked)

    return waiting


def in_two(first: Iterable[bytes], until: asyncio.Event, rest: Iterable[bytes]) -> Answer:
    """A stream that waits for the event in its middle."""

    async def answer(asked: Asked) -> None:
        asked.start_stream()
        for frame in first:
            asked.send_event(frame)
        await until.wait()
        for frame in rest:
            asked.send_event(frame)
        asked.end_stream()

    return answer


async def silence(asked: Asked) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def death(asked: Asked) -> None:
    """Close the connection without a byte."""
    asked.transport.abort()


def split_events(stream: bytes) -> list[bytes]:
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event.strip()]


def unary(prompt_tokens: int = 10, completion_tokens: int = 4, content: str = "hello") -> Answer:
    """A chat completion in vLLM's shape with that usage."""
    body = orjson.loads(captured("100_chat").body)
    body["choices"][0]["message"]["content"] = content
    body["usage"] = usage(prompt_tokens, completion_tokens)
    return whole(orjson.dumps(body))


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None,
    }


def chunk(content: str, prompt_tokens: int, completion_tokens: int, finish_reason: str | None = None) -> bytes:
    """One event of a stream with continuous usage."""
    choice = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish_reason}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [choice],
        "usage": usage(prompt_tokens, completion_tokens),
    }
    return b"data: " + orjson.dumps(body) + b"\n\n"


def final_usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    """The event without choices that tells the total."""
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": []}
    return b"data: " + orjson.dumps(body | {"usage": usage(prompt_tokens, completion_tokens)}) + b"\n\n"


def stream(prompt_tokens: int = 10, completion_tokens: int = 4) -> list[bytes]:
    """The events of a whole stream."""
    tokens = [chunk("x", prompt_tokens, number) for number in range(1, completion_tokens)]
    last = chunk("x", prompt_tokens, completion_tokens, "stop")
    return [chunk("", prompt_tokens, 0), *tokens, last, final_usage(prompt_tokens, completion_tokens), DONE]


_COUNTED = re.compile(rb'"(prompt|completion|cached|input|output|cache_read_input)_tokens":\s?(\d+)')


@dataclass
class Counters:
    """What a vLLM counts of its tokens: here, of each answer the usage that it tells, as far as it came."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    finished: int = 0
    choices: int = 0
    began_at_s: float = 1.7952276355744455e09

    def watch(self) -> Callable[[bytes], None]:
        """Counts one answer, whose usages each tell all until then, in any surface's words."""
        told: dict[str, int] = {}

        def counted() -> tuple[int, int, int]:
            read = told.get(
                "cache_read_input", 0
            )  # beside the input's, where all others' cached are within the prompt's
            prompt = told.get("prompt", told.get("input", 0)) + read
            return prompt, told.get("completion", told.get("output", 0)), told.get("cached", read)

        def note(data: bytes) -> None:
            before = counted()
            told.update({name.decode(): int(number) for name, number in _COUNTED.findall(data)})
            prompt, completion, cached = (now - then for now, then in zip(counted(), before, strict=True))
            self.prompt, self.completion, self.cached = (
                self.prompt + prompt, self.completion + completion, self.cached + cached,
            )  # fmt: skip

        return note

    def page(self) -> bytes:
        line = b'vllm:%b{engine="0",%bmodel_name="tiny"} %b\n'
        numbers = {
            b"prompt_tokens_total": self.prompt, b"prompt_tokens_created": self.began_at_s,
            b"prompt_tokens_cached_total": self.cached, b"generation_tokens_total": self.completion,
            b"request_params_n_count": self.finished, b"request_params_n_sum": self.choices,
        }  # fmt: skip
        lines = [line % (name, b"", b"%r" % float(number)) for name, number in numbers.items()]
        return b"".join([*lines, line % (b"request_success_total", b'finished_reason="stop",', b"%d.0" % self.choices)])


class ReplayingBackend:
    """Serves on 127.0.0.1 while entered. `prompt_tokens` is what it counts (None: it fails); `counts` answers instead.

    `running` and `waiting` are its queue gauges (no gauges with None), `tokens` its count of tokens (None: it has
    none), `counters` all that it counts of them (None: nothing); a mute one takes requests and never answers. `note`
    tells what a test wants to know of the moment when a request arrives.
    """

    def __init__(self, *models: str, max_model_len: int | None = 2048) -> None:
        self.models = models or ("tiny",)
        self.max_model_len = max_model_len
        self.prompt_tokens: int | None = 10
        self.counts: Answer | None = None
        self.health_status = 200
        self.lists_models = True
        self.is_mute = False
        self.running: int | None = 0
        self.waiting = 0
        self.tokens: int | None = None
        self.counters: Counters | None = None
        self.note: Callable[[], object] = lambda: None
        self.queue: deque[Answer] = deque()
        self.standing: Answer | None = None
        self.asked: list[Asked] = []
        self.url = ""
        self._port = 0
        self._arrived = asyncio.Condition()
        self.connections: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await closed([self._server], self._drop_connections)

    def die(self) -> None:
        """Stop listening and drop every connection; entered again, it listens where it did."""
        self._server.close()
        self._drop_connections()

    def _drop_connections(self) -> bool:
        """Whether it had some."""
        connections = list(self.connections)
        for connection in connections:
            connection.transport.abort()
        return bool(connections)

    def answer_with(self, *answers: Answer) -> None:
        """Queue answers for the next chats; forgets what was asked before."""
        self.asked.clear()
        self.queue.clear()
        self.queue.extend(answers)

    @property
    def chats(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.path in INFERENCE]

    def asked_at(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    @property
    def templates(self) -> list[Asked]:
        """Questions for what the chat template adds, which are asked once when a model appears."""
        return [asked for asked in self.asked if asked.path == "/tokenize" and asked.json.get("messages") == SHORTEST]

    @property
    def counted(self) -> list[Asked]:
        """Prompts that it was asked to count for a request."""
        return [asked for asked in self.asked if asked.path in COUNTING and asked.json.get("messages") != SHORTEST]

    async def chats_asked(self, count: int) -> list[Asked]:
        """Wait until so many chats have arrived since `answer_with`."""
        async with asyncio.timeout(PATIENCE_S), self._arrived:
            await self._arrived.wait_for(lambda: len(self.chats) >= count)
        return self.chats

    async def answer(self, asked: Asked) -> None:
        asked.noted = self.note()
        self.asked.append(asked)
        async with self._arrived:
            self._arrived.notify_all()
        if self.counters is not None and asked.path in INFERENCE:
            asked.on_sent = self.counters.watch()
        await self._answer_to(asked)(asked)
        asked.is_answered = True
        if self.counters is not None and asked.is_ok and asked.path in INFERENCE:
            self.counters.finished += 1
            self.counters.choices += asked.json.get("n") or 1

    def _answer_to(self, asked: Asked) -> Answer:
        if self.is_mute:
            return silence
        if asked.path == "/v1/models" and not self.lists_models:
            return whole(b"{}", 500)
        if asked.path == "/v1/models":
            rows = [{"id": name, "owned_by": "vllm", "max_model_len": self.max_model_len} for name in self.models]
            return whole(orjson.dumps({"object": "list", "data": rows}))
        if asked.path == "/health":
            return whole(b"", self.health_status)
        if asked.path == "/metrics" and self.running is not None:
            counted = b"" if self.counters is None else self.counters.page()
            page = _gauges(self.running, self.waiting, self.tokens) + counted
            return whole(page, content_type="text/plain")
        if asked.path in COUNTING:
            return self.counts or self._count_as(COUNTING[asked.path])
        if asked.path not in INFERENCE:
            return whole(b'{"detail":"Not Found"}', 404)
        return self._answer_to_chat(asked)

    def _count_as(self, name: bytes) -> Answer:
        return whole(b"{}", 500) if self.prompt_tokens is None else whole(b'{"%b":%d}' % (name, self.prompt_tokens))

    def _answer_to_chat(self, asked: Asked) -> Answer:
        if self.queue:
            return self.queue.popleft()
        if self.standing is not None:
            return self.standing
        return events(*stream()) if asked.json.get("stream") else unary()


class _Connection(asyncio.Protocol):
    """One socket: requests with a content length, one after the other."""

    def __init__(self, backend: ReplayingBackend) -> None:
        self._backend = backend
        self._buffer = b""
        self._asked: Asked | None = None
        self._task: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._backend.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head.lower())
        length = int(found[1]) if found else 0
        if end and len(rest) >= length:
            self._buffer = rest[length:]
            self._asked = _asked(head, rest[:length], self.transport)
            self._task = asyncio.get_running_loop().create_task(self._backend.answer(self._asked))

    def connection_lost(self, error: Exception | None) -> None:
        self._backend.connections.discard(self)
        if self._asked is not None:
            self._asked.is_gone.set()
        if self._task is not None:
            self._task.cancel()


def _gauges(running: int, waiting: int, tokens: int | None) -> bytes:
    """The lines of /metrics that matter."""
    line = b'vllm:%b{engine="0",model_name="tiny"} %d.0\n'
    page = line % (b"num_requests_running", running) + line % (b"num_requests_waiting", waiting)
    return page if tokens is None else page + line % (b"generation_tokens_total", tokens)


def _asked(head: bytes, body: bytes, transport: asyncio.Transport) -> Asked:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Asked(method, path, headers, body, transport)


def contents(stream_bytes: Iterable[bytes]) -> list[Any]:
    """The JSON of each data event, `[DONE]` left out."""
    joined = b"".join(stream_bytes)
    data = [event.removeprefix(b"data:").strip() for event in split_events(joined) if event.startswith(b"data:")]
    return [orjson.loads(piece) for piece in data if piece != b"[DONE]"]
