"""What a model says, in the shape of each API as vLLM has it: in one piece, or as the events of a stream."""

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

PROMPT_TOKENS, COMPLETION_TOKENS = 10, 5
Call = tuple[str, str]
"""The name of a tool, and its arguments."""


@dataclass(frozen=True)
class Said:
    """The answer of a model."""

    text: str = ""
    thought: str = ""
    calls: tuple[Call, ...] = ()
    is_cut: bool = False
    goes_on: bool = False
    """Whether there would be more of it."""


class Shape(Protocol):
    """How an API tells an answer; the last `ending` events of a stream are those that end it."""

    ending: int

    def answer(self, said: Said) -> dict[str, Any]: ...

    def stream(self, said: Said) -> list[bytes]: ...


def _event(data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), orjson.dumps(data))


class Chat:
    """Chat completions: every chunk tells the usage so far, since the gateway asks for it."""

    ending = 2

    def answer(self, said: Said) -> dict[str, Any]:
        message = {"role": "assistant", "content": said.text, "reasoning": said.thought or None}
        return self._about(
            "chat.completion",
            [{"index": 0, "message": message | self._calls(said), "finish_reason": self._reason(said)}],
            COMPLETION_TOKENS,
        )

    def stream(self, said: Said) -> list[bytes]:
        thought = [{"reasoning": said.thought}] if said.thought else []
        text = [{"content": said.text}] if said.text else []
        deltas = [{"role": "assistant", "content": ""}, *thought, *text, self._calls(said)]
        choices: list[dict[str, Any]] = [{"index": 0, "delta": one, "finish_reason": None} for one in deltas if one]
        choices[-1]["finish_reason"] = self._reason(said)
        told = [self._chunk([choice], number) for number, choice in enumerate(choices)]
        return [*told, self._chunk([], COMPLETION_TOKENS), b"data: [DONE]\n\n"]

    @staticmethod
    def _reason(said: Said) -> str | None:
        if said.goes_on:
            return None
        return "tool_calls" if said.calls else "length" if said.is_cut else "stop"

    @staticmethod
    def _calls(said: Said) -> dict[str, Any]:
        calls = [
            {"index": index, "id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": given}}
            for index, (name, given) in enumerate(said.calls)
        ]
        return {"tool_calls": calls} if calls else {}

    def _chunk(self, choices: list[Any], completion_tokens: int) -> bytes:
        about = self._about("chat.completion.chunk", choices, completion_tokens)
        return b"data: %b\n\n" % orjson.dumps(about)

    @staticmethod
    def _about(kind: str, choices: list[Any], completion_tokens: int) -> dict[str, Any]:
        total = PROMPT_TOKENS + completion_tokens
        usage = {"prompt_tokens": PROMPT_TOKENS, "total_tokens": total, "completion_tokens": completion_tokens}
        return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m", "choices": choices, "usage": usage}


class Completion(Chat):
    """Text that goes on: no thought and no calls."""

    def answer(self, said: Said) -> dict[str, Any]:
        return self._about("text_completion", [self._choice(said)], COMPLETION_TOKENS)

    def stream(self, said: Said) -> list[bytes]:
        return [self._chunk([self._choice(said)], 1), self._chunk([], COMPLETION_TOKENS), b"data: [DONE]\n\n"]

    def _choice(self, said: Said) -> dict[str, Any]:
        return {"index": 0, "text": said.text, "logprobs": None, "finish_reason": self._reason(said)}


class Messages:
    """Anthropic's, of which vLLM tells the output's length at the end alone."""

    ending = 2

    def answer(self, said: Said) -> dict[str, Any]:
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": COMPLETION_TOKENS}
        return self._message(self._blocks(said)) | {"stop_reason": self._reason(said), "usage": usage}

    def stream(self, said: Said) -> list[bytes]:
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": COMPLETION_TOKENS}
        begun = self._message([]) | {"stop_reason": None, "usage": usage | {"output_tokens": 0}}
        blocks = [event for index, block in enumerate(self._blocks(said)) for event in self._block(index, block)]
        delta = {"stop_reason": self._reason(said), "stop_sequence": None}
        return [
            _event({"type": "message_start", "message": begun}),
            *blocks,
            _event({"type": "message_delta", "delta": delta, "usage": usage}),
            _event({"type": "message_stop"}),
        ]

    @staticmethod
    def _reason(said: Said) -> str:
        return "tool_use" if said.calls else "max_tokens" if said.is_cut else "end_turn"

    @staticmethod
    def _message(content: list[Any]) -> dict[str, Any]:
        return {"id": "chatcmpl-1", "type": "message", "role": "assistant", "model": "m", "content": content,
                "stop_sequence": None}  # fmt: skip

    @staticmethod
    def _blocks(said: Said) -> list[dict[str, Any]]:
        thought = [{"type": "thinking", "thinking": said.thought, "signature": "c2ln"}] if said.thought else []
        text = [{"type": "text", "text": said.text}] if said.text else []
        calls = [
            {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": orjson.loads(given)}
            for index, (name, given) in enumerate(said.calls)
        ]
        return [*thought, *text, *calls]

    @staticmethod
    def _block(index: int, block: dict[str, Any]) -> list[bytes]:
        match block:
            case {"type": "thinking"}:
                told = {"type": "thinking", "thinking": ""}
                delta = {"type": "thinking_delta", "thinking": block["thinking"]}
            case {"type": "text"}:
                told, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}
            case _:
                told = block | {"input": {}}
                delta = {"type": "input_json_delta", "partial_json": orjson.dumps(block["input"]).decode()}
        return [
            _event({"type": "content_block_start", "index": index, "content_block": told}),
            _event({"type": "content_block_delta", "index": index, "delta": delta}),
            _event({"type": "content_block_stop", "index": index}),
        ]


class Responses:
    """OpenAI's newer API, whose last event holds the whole answer."""

    ending = 1

    def answer(self, said: Said) -> dict[str, Any]:
        total = PROMPT_TOKENS + COMPLETION_TOKENS
        usage = {"input_tokens": PROMPT_TOKENS, "output_tokens": COMPLETION_TOKENS, "total_tokens": total}
        reason = {"reason": "max_output_tokens"} if said.is_cut else None
        status = "incomplete" if said.is_cut else "completed"
        told = {"status": status, "incomplete_details": reason, "output": self._items(said), "usage": usage}
        return self._response() | told

    def stream(self, said: Said) -> list[bytes]:
        begun = self._response() | {"status": "in_progress", "output": [], "usage": None}
        items = [event for index, item in enumerate(self._items(said)) for event in self._item(index, item)]
        last = {"type": "response.completed", "response": self.answer(said)}
        told = [{"type": "response.created", "response": begun}, *items, last]
        return [_event(event | {"sequence_number": number}) for number, event in enumerate(told)]

    @staticmethod
    def _response() -> dict[str, Any]:
        return {"id": "resp_1", "object": "response", "created_at": 1, "model": "m"}

    @staticmethod
    def _items(said: Said) -> list[dict[str, Any]]:
        thought = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": said.thought}]}
        part = {"type": "output_text", "text": said.text, "annotations": []}
        message = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part], "status": "completed"}
        calls = [
            {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "name": name,
             "arguments": given, "status": "completed"}
            for index, (name, given) in enumerate(said.calls)
        ]  # fmt: skip
        return [*([thought] if said.thought else []), *([message] if said.text else []), *calls]

    @staticmethod
    def _item(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
        """An item that begins empty, what it holds, and its end."""
        place = {"item_id": item["id"], "output_index": index}
        match item["type"]:
            case "message":
                place |= {"content_index": 0}
                (part,) = item["content"]
                empty: dict[str, Any] = {"content": []}
                told = [
                    {"type": "response.content_part.added", "part": part | {"text": ""}},
                    {"type": "response.output_text.delta", "delta": part["text"], "logprobs": []},
                    {"type": "response.output_text.done", "text": part["text"], "logprobs": []},
                    {"type": "response.content_part.done", "part": part},
                ]
            case "reasoning":
                place |= {"summary_index": 0}
                (part,) = item["summary"]
                empty = {"summary": []}
                told = [
                    {"type": "response.reasoning_summary_part.added", "part": part | {"text": ""}},
                    {"type": "response.reasoning_summary_text.delta", "delta": part["text"]},
                    {"type": "response.reasoning_summary_text.done", "text": part["text"]},
                    {"type": "response.reasoning_summary_part.done", "part": part},
                ]
            case _:
                empty = {"arguments": "", "status": "in_progress"}
                told = [
                    {"type": "response.function_call_arguments.delta", "delta": item["arguments"]},
                    {"type": "response.function_call_arguments.done", "arguments": item["arguments"]},
                ]
        begun = {"type": "response.output_item.added", "output_index": index, "item": item | empty}
        ended = {"type": "response.output_item.done", "output_index": index, "item": item}
        return [begun, *(event | place for event in told), ended]


SHAPES: dict[str, Shape] = {
    "/v1/chat/completions": Chat(),
    "/v1/completions": Completion(),
    "/v1/messages": Messages(),
    "/v1/responses": Responses(),
}
