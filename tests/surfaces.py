"""Each surface as tests speak it: what its client sends and reads, and what its backend answers.

A further surface is a class here and its place in SPOKEN; the suites of all surfaces then have it. The tool over MCP
stands beside them: its client speaks otherwise, and its backend is asked for a chat.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import httpx2
import orjson
import pytest

from mcp_gateway.core.dialects.vllm import Vllm
from mcp_gateway.core.errors import TABLE, Code
from mcp_gateway.core.surfaces.chat import CHAT
from mcp_gateway.core.surfaces.completions import COMPLETIONS
from mcp_gateway.core.surfaces.embeddings import EMBEDDINGS
from mcp_gateway.core.surfaces.input_answer import usage_in as usage_of_input
from mcp_gateway.core.surfaces.message_usage import usage_in as usage_of_message
from mcp_gateway.core.surfaces.messages import MESSAGES
from mcp_gateway.core.surfaces.response_object import usage_of as usage_of_response
from mcp_gateway.core.surfaces.responses import RESPONSES
from mcp_gateway.core.surfaces.scores import RERANK, SCORE
from mcp_gateway.core.surfaces.surface import Surface
from mcp_gateway.core.surfaces.usage import Usage, read_usage
from tests.captured import Capture, captured, captures
from tests.replaying import DONE, Answer, Asked, chunk, events, final_usage, split_events, usage, whole
from tests.serving import Door, error_of

MODEL = "priced/tiny"


class Spoken:
    """What all have in common, and OpenAI's words, which most speak.

    `answered`, `busy` and `unknown` name captures: an answer in one piece, a full queue, a model that is not there.
    """

    surface: Surface
    path: str
    answered: str
    busy = "863_queue_full"
    unknown = "300_unknown_model"
    headers: ClassVar[Mapping[str, str]] = {}
    limit_field = "max_tokens"
    details_field = "prompt_tokens_details"
    has_streams = True
    is_generated = True
    is_collected = False
    """Whether a long answer in one piece is asked of a backend as a stream."""
    held_back = 0
    """Events of a stream that are told only with the next."""
    last_bytes = DONE
    """The end of a stream, however it ends."""
    failed_with = "backend_died"
    """What the end of a stream whose backend went away calls it."""
    words: ClassVar[Mapping[str, str]] = {}
    """What it calls our codes by, where it has a word of its own."""

    def __repr__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return self.surface.name

    # What a client sends

    def asked(self, text: str) -> dict[str, Any]:
        """The fields that bear the prompt."""
        raise NotImplementedError

    def body(self, text: str = "hello", *, is_stream: bool = False, **fields: Any) -> dict[str, Any]:
        """A request for at most 16 tokens of the priced model, unless `fields` say otherwise."""
        limit = {self.limit_field: 16} if self.is_generated else {}
        return {"model": MODEL} | self.asked(text) | limit | (self.streaming() if is_stream else {}) | fields

    def streaming(self) -> dict[str, Any]:
        """The fields that ask for a stream with its usage."""
        return {"stream": True}

    @property
    def sent_headers(self) -> dict[str, str]:
        """What a client sends beside its key."""
        named = {name.replace("_", "-"): value for name, value in self.headers.items()}
        return {"content-type": "application/json"} | named

    async def ask(self, door: Door, key: str | None, **fields: Any) -> httpx2.Response:
        return await door.post(orjson.dumps(self.body(**fields)), key, self.path, **self.headers)

    # What its backend answers

    @property
    def upstream(self) -> str:
        """Where the backend is asked."""
        return Vllm().translations[self.surface.name].path

    def exchanges(self) -> list[Capture]:
        """What was captured there of a real server."""
        return [one for one in captures() if one.method == "POST" and one.path.partition("?")[0] == self.upstream]

    def whole(self, prompt_tokens: int = 10, output_tokens: int = 4, text: str = "hello") -> bytes:
        """An answer in one piece."""
        told = orjson.loads(captured(self.answered).body)
        self.put(text, told)
        return orjson.dumps(told | {"usage": self.usage(prompt_tokens, output_tokens)})

    def put(self, text: str, told: dict[str, Any]) -> None:
        """Have an answer in one piece say this."""
        raise NotImplementedError

    def usage(self, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
        return usage(prompt_tokens, output_tokens)

    def broken_off(self) -> bytes:
        """An answer in one piece that the backend stopped, as vLLM does when it shuts down."""
        raise NotImplementedError

    def opening(self, prompt_tokens: int = 10) -> list[bytes]:
        """The events of a stream before its first token."""
        return []

    def token(self, number: int, prompt_tokens: int = 10, text: str = "x") -> bytes:
        """The event of a token; the first is number 1."""
        raise NotImplementedError

    def ending(self, prompt_tokens: int = 10, output_tokens: int = 4) -> list[bytes]:
        """The events behind the last token."""
        raise NotImplementedError

    def stream(self, prompt_tokens: int = 10, output_tokens: int = 4, text: str = "x") -> list[bytes]:
        """The events of a whole stream."""
        tokens = [self.token(number, prompt_tokens, text) for number in range(1, output_tokens + 1)]
        return [*self.opening(prompt_tokens), *tokens, *self.ending(prompt_tokens, output_tokens)]

    def aborted(self) -> list[bytes]:
        """The end of a stream that it stopped."""
        raise NotImplementedError

    # What a client reads

    def events(self, stream: bytes) -> list[dict[str, Any]]:
        """The data of each whole event so far, `[DONE]` left out."""
        lines = stream[: stream.rfind(b"\n\n") + 2].split(b"\n")
        data = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
        return [orjson.loads(piece) for piece in data if piece != b"[DONE]"]

    def pieces(self, stream: bytes) -> list[str]:
        """The texts of the events that bring any."""
        return [text for event in self.events(stream) if (text := self.piece(event))]

    def piece(self, event: dict[str, Any]) -> str:
        raise NotImplementedError

    def answer(self, response: httpx2.Response) -> dict[str, Any]:
        """An answer in one piece."""
        assert response.status_code == 200, response.text
        told: dict[str, Any] = response.json()
        return told

    def usage_in(self, told: dict[str, Any]) -> Usage | None:
        """The usage that an answer in one piece tells, or an event."""
        return read_usage(told.get("usage"))

    def told(self, response: httpx2.Response, *, is_stream: bool) -> tuple[Usage | None, str]:
        """The usage and the cost in USD that a whole answer told."""
        if not is_stream:
            return self.usage_in(self.answer(response)), self.cost_in(response)
        last = next(event for event in reversed(self.events(response.content)) if self.usage_in(event) is not None)
        return self.usage_in(last), last.get("response", last)["usage"]["cost_usd"]

    def cost_in(self, response: httpx2.Response) -> str:
        return response.headers["x-cost-usd"]

    def request_id_in(self, response: httpx2.Response) -> str:
        return response.headers["x-request-id"]

    def clamped_to(self, response: httpx2.Response) -> int:
        return int(response.headers["x-max-tokens-clamped"])

    def refusal_of(self, response: httpx2.Response) -> str | None:
        """What a refusal calls what is wrong, once its shape was looked at; None for an answer."""
        return None if response.status_code == 200 else str(error_of(response)["code"])

    def word_for(self, code: str) -> str:
        return self.words.get(code, code)

    def failure_in(self, event: dict[str, Any]) -> str | None:
        """What an event that ends a stream by a failure calls it."""
        return event["error"]["code"] if event.get("error") else None


class Chat(Spoken):
    surface: Surface = CHAT
    path = "/v1/chat/completions"
    is_collected = True
    answered = "100_chat"

    def asked(self, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}]}

    def streaming(self) -> dict[str, Any]:
        return {"stream": True, "stream_options": {"include_usage": True}}

    def put(self, text: str, told: dict[str, Any]) -> None:
        told["choices"][0]["message"]["content"] = text

    def broken_off(self) -> bytes:
        told = orjson.loads(self.whole())
        told["choices"][0]["finish_reason"] = "abort"
        return orjson.dumps(told)

    def opening(self, prompt_tokens: int = 10) -> list[bytes]:
        return [chunk("", prompt_tokens, 0)]

    def token(self, number: int, prompt_tokens: int = 10, text: str = "x") -> bytes:
        return chunk(text, prompt_tokens, number)

    def ending(self, prompt_tokens: int = 10, output_tokens: int = 4) -> list[bytes]:
        return [chunk("", prompt_tokens, output_tokens, "stop"), final_usage(prompt_tokens, output_tokens), DONE]

    def aborted(self) -> list[bytes]:
        return [chunk("", 10, 2, "abort"), DONE]

    def piece(self, event: dict[str, Any]) -> str:
        return "".join(choice.get("delta", {}).get("content") or "" for choice in event.get("choices", ()))


class Completions(Chat):
    surface = COMPLETIONS
    path = "/v1/completions"
    answered = "500_completion"
    busy = "865_queue_full_completions"
    unknown = "512_completion_unknown_model"

    def asked(self, text: str) -> dict[str, Any]:
        return {"prompt": text}

    def put(self, text: str, told: dict[str, Any]) -> None:
        told["choices"][0]["text"] = text

    def opening(self, prompt_tokens: int = 10) -> list[bytes]:
        return []

    def token(self, number: int, prompt_tokens: int = 10, text: str = "x") -> bytes:
        return text_part(text, 0, prompt_tokens, number)

    def ending(self, prompt_tokens: int = 10, output_tokens: int = 4) -> list[bytes]:
        last = text_part("", 0, prompt_tokens, output_tokens, "stop")
        return [last, text_total(prompt_tokens, output_tokens), DONE]

    def aborted(self) -> list[bytes]:
        return [text_part("", 0, 10, 2, "abort"), DONE]

    def piece(self, event: dict[str, Any]) -> str:
        return "".join(choice.get("text") or "" for choice in event.get("choices", ()))


class Inputs(Spoken):
    """What is only read, and never streamed."""

    has_streams = False
    is_generated = False

    def usage_in(self, told: dict[str, Any]) -> Usage | None:
        return usage_of_input(told.get("usage"))


class Embeddings(Inputs):
    surface = EMBEDDINGS
    path = "/v1/embeddings"
    answered = "955_embed_base64"
    unknown = "960_embed_unknown_model"

    def asked(self, text: str) -> dict[str, Any]:
        return {"input": text}

    def put(self, text: str, told: dict[str, Any]) -> None:
        told["data"][0]["embedding"] = text


class Rerank(Inputs):
    surface = RERANK
    path = "/v1/rerank"
    answered = "973_rerank"

    def asked(self, text: str) -> dict[str, Any]:
        return {"query": text, "documents": [text]}

    def put(self, text: str, told: dict[str, Any]) -> None:
        told["results"][0]["document"]["text"] = text


class Score(Inputs):
    surface = SCORE
    path = "/v1/score"
    answered = "972_score"

    def asked(self, text: str) -> dict[str, Any]:
        return {"text_1": text, "text_2": text}

    def put(self, text: str, told: dict[str, Any]) -> None:
        told["data"][0]["object"] = text


class Messages(Spoken):
    surface = MESSAGES
    path = "/v1/messages"
    answered = "540_messages"
    busy = "866_queue_full_messages"
    unknown = "542_messages_unknown_model"
    words: ClassVar[Mapping[str, str]] = {
        "insufficient_balance": "billing_error",
        "budget_exhausted": "billing_error",
        "balance_held": "rate_limit_error",
        "backend_busy": "overloaded_error",
        "model_unavailable": "overloaded_error",
        "ledger_unavailable": "overloaded_error",
        "model_not_found": "not_found_error",
    }
    failed_with = "api_error"
    last_bytes = b"}\n\n"

    def asked(self, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}]}

    def put(self, text: str, told: dict[str, Any]) -> None:
        told["content"][0]["text"] = text

    def broken_off(self) -> bytes:
        return orjson.dumps(orjson.loads(self.whole()) | {"stop_reason": None})

    def usage(self, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
        return {"input_tokens": prompt_tokens, "output_tokens": output_tokens}

    def opening(self, prompt_tokens: int = 10) -> list[bytes]:
        start, block = split_events(captured("541_messages_stream").body)[:2]
        return [start.replace(b'"input_tokens":14', b'"input_tokens":%d' % prompt_tokens), block]

    def token(self, number: int, prompt_tokens: int = 10, text: str = "x") -> bytes:
        return message_text(text)

    def ending(self, prompt_tokens: int = 10, output_tokens: int = 4) -> list[bytes]:
        used = self.usage(prompt_tokens, output_tokens)
        return [message_event("content_block_stop", index=0), message_ending(**used), message_event("message_stop")]

    def aborted(self) -> list[bytes]:
        return [message_ending(None, **self.usage(10, 2)), message_event("message_stop")]

    def piece(self, event: dict[str, Any]) -> str:
        return str(event.get("delta", {}).get("text", ""))

    def usage_in(self, told: dict[str, Any]) -> Usage | None:
        return usage_of_message(told.get("usage"))

    def refusal_of(self, response: httpx2.Response) -> str | None:
        if response.status_code == 200:
            return None
        body = response.json()
        assert body.keys() == {"type", "error", "request_id"}
        assert (body["type"], body["error"].keys()) == ("error", {"type", "message"})
        assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
        return str(body["error"]["type"])

    def word_for(self, code: str) -> str:
        return self.words.get(code, "invalid_request_error" if TABLE[cast(Code, code)].status == 400 else "api_error")

    def failure_in(self, event: dict[str, Any]) -> str | None:
        return event["error"]["type"] if event["type"] == "error" else None


class Responses(Spoken):
    surface = RESPONSES
    path = "/v1/responses"
    answered = "520_responses"
    busy = "867_queue_full_responses"
    unknown = "522_responses_unknown_model"
    limit_field = "max_output_tokens"
    details_field = "input_tokens_details"
    is_collected = True
    words: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("insufficient_balance", "budget_exhausted"), "insufficient_quota"
    )
    failed_with = "server_error"
    last_bytes = b"}\n\n"
    held_back = 2
    _opening = 4

    def asked(self, text: str) -> dict[str, Any]:
        return {"input": text}

    def whole(self, prompt_tokens: int = 10, output_tokens: int = 4, text: str = "hello") -> bytes:
        return orjson.dumps(orjson.loads(super().whole(prompt_tokens, output_tokens, text)) | {"status": "completed"})

    def put(self, text: str, told: dict[str, Any]) -> None:
        told["output"][0]["content"][0]["text"] = text

    def broken_off(self) -> bytes:
        return orjson.dumps(orjson.loads(self.whole()) | {"status": "cancelled"})

    def usage(self, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
        return {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + output_tokens,
        }

    def opening(self, prompt_tokens: int = 10) -> list[bytes]:
        return split_events(captured("521_responses_stream").body)[: self._opening]

    def token(self, number: int, prompt_tokens: int = 10, text: str = "x") -> bytes:
        delta = split_events(captured("521_responses_stream").body)[self._opening]
        return _retold(delta, delta=text, sequence_number=self._opening + number - 1)

    def ending(self, prompt_tokens: int = 10, output_tokens: int = 4) -> list[bytes]:
        *rest, last = split_events(captured("521_responses_stream").body)[self._opening + 2 :]
        response = _data_of(last)["response"]
        response |= {"status": "completed", "usage": self.usage(prompt_tokens, output_tokens)}
        told = [*rest, _retold(last, response=response)]
        first = self._opening + output_tokens
        return [_retold(one, sequence_number=number) for number, one in enumerate(told, first)]

    def aborted(self) -> list[bytes]:
        last = self.ending()[-1]
        return [_retold(last, response=_data_of(last)["response"] | {"status": "cancelled"})]

    def piece(self, event: dict[str, Any]) -> str:
        return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""

    def usage_in(self, told: dict[str, Any]) -> Usage | None:
        return usage_of_response(told.get("response", told))

    def failure_in(self, event: dict[str, Any]) -> str | None:
        return event["response"]["error"]["code"] if event["type"] == "response.failed" else None


class ChatTool(Chat):
    """A call of `chat_completion`, which is answered in one piece."""

    name = "mcp tool"
    path = "/v1/mcp"
    headers: ClassVar[Mapping[str, str]] = {"mcp_protocol_version": "2025-06-18", "accept": "application/json"}
    has_streams = False

    def body(self, text: str = "hello", *, is_stream: bool = False, **fields: Any) -> dict[str, Any]:
        params = {"name": "chat_completion", "arguments": super().body(text, **fields)}
        return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}

    def _result(self, response: httpx2.Response) -> dict[str, Any]:
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()["result"]
        return result

    def answer(self, response: httpx2.Response) -> dict[str, Any]:
        result = self._result(response)
        assert not result.get("isError"), result
        told: dict[str, Any] = result["structuredContent"]
        return told

    def cost_in(self, response: httpx2.Response) -> str:
        return str(self.answer(response)["cost_usd"])

    def request_id_in(self, response: httpx2.Response) -> str:
        return str(self.answer(response)["request_id"])

    def clamped_to(self, response: httpx2.Response) -> int:
        return int(self.answer(response)["max_tokens_clamped"])

    def refusal_of(self, response: httpx2.Response) -> str | None:
        result = self._result(response)
        return str(result["structuredContent"]["code"]) if result.get("isError") else None


SPOKEN: list[Spoken] = [
    Chat(), Completions(), Embeddings(), Rerank(), Score(), Messages(), Responses(), ChatTool(),
]  # fmt: skip
CHAT_SPOKEN = SPOKEN[0]
every_surface = pytest.mark.parametrize("spoken", SPOKEN, ids=repr)
every_generating_surface = pytest.mark.parametrize("spoken", [one for one in SPOKEN if one.is_generated], ids=repr)
every_streaming_surface = pytest.mark.parametrize("spoken", [one for one in SPOKEN if one.has_streams], ids=repr)
WAYS = [(one, is_stream) for one in SPOKEN for is_stream in ((False, True) if one.has_streams else (False,))]
every_way = pytest.mark.parametrize(
    ("spoken", "is_stream"), WAYS, ids=[f"{one!r}{' stream' if is_stream else ''}" for one, is_stream in WAYS]
)


def answers(spoken: Spoken, prompt_tokens: int = 10, output_tokens: int = 4, text: str = "x") -> Answer:
    """A whole answer with this usage, in the way it is asked for; of what generates nothing, without any output."""
    one_piece = whole(spoken.whole(prompt_tokens, output_tokens if spoken.is_generated else 0, text))

    async def answer(asked: Asked) -> None:
        is_stream = asked.json.get("stream")
        await (events(*spoken.stream(prompt_tokens, output_tokens, text)) if is_stream else one_piece)(asked)

    return answer


# Events as a backend writes them


def text_part(text: str, index: Any, prompt_tokens: int, completion_tokens: int, reason: str | None = None) -> bytes:
    """One event of a completion with continuous usage, as vLLM counts each choice with its own prompt."""
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason, "stop_reason": None}
    return _text_event([choice], prompt_tokens, completion_tokens)


def text_total(prompt_tokens: int, completion_tokens: int) -> bytes:
    return _text_event([], prompt_tokens, completion_tokens)


def _text_event(choices: list[Any], prompt_tokens: int, completion_tokens: int) -> bytes:
    told = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "tiny", "choices": choices}
    return b"data: %b\n\n" % orjson.dumps(told | {"usage": usage(prompt_tokens, completion_tokens)})


def message_event(kind: str, **data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **data}))


def message_text(said: str) -> bytes:
    return message_event("content_block_delta", delta={"type": "text_delta", "text": said}, index=0)


def message_ending(reason: str | None = "end_turn", **usage: int) -> bytes:
    return message_event("message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage=usage)


def _data_of(event: bytes) -> dict[str, Any]:
    data: dict[str, Any] = orjson.loads(event.partition(b"data: ")[2])
    return data


def _retold(event: bytes, **changed: Any) -> bytes:
    head = event.partition(b"data: ")[0]
    return b"%bdata: %b\n\n" % (head, orjson.dumps(_data_of(event) | changed))
