"""A vLLM-shaped upstream that costs almost nothing, so that a benchmark measures the gateway.

    python benchmarks/mock_vllm.py PORT

The model named in the request chooses the pace: `burst` answers at once (a stream sends its frames back to back);
`paced` brings its first token after 0.2 s and then one every 20 ms, like a busy GPU; `brief` has its answer, in one
piece, after 20 ms. Messages and responses are only streamed, in the same words as a chat.
"""

import asyncio
import re
import sys
from collections.abc import Iterator
from typing import cast

import orjson
import uvloop

TOKENS, PROMPT_TOKENS = 64, 12
WORDS = [f"tok{number} " for number in range(TOKENS)]
FIRST_TOKEN_S, TOKEN_S = 0.2, 0.02
END = b"0\r\n\r\n"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + tokens, "completion_tokens": tokens}


def answer(model: str) -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    body = {"id": "chatcmpl-mock", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return whole(orjson.dumps(body | {"usage": usage(TOKENS)}))


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chat_frames(model: str) -> list[bytes]:
    def chunk(choices: list[dict[str, object]], tokens: int) -> bytes:
        body = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": model}
        return chunked(b"data: " + orjson.dumps(body | {"choices": choices, "usage": usage(tokens)}) + b"\n\n")

    def token(number: int) -> bytes:
        delta = {"content": WORDS[number - 1]} if number else {"role": "assistant", "content": ""}
        finish = "length" if number == TOKENS else None
        return chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], number)

    return [*(token(number) for number in range(TOKENS + 1)), chunk([], TOKENS), chunked(b"data: [DONE]\n\n") + END]


def event(kind: str, **data: object) -> bytes:
    return chunked(b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind} | data)))


def message_frames(model: str) -> list[bytes]:
    counts = {"input_tokens": PROMPT_TOKENS, "output_tokens": TOKENS}
    message: dict[str, object] = {
        "id": "chatcmpl-mock",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
    }
    message |= {"stop_reason": None, "stop_sequence": None, "usage": counts | {"output_tokens": 0}}
    opening = [
        event("message_start", message=message),
        event("content_block_start", content_block={"type": "text", "text": ""}, index=0),
    ]
    texts = [event("content_block_delta", delta={"type": "text_delta", "text": word}, index=0) for word in WORDS]
    delta = {"stop_reason": "max_tokens", "stop_sequence": None}
    ending = [event("content_block_stop", index=0), event("message_delta", delta=delta, usage=counts)]
    return [*opening, *texts, *ending, event("message_stop") + END]


def response_frames(model: str) -> list[bytes]:
    text = "".join(WORDS)
    item = {"id": "msg_mock", "role": "assistant", "type": "message"}
    part = {"annotations": [], "type": "output_text", "logprobs": []}
    whole_item = item | {"content": [part | {"text": text}], "status": "completed"}
    response = {"id": "resp_mock", "object": "response", "created_at": 1, "model": model, "output": [], "tools": []}
    begun = response | {"status": "in_progress", "usage": None}
    counts = {"input_tokens": PROMPT_TOKENS, "output_tokens": TOKENS, "total_tokens": PROMPT_TOKENS + TOKENS}
    ended = response | {"status": "completed", "output": [whole_item], "usage": counts}
    place = {"content_index": 0, "item_id": "msg_mock", "output_index": 0}
    told: list[tuple[str, dict[str, object]]] = [
        ("created", {"response": begun}),
        ("in_progress", {"response": begun}),
        ("output_item.added", {"item": item | {"content": [], "status": "in_progress"}, "output_index": 0}),
        ("content_part.added", place | {"part": part | {"text": ""}}),
        *(("output_text.delta", place | {"delta": word, "logprobs": []}) for word in WORDS),
        ("output_text.done", place | {"text": text, "logprobs": []}),
        ("content_part.done", place | {"part": part | {"text": text}}),
        ("output_item.done", {"item": whole_item, "output_index": 0}),
        ("completed", {"response": ended}),
    ]
    sent = []
    for number, (name, data) in enumerate(told):
        kind = f"response.{name}"
        line = orjson.dumps(data | {"sequence_number": number, "type": kind})  # the type last, as vLLM has it
        sent.append(chunked(b"event: %b\ndata: %b\n\n" % (kind.encode(), line)))
    return [*sent[:-1], sent[-1] + END]


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


MODELS = ("burst", "paced", "brief")
ANSWERS = {model: answer(model) for model in MODELS}
STREAMS = {
    b"POST /v1/chat": {model: chat_frames(model) for model in MODELS},
    b"POST /v1/mess": {model: message_frames(model) for model in MODELS},
    b"POST /v1/resp": {model: response_frames(model) for model in MODELS},
}
"""By the beginning of the request."""
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LIST = whole(orjson.dumps({"object": "list", "data": [{"id": name, "max_model_len": 28672} for name in MODELS]}))


class Mock(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not end or len(body) < (int(found[1]) if found else 0):
            return
        self._data = b""
        self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        streams = STREAMS.get(head[:13])
        if streams is None or head.startswith(b"POST /v1/messages/"):
            return self._transport.write(LIST if b"/v1/models" in head[:40] else whole(b""))
        model = "paced" if b'"paced"' in body else "burst"
        if b'"brief"' in body:
            asyncio.get_running_loop().call_later(TOKEN_S, self._transport.write, ANSWERS["brief"])
            return None
        if b'"stream":true' not in body and b'"stream": true' not in body:
            return self._transport.write(ANSWERS[model])
        self._transport.write(STREAM_HEAD)
        if model == "burst":
            return self._transport.writelines(streams[model])
        *tokens, last, usage_frame, end = streams[model]
        self._pace(iter([*tokens, last + usage_frame + end]), FIRST_TOKEN_S)  # it takes a GPU no time to say so
        return None

    def _pace(self, rest: Iterator[bytes], wait_s: float) -> None:
        loop = asyncio.get_running_loop()

        def send() -> None:
            frame = next(rest, None)
            if frame is not None and not self._transport.is_closing():
                self._transport.write(frame)
                loop.call_later(TOKEN_S, send)

        loop.call_later(wait_s, send)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
