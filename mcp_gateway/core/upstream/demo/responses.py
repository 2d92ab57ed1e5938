"""vLLM's Responses API as the demo has it: a request becomes a chat, and what the chat says, items and events."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from mcp_gateway.core.json_bounds import dump_json
from mcp_gateway.core.surfaces.responses_as_chat import functions_of, messages_of
from mcp_gateway.core.upstream.demo.reply import Step

_SAME = (
    "frequency_penalty", "ignore_eos", "logit_bias", "model", "parallel_tool_calls", "presence_penalty",
    "repetition_penalty", "seed", "stop", "structured_outputs", "temperature", "top_k", "top_p", "user",
)  # fmt: skip
"""Fields that a chat has by the same name."""
_FORMATS = ("text", "json_object", "json_schema")


class ResponsesRequest(BaseModel):
    """The body of a Responses request; what is not named here is looked at as a chat's, or ignored."""

    model_config = ConfigDict(extra="allow", frozen=True)

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: int | None = None
    request_id: str | None = None
    stream: bool | None = False


def chat_of(body: dict[str, Any]) -> dict[str, Any]:
    """The chat that says the same."""
    chat = {name: body[name] for name in _SAME if name in body}
    chat |= {"messages": messages_of(body), "max_tokens": body.get("max_output_tokens")}
    if tools := functions_of(body):
        chat |= {"tools": tools, "tool_choice": _choice_of(body.get("tool_choice"))}
    if (wanted := _format_of(body.get("text"))) is not None:
        chat["response_format"] = wanted
    return chat


def _choice_of(choice: Any) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        return choice.get("mode")
    return {"type": "function", "function": {"name": choice.get("name")}}


def _format_of(text: Any) -> dict[str, Any] | None:
    wanted = text.get("format") if isinstance(text, dict) else None
    if not isinstance(wanted, dict) or wanted.get("type") not in _FORMATS:
        return None
    return {"type": wanted["type"], "json_schema": {"name": wanted.get("name"), "schema": wanted.get("schema")}}


class Telling:
    """Turns the steps of a chat's reply into one response, event by event; `response` is what it has come to."""

    def __init__(self, id_: str, created_at_s: int, model: str, prompt_tokens: int, body: dict[str, Any]) -> None:
        self._id = id_
        self._prompt_tokens = prompt_tokens
        self._number = 0
        self._item: dict[str, Any] | None = None
        self._text = ""
        self.response = _begun(id_, created_at_s, model, body)

    def events(self, steps: Iterable[Step]) -> Iterator[tuple[int, bytes]]:
        """Each event with the number of tokens that there are by then."""
        yield 0, self._event("response.created", response=self.response)
        yield 0, self._event("response.in_progress", response=self.response)
        for step in steps:
            for event in self._said(step):
                yield step.completion_tokens, event
            if step.finish_reason is not None:
                yield from ((step.completion_tokens, event) for event in self._ended(step))

    def _said(self, step: Step) -> Iterator[bytes]:
        if text := step.delta.get("content"):
            if self._item is None or self._item["type"] != "message":
                yield from self._message_added()
            self._text += text
            yield self._event("response.output_text.delta", **self._place, content_index=0, delta=text, logprobs=[])
        for call in step.delta.get("tool_calls") or ():
            function = call["function"]
            if "name" in function:
                yield from self._call_added(call["id"], function["name"])
            if piece := function.get("arguments"):
                self._text += piece
                yield self._event("response.function_call_arguments.delta", **self._place, delta=piece)

    def _ended(self, step: Step) -> Iterator[bytes]:
        """vLLM calls an answer that was cut `completed` by its event, and `incomplete` by its status."""
        yield from self._item_done()
        is_cut = step.finish_reason == "length"
        self.response |= {
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "usage": _usage(self._prompt_tokens, step.completion_tokens),
        }
        yield self._event("response.completed", response=self.response)

    def _message_added(self) -> Iterator[bytes]:
        yield from self._item_done()
        self._item = {"type": "message", "role": "assistant", "status": "in_progress", "content": [], "phase": None}
        yield self._added("msg")
        yield self._event("response.content_part.added", **self._place, content_index=0, part=_part(""))

    def _call_added(self, call_id: str, name: str) -> Iterator[bytes]:
        yield from self._item_done()
        self._item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": ""}
        self._item["status"] = "in_progress"
        yield self._added("fc")

    def _added(self, kind: str) -> bytes:
        assert self._item is not None
        self._text = ""
        self._item["id"] = f"{kind}_{self._id.removeprefix('resp_')}_{len(self.response['output'])}"
        return self._event("response.output_item.added", output_index=len(self.response["output"]), item=self._item)

    def _item_done(self) -> Iterator[bytes]:
        item = self._item
        if item is None:
            return
        if item["type"] == "message":
            item["content"] = [_part(self._text)]
            yield self._event("response.output_text.done", **self._place, content_index=0, text=self._text, logprobs=[])
            yield self._event("response.content_part.done", **self._place, content_index=0, part=_part(self._text))
        else:
            item["arguments"] = self._text
            told = {"name": item["name"], "arguments": self._text}
            yield self._event("response.function_call_arguments.done", **self._place, **told)
        item["status"] = "completed"
        yield self._event("response.output_item.done", output_index=len(self.response["output"]), item=item)
        self.response["output"].append(item)
        self._item = None

    @property
    def _place(self) -> dict[str, Any]:
        assert self._item is not None
        return {"item_id": self._item["id"], "output_index": len(self.response["output"])}

    def _event(self, kind: str, **told: Any) -> bytes:
        event = {**told, "sequence_number": self._number, "type": kind}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), dump_json(event))


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _begun(id_: str, created_at_s: int, model: str, body: dict[str, Any]) -> dict[str, Any]:
    """What vLLM tells of a response at its beginning, key by key in its order."""
    return {
        "id": id_,
        "created_at": created_at_s,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata"),
        "model": model,
        "object": "response",
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "temperature": body.get("temperature", 1.0),
        "tool_choice": body.get("tool_choice", "auto" if body.get("tools") else "none"),
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "background": False,
        "max_output_tokens": body.get("max_output_tokens"),
        "max_tool_calls": body.get("max_tool_calls"),
        "previous_response_id": None,
        "prompt": None,
        "reasoning": body.get("reasoning"),
        "service_tier": "auto",
        "status": "in_progress",
        "text": body.get("text"),
        "top_logprobs": body.get("top_logprobs"),
        "truncation": body.get("truncation", "disabled"),
        "usage": None,
        "user": body.get("user"),
        "presence_penalty": body.get("presence_penalty", 0.0),
        "frequency_penalty": body.get("frequency_penalty", 0.0),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }
