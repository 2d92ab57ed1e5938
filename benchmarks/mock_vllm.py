"""A vLLM-shaped upstream that costs almost nothing, so that a benchmark measures the gateway.

    python benchmarks/mock_vllm.py PORT

The model named in the request chooses the pace: `burst` answers at once (a stream sends its frames back to back);
`paced` brings its first token after 0.2 s and then one every 20 ms, like a busy GPU.
"""

import asyncio
import re
import sys
from collections.abc import Iterator
from typing import cast

import orjson
import uvloop

TOKENS, PROMPT_TOKENS = 64, 12
FIRST_TOKEN_S, TOKEN_S = 0.2, 0.02
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": PROMPT_TOKENS, "total_tokens": PROMPT_TOKENS + tokens, "completion_tokens": tokens}


def answer(model: str) -> bytes:
    message = {"role": "assistant", "content": "".join(f"tok{number} " for number in range(TOKENS))}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    body = {"id": "chatcmpl-mock", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    return whole(orjson.dumps(body | {"usage": usage(TOKENS)}))


def frames(model: str) -> list[bytes]:
    def chunk(choices: list[dict[str, object]], tokens: int) -> bytes:
        body = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": model}
        data = b"data: " + orjson.dumps(body | {"choices": choices, "usage": usage(tokens)}) + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(data), data)

    def token(number: int) -> bytes:
        delta = {"content": f"tok{number} "} if number else {"role": "assistant", "content": ""}
        finish = "length" if number == TOKENS else None
        return chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}], number)

    return [*(token(number) for number in range(TOKENS + 1)), chunk([], TOKENS), b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


MODELS = ("burst", "paced")
ANSWERS = {model: answer(model) for model in MODELS}
FRAMES = {model: frames(model) for model in MODELS}
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
        if not head.startswith(b"POST /v1/chat"):
            return self._transport.write(LIST if b"/v1/models" in head[:40] else whole(b""))
        model = "paced" if b'"paced"' in body else "burst"
        if b'"stream":true' not in body and b'"stream": true' not in body:
            return self._transport.write(ANSWERS[model])
        self._transport.write(STREAM_HEAD)
        if model == "burst":
            return self._transport.writelines(FRAMES[model])
        *tokens, last, usage_frame, end = FRAMES[model]
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
